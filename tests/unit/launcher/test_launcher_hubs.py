"""launcher.hubs: lists are not trusted, secrets stay with their hub, and one hub is enough."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from fakes.fake_hub import (
    COMMIT,
    HUB_ID,
    LIST,
    Client,
    FakeHub,
    Fault,
    blob_sha1,
    made_by,
    sha256,
)
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from launcher.download import read_manifest
from launcher.errors import ConfigError, LauncherError
from launcher.hubs import (
    MAX_FILES,
    HuggingFace,
    Source,
    TemporaryError,
    is_safe,
    is_wanted,
    network_faults,
    proxy_for,
    redirected,
)

FILES = {"config.json": b"{}", "model.safetensors": b"1234567890", "modeling.py": b"pass\n"}
BOTH = pytest.mark.parametrize("source", ["huggingface", "modelscope"])
TOKEN = "hf_secret"
SIGNED = "https://hub.example/file?signature=secret"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(FILES) as hub:
        yield hub


@pytest.fixture
def other() -> Iterator[FakeHub]:
    """Another hub, or a CDN, on another port."""
    with FakeHub(FILES) as hub:
        yield hub


@pytest.fixture
def client(hub: FakeHub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "model")


def line_of(source: Source, path: Any, **changes: Any) -> dict[str, Any]:
    """A file of two bytes, in a hub's form."""
    if source == "modelscope":
        line = {"Path": path, "Size": 2, "Sha256": sha256(b"{}"), "Type": "blob"}
    else:
        line = {"rfilename": path, "size": 2, "blobId": blob_sha1(b"{}")}
    return line | changes


# Paths

BAD_PATHS = [
    "../config.json",
    "folder/../../config.json",
    "..",
    "/etc/passwd.json",
    "folder//config.json",
    "./config.json",
    "folder/",
    "",
    "folder\\..\\config.json",
    "C:\\config.json",
    "config.json\0.py",
    "config\n.json",
    "config\x1b[2J.json",
    "gnp.\u202eyp.json",
    "con\u200bfig.json",
    "config\ud800.json",
    " config.json",
    "folder /config.json",
    "step3vl-manifest.json",
    "folder/step3vl-manifest.json",
    ".step3vl-download.lock",
    "config.json.incomplete",
    "x.incomplete/config.json",
    f"{'x' * 241}.json",
    None,
    7,
    ["config.json"],
]


@BOTH
@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_list_with_a_bad_path_is_refused(client: Client, source: Source, path: Any) -> None:
    """Nothing is fetched, and no folder is made."""
    client.hub.more_lines = [line_of(source, path)]
    with pytest.raises(LauncherError, match=r"the path .* is not allowed"):
        client.download(source)
    assert client.hub.fetched == set()
    assert not client.folder.exists()


@BOTH
def test_a_bad_path_of_an_unwanted_file_is_refused(client: Client, source: Source) -> None:
    """Nobody writes such a list by chance."""
    client.hub.more_lines = [line_of(source, "../look.png")]
    with pytest.raises(LauncherError, match=r"the path '../look.png' is not allowed"):
        client.download(source)


@pytest.mark.parametrize(
    "path", ["config.json", "a/b/c.py", "读我.md", "a b+c%20.json", "..a", "a.."]
)
def test_a_good_path_is_good(path: str) -> None:
    """Odd, but what it looks like."""
    assert is_safe(path)


@given(st.text(alphabet=st.sampled_from("./\\\0 a\u202e\n"), max_size=12))
def test_a_safe_path_stays_in_its_folder(path: str) -> None:
    """Whatever it is made of."""
    if is_safe(path):
        parts = (Path("/folder") / path).parts
        assert parts[:2] == ("/", "folder")
        assert len(parts) == 2 + len(path.split("/"))
        assert ".." not in parts


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("chat_template.jinja", True),
        ("tokenizer.model", True),
        ("vocab.txt", True),
        ("README.md", True),
        ("LICENSE", True),
        ("folder/modeling.py", True),
        ("pytorch_model.bin", False),
        ("model.pt", False),
        ("model.onnx", False),
        ("model.gguf", False),
        ("look.png", False),
        ("json", False),
        (".hidden.json", False),
        (".folder/config.json", False),
        ("config.json/look.png", False),
    ],
)
def test_what_is_fetched(path: str, *, expected: bool) -> None:
    """By the name alone."""
    assert is_wanted(path) is expected


# Lists


@BOTH
@pytest.mark.parametrize("value", [None, -1, 1.5, True, "2", []])
def test_a_list_without_a_size_is_refused(client: Client, source: Source, value: Any) -> None:
    """How much room would be needed?"""
    name = {"modelscope": "Size", "huggingface": "size"}[source]
    client.hub.more_lines = [line_of(source, "more.json", **{name: value})]
    with pytest.raises(LauncherError, match=r"cannot be used: it has no size of 'more.json'"):
        client.download(source)


@BOTH
@pytest.mark.parametrize("value", [None, 7, "", "0" * 39, "0" * 65, "g" * 64, "g" * 40, []])
def test_a_list_without_a_hash_is_refused(client: Client, source: Source, value: Any) -> None:
    """What comes could not be checked."""
    name = {"modelscope": "Sha256", "huggingface": "blobId"}[source]
    client.hub.more_lines = [line_of(source, "more.json", **{name: value})]
    with pytest.raises(LauncherError, match=r"cannot be used: it has no hash of 'more.json'"):
        client.download(source)


@BOTH
@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "another form"),
        (None, "cannot be used"),
        ("text", "another form"),
        ({}, "cannot be used"),
        ({"sha": COMMIT, "siblings": {}, "Code": 200, "Data": {"Files": {}}}, "another form"),
        ({"sha": COMMIT, "siblings": [7], "Code": 200, "Data": {"Files": [7]}}, "another form"),
        ({"sha": COMMIT, "siblings": [], "Code": 200, "Data": []}, "cannot be used"),
        ({"sha": "main", "siblings": [], "Code": 200, "Data": {"Files": []}}, "names no commit"),
        ({"siblings": [], "Code": 200, "Data": {"Files": []}}, "names no commit"),
    ],
)
def test_an_answer_that_is_no_list_is_refused(
    client: Client, source: Source, document: Any, said: str
) -> None:
    """In one line with the hub's name."""
    client.hub.document = document
    if document is None:
        client.hub.faults[LIST] = [Fault(body=b"<html>")]
    with pytest.raises(LauncherError, match=rf"^(Hugging Face|ModelScope)'s list .*{said}"):
        client.download(source)


def test_what_modelscope_says_is_passed_on(client: Client) -> None:
    """Without its control characters, and not all of a long text."""
    client.hub.document = {"Code": 10010101, "Message": "no such\x1b[2J model" + "x" * 1000}
    with pytest.raises(LauncherError, match=r"it says 'no such\\x1b\[2J modelx{183}'$"):
        client.download("modelscope")


@BOTH
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_list_without_a_model_is_refused(client: Client, source: Source, name: str) -> None:
    """A card alone, or weights in a folder below, cannot be served."""
    client.hub.files[f"folder/{name}"] = client.hub.files.pop(name)
    with pytest.raises(LauncherError, match=r"cannot be used: it has no "):
        client.download(source)


@BOTH
def test_a_list_that_names_a_file_twice_is_refused(client: Client, source: Source) -> None:
    """Which of the two would it be?"""
    client.hub.more_lines = [line_of(source, "config.json")]
    with pytest.raises(LauncherError, match="names a file twice"):
        client.download(source)


@BOTH
def test_a_list_of_too_many_files_is_refused(client: Client, source: Source) -> None:
    """Ten thousand in all are enough for any model."""
    more = MAX_FILES - len(FILES)
    client.hub.more_lines = [line_of(source, f"{n}.png") for n in range(more)]
    client.download(source)
    client.hub.more_lines.append(line_of(source, "one-more.png"))
    with pytest.raises(LauncherError, match="10001 files are more than 10000"):
        client.download(source)


@BOTH
def test_a_list_of_too_many_bytes_is_refused(client: Client, source: Source) -> None:
    """It is not read to its end, which may never come."""
    client.hub.document = {"pad": "x" * 20_000_000}
    with pytest.raises(LauncherError, match=r"list of .* has more than 20 MB"):
        client.download(source)
    client.hub.document = None
    client.hub.faults[LIST] = [Fault(body=b"[" * 20_000_000)]
    with pytest.raises(LauncherError, match="cannot be used"):
        client.download(source)


@BOTH
def test_a_commit_that_is_asked_for_is_the_commit(client: Client, source: Source) -> None:
    """ModelScope names no head where a commit was asked for."""
    client.hub.branches = {"huggingface": COMMIT, "modelscope": COMMIT}
    if source == "modelscope":
        client.hub.document = client.hub.modelscope_list()
        client.hub.document["Data"]["LatestCommitter"] = {"Id": ""}
    manifest = client.download(source, revision=COMMIT)
    assert (manifest.revision, manifest.commit) == (COMMIT, COMMIT)


@BOTH
def test_a_revision_may_have_slashes(client: Client, source: Source) -> None:
    """It is one part of an address all the same."""
    client.hub.branches = {"huggingface": "refs%2Fpr%2F1", "modelscope": "refs/pr/1"}
    assert client.download(source, revision="refs/pr/1").revision == "refs/pr/1"


@BOTH
def test_files_come_from_the_commit_of_the_list(client: Client, source: Source) -> None:
    """Never from a branch, which may move while files are fetched."""
    client.download(source)
    targets = [seen.target for seen in client.hub.seen if seen.name]
    assert len(targets) == len(FILES)
    for seen in client.hub.seen:
        if seen.name:
            pinned = made_by(seen.name) if source == "modelscope" else COMMIT
            assert pinned in seen.target


@pytest.mark.parametrize("head", [None, {}, {"Id": ""}, {"Id": None}, {"Id": "master"}])
def test_modelscope_may_not_name_the_head(client: Client, head: Any) -> None:
    """Then the newest commit that made one of the files stands for it."""
    document = client.hub.modelscope_list()
    document["Data"]["LatestCommitter"] = head
    [newest] = [line for line in document["Data"]["Files"] if line["Path"] == "modeling.py"]
    newest["CommittedDate"] += 1
    client.hub.document = document
    assert client.download("modelscope").commit == made_by("modeling.py")


def test_hashes_may_be_written_in_capitals(client: Client) -> None:
    """Some of ModelScope's are."""
    document = json.loads(json.dumps(client.hub.modelscope_list()))
    for line in document["Data"]["Files"]:
        line["Sha256"] = line["Sha256"].upper()
    client.hub.document = document
    client.download("modelscope")
    assert client.contents() == FILES


@BOTH
def test_a_list_is_asked_for_again(client: Client, source: Source) -> None:
    """Three times in all, where the hub does not ask for a longer pause."""
    client.hub.faults[LIST] = [Fault(status=503), Fault(cut=5, body=b"0123456789")]
    client.download(source)
    assert client.pauses == [1, 2]
    client.hub.always[LIST] = Fault(status=503)
    with pytest.raises(LauncherError, match=r"gave no list of .* answered 503; try again later"):
        client.download(source)
    client.hub.seen.clear()
    client.hub.always[LIST] = Fault(status=429, headers={"Retry-After": "3"})
    with pytest.raises(LauncherError, match="answered 429; try again later"):
        client.download(source)
    assert len(client.hub.asked(LIST)) == 1


# Which hub


def two_hubs(client: Client, other: FakeHub) -> None:
    """Let the client's hub be Hugging Face, and the other one ModelScope."""
    client.environ["MODELSCOPE_ENDPOINT"] = other.url


@BOTH
def test_the_hub_that_answers_first_is_taken(
    client: Client, other: FakeHub, source: Source
) -> None:
    """The other one is not waited for."""
    two_hubs(client, other)
    slow, fast = (client.hub, other) if source == "modelscope" else (other, client.hub)
    slow.list_may_go.clear()
    assert client.download("auto").source == source
    assert client.contents() == FILES
    assert (slow.fetched, fast.fetched) == (set(), set(FILES))


@BOTH
@pytest.mark.parametrize(
    "fault", [Fault(status=404), Fault(status=403), Fault(body=b"{}"), Fault(status=503)]
)
def test_the_other_hub_is_taken_where_one_fails(
    client: Client, other: FakeHub, source: Source, fault: Fault
) -> None:
    """However it fails."""
    two_hubs(client, other)
    bad = client.hub if source == "modelscope" else other
    bad.always[LIST] = fault
    assert client.download("auto").source == source
    assert bad.fetched == set()


def test_a_hub_that_cannot_be_reached_is_one_that_fails(client: Client, other: FakeHub) -> None:
    """Nobody listens there."""
    two_hubs(client, other)
    client.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert client.download("auto").source == "modelscope"


def test_what_both_hubs_said_is_told(client: Client, other: FakeHub) -> None:
    """Where neither has the model, in one error."""
    two_hubs(client, other)
    client.hub.always[LIST] = Fault(status=401)
    other.always[LIST] = Fault(body=b'{"Code": 7, "Message": "on holiday"}')
    with pytest.raises(LauncherError) as caught:
        client.download("auto")
    assert str(caught.value).startswith(f"no hub can give {HUB_ID} at main: Hugging Face refuses")
    assert "; ModelScope's list of" in str(caught.value)
    assert str(caught.value).endswith("it says 'on holiday'")


def test_silent_hubs_are_not_waited_for(client: Client, other: FakeHub) -> None:
    """The limit is for the whole list."""
    two_hubs(client, other)
    client.list_timeout_s = 0.3
    client.hub.list_may_go.clear()
    other.faults[LIST] = [Fault(body=b"{} ", cut=1, stall=True)]
    with pytest.raises(LauncherError) as caught:
        client.download("auto")
    for title in ("Hugging Face", "ModelScope"):
        assert f"{title} gave no list of {HUB_ID} at main within 0.3 s" in str(caught.value)


@BOTH
def test_one_hub_alone_is_asked_where_it_is_named(
    client: Client, other: FakeHub, source: Source
) -> None:
    """The other one does not even learn what is wanted."""
    two_hubs(client, other)
    client.download(source)
    asked, not_asked = (client.hub, other) if source == "huggingface" else (other, client.hub)
    assert asked.seen
    assert not not_asked.seen


@BOTH
def test_a_folder_is_kept_up_from_where_it_came(
    client: Client, other: FakeHub, source: Source
) -> None:
    """The hubs' cards differ; a second download must not fetch those of the other."""
    two_hubs(client, other)
    client.hub.files["README.md"] = b"a card"
    other.files["README.md"] = b"another card"
    client.download(source)
    asked, not_asked = (client.hub, other) if source == "huggingface" else (other, client.hub)
    asked.seen.clear()
    assert client.download("auto").source == source
    assert (asked.fetched, not_asked.seen) == (set(), [])


def test_where_it_came_from_may_fail_later(client: Client, other: FakeHub) -> None:
    """Then the other hub is good enough, and what has the same hash is not fetched again."""
    two_hubs(client, other)
    other.files["README.md"] = b"another card"
    client.download("huggingface")
    client.hub.always[LIST] = Fault(status=404)
    assert client.download("auto").source == "modelscope"
    assert other.fetched == {"README.md"}


# Secrets and redirects


@BOTH
def test_the_token_is_for_the_hub_alone(client: Client, other: FakeHub, source: Source) -> None:
    """It goes with each request to the hub, and with none to the CDN."""
    name = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}[source]
    client.environ[name] = f"{TOKEN}\n"
    for file in FILES:
        client.hub.always[file] = Fault(redirect=other.url + other.cdn_target(file))
    client.download(source)
    assert client.contents() == FILES
    assert {seen.headers.get("authorization") for seen in client.hub.seen} == {f"Bearer {TOKEN}"}
    cookies = {seen.headers.get("cookie") for seen in client.hub.seen}
    assert cookies == {f"m_session_id={TOKEN}" if source == "modelscope" else None}
    assert other.fetched == set(FILES)
    assert TOKEN not in repr(other.seen)
    assert TOKEN not in (client.folder / "step3vl-manifest.json").read_text()


def test_no_hub_gets_the_token_of_the_other(client: Client, other: FakeHub) -> None:
    """Nor is any sent where none is set."""
    two_hubs(client, other)
    client.environ["HF_TOKEN"] = TOKEN
    client.hub.always[LIST] = Fault(status=404)
    client.download("auto")
    assert TOKEN in repr(client.hub.seen)
    assert TOKEN not in repr(other.seen)
    assert not any({"authorization", "cookie"} & seen.headers.keys() for seen in other.seen)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2"])
def test_another_name_of_the_host_is_another_host(client: Client, host: str) -> None:
    """The same port is not enough."""
    client.environ["HF_TOKEN"] = TOKEN
    target = f"http://{host}:{client.hub.port}" + client.hub.cdn_target("modeling.py")
    client.hub.faults["modeling.py"] = [Fault(redirect=target)]
    try:
        client.download()
    except LauncherError:
        assert host == "127.0.0.2"  # the hub does not listen there: the redirect was followed
    headers = [seen.headers for seen in client.hub.seen if seen.target.startswith("/cdn")]
    assert len(headers) == (host == "localhost")
    assert "authorization" not in repr(headers)


def test_the_token_goes_with_a_redirect_on_the_hub(client: Client) -> None:
    """A model that was renamed is still one that needs the token."""
    client.environ["HF_TOKEN"] = TOKEN
    client.hub.faults["modeling.py"] = [Fault(redirect=client.hub.cdn_target("modeling.py"))]
    client.download()
    [seen] = [seen for seen in client.hub.seen if seen.target.startswith("/cdn")]
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"


@BOTH
@pytest.mark.parametrize("name", [LIST, "modeling.py"])
@pytest.mark.parametrize("status", [401, 418, 503])
def test_an_error_holds_no_secret(
    client: Client,
    other: FakeHub,
    source: Source,
    name: str,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither the token nor a signed address; and nothing is logged or printed."""
    client.environ |= {"HF_TOKEN": TOKEN, "MODELSCOPE_API_TOKEN": TOKEN}
    if name:
        client.hub.always[name] = Fault(redirect=other.url + other.cdn_target(name))
    (other if name else client.hub).always[name] = Fault(status=status)
    with caplog.at_level(0), pytest.raises(LauncherError) as caught:
        client.download(source)
    text = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in text
    assert "signature" not in text


def test_a_broken_connection_is_resumed_by_way_of_the_hub(client: Client, other: FakeHub) -> None:
    """A signed address may be too old by then."""
    name = "model.safetensors"
    client.hub.always[name] = Fault(redirect=other.url + other.cdn_target(name))
    other.faults[name] = [Fault(cut=4)]
    client.download()
    assert client.hub.asked(name) == [None, "bytes=4-"]
    assert other.asked(name) == [None, "bytes=4-"]
    assert client.contents() == FILES


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "javascript:x"]
)
def test_a_redirect_to_no_web_address_is_refused(client: Client, location: str) -> None:
    """Nothing there is opened."""
    client.hub.always["modeling.py"] = Fault(redirect=location)
    with pytest.raises(LauncherError, match=r"127\.0\.0\.1 sends us to an address that is not"):
        client.download()


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://cdn.example/a%2Fb?sig=a%2Bb+c%3D~", "https://cdn.example/a%2Fb?sig=a%2Bb+c%3D~"),
        ("/a%20b?c=%7e", "https://hub.example/a%20b?c=%7e"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://cdn.example/a b", "https://cdn.example/a%20b"),
        ("http://hub.example/x", None),
        ("http://cdn.example/x", None),
    ],
)
def test_a_redirect_is_followed_as_it_was_written(location: str, expected: str | None) -> None:
    """A signature is one of the letters; and from https there is no way down."""
    url = URL("https://hub.example/file")
    if expected is None:
        with pytest.raises(LauncherError, match="not safe to follow"):
            redirected(url, location)
        return
    assert str(redirected(url, location)) == expected


KEY = ConnectionKey("hub.example", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (TimeoutError(), TemporaryError, "hub.example was silent for too long"),
        (aiohttp.ServerTimeoutError(), TemporaryError, "hub.example was silent for too long"),
        (aiohttp.ClientPayloadError("x"), TemporaryError, "connection to hub.example was lost"),
        (ConnectionResetError(), TemporaryError, "connection to hub.example was lost"),
        (
            aiohttp.ClientConnectorError(KEY, OSError(111, "Connection refused")),
            TemporaryError,
            "no connection to hub.example: Connection refused",
        ),
        (
            aiohttp.ClientHttpProxyError(None, (), status=407, message="x"),
            TemporaryError,
            "the proxy answered 407 for hub.example",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("x")),
            LauncherError,
            "the certificate of hub.example is not trusted on this machine",
        ),
    ],
)
def test_what_the_network_does_in_words(
    error: Exception, expected: type[Exception], said: str
) -> None:
    """Only a certificate is no better a moment later; and no address is shown."""
    with pytest.raises(expected, match=said) as caught, network_faults(URL(SIGNED)):
        raise error
    assert "secret" not in str(caught.value)


def test_a_redirect_without_end_is_an_error(client: Client) -> None:
    """After ten."""
    client.hub.always["modeling.py"] = Fault(redirect=client.hub.cdn_target("modeling.py"))
    with pytest.raises(LauncherError, match="from one address to the next"):
        client.download()
    assert len(client.hub.asked("modeling.py")) == 10


# The environment


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "MODELSCOPE_ENDPOINT"])
@pytest.mark.parametrize(
    "value", ["hub", "ftp://hub", "http://", "http://[", "http://me:secret@hub", "http://hub/?a=b"]
)
def test_an_endpoint_that_is_none_is_refused(client: Client, name: str, value: str) -> None:
    """By the variable's name; its value may hold a password."""
    client.environ[name] = value
    with pytest.raises(ConfigError, match=f"^{name} is not an address of a hub") as caught:
        client.download("auto")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["https://hub.example/mirror", "https://hub.example/mirror/"])
def test_an_endpoint_may_have_a_path_and_a_slash_at_its_end(endpoint: str) -> None:
    """People write it so."""
    url = HuggingFace({"HF_ENDPOINT": endpoint}).list_url(HUB_ID, "main")
    expected = f"https://hub.example/mirror/api/models/{HUB_ID}/revision/main?blobs=true"
    assert str(url) == expected


@pytest.mark.parametrize("value", ["two words", "a\nb", "ключ"])
def test_a_token_that_cannot_be_sent_is_refused(client: Client, value: str) -> None:
    """It is not shown, and does not split a header."""
    client.environ["HF_TOKEN"] = value
    with pytest.raises(ConfigError, match=r"^HF_TOKEN holds characters that no token has"):
        client.download()


PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("https://hub.example", {}, None),
        ("https://hub.example", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://hub.example", {"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, PROXY),
        ("https://hub.example", {"HTTP_PROXY": PROXY}, None),
        ("http://hub.example", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://hub.example", {"ALL_PROXY": PROXY}, PROXY),
        ("https://hub.example", {"all_proxy": "proxy.example:3128"}, PROXY),
        ("https://hub.example", {"HTTPS_PROXY": ""}, None),
        ("https://hub.example", {"HTTPS_PROXY": PROXY, "NO_PROXY": "hub.example"}, None),
        ("https://cdn.hub.example", {"HTTPS_PROXY": PROXY, "no_proxy": ".hub.example"}, None),
        ("https://hub.example", {"HTTPS_PROXY": PROXY, "no_proxy": "*"}, None),
        ("https://hub.example", {"HTTPS_PROXY": PROXY, "no_proxy": "other"}, PROXY),
        ("http://localhost:8000", {"HTTP_PROXY": PROXY}, None),
        ("http://hub.localhost", {"HTTP_PROXY": PROXY}, None),
        ("http://127.0.0.1:8000", {"HTTP_PROXY": PROXY}, None),
        ("http://127.1.2.3", {"HTTP_PROXY": PROXY}, None),
        ("http://[::1]:8000", {"HTTP_PROXY": PROXY}, None),
    ],
)
def test_the_proxy_of_the_environment(
    url: str, environ: dict[str, str], expected: str | None
) -> None:
    """As other programs read it, but never for this machine itself."""
    found = proxy_for(URL(url), environ)
    assert found == (URL(expected) if expected else None)


@pytest.mark.parametrize("value", ["socks5://me:secret@proxy", "http://", "http://["])
def test_a_proxy_of_another_kind_is_refused(value: str) -> None:
    """By the variable's name; its value may hold a password."""
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY is not an HTTP proxy") as caught:
        proxy_for(URL("https://hub.example"), {"HTTPS_PROXY": value})
    assert "secret" not in str(caught.value)


def test_a_proxy_is_used(client: Client) -> None:
    """All goes through it: the hub's own name is not even looked up here."""
    client.environ |= {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": client.hub.url}
    client.download()
    assert client.contents() == FILES
    assert all(seen.target.startswith("http://hub.invalid/") for seen in client.hub.seen)


def test_no_proxy_is_used_for_this_machine(client: Client) -> None:
    """It would look for the hub on another one."""
    client.environ |= {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    client.download()
    assert read_manifest(client.folder) is not None
