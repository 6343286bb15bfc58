"""Who may use the API and the page: keys, their limits, and other sites' pages."""

from __future__ import annotations

import base64
import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from deployments import Engine, Webui, running_webui
from support import ROOT, wait_for

from launcher.errors import LauncherError
from launcher.keys import KeyFile

ORIGIN = "https://shop.example"
HELLO = {"model": "one", "messages": [{"role": "user", "content": "hello"}]}


def get(
    webui: Webui, path: str, headers: dict[str, str], *, method: str = "GET", body: Any = None
) -> tuple[int, http.client.HTTPMessage, str]:
    """Status, headers and text of one exchange."""
    address = urlsplit(webui.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.request(method, path, body and json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, response.headers, text


def chat(webui: Webui, **headers: str) -> int:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return get(webui, "/v1/chat/completions", headers, method="POST", body=HELLO)[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys") / "api-keys.json")


@pytest.fixture(scope="module")
def key(file: KeyFile) -> str:
    return file.add("anna", {})


@pytest.fixture(scope="module")
def guarded_process(
    file: KeyFile, key: str, tmp_path_factory: pytest.TempPathFactory, engine_process: Engine
) -> Iterator[Webui]:
    settings = {"WEBUI_KEYS_FILE": str(file.path), "WEBUI_CORS_ORIGINS": ORIGIN}
    folder = tmp_path_factory.mktemp("guarded")
    with running_webui(folder, engine_process, WEBUI_REQUIRE_KEYS="1", **settings) as webui:
        yield webui
        assert key not in webui.log.read_text()


@pytest.fixture
def guarded(guarded_process: Webui) -> Webui:
    """A WebUI that wants keys."""
    guarded_process.engine.script()
    return guarded_process


@pytest.mark.fault(18, "a right key is taken in every form")
def test_a_key_opens_the_api(guarded: Webui, key: str) -> None:
    """As a bearer token, in any case of the scheme, or as Anthropic's clients send it."""
    assert chat(guarded, authorization=f"Bearer {key}") == 200
    assert chat(guarded, authorization=f"bEARER {key}") == 200
    assert chat(guarded, x_api_key=key) == 200
    with openai.OpenAI(base_url=f"{guarded.url}/api/v1", api_key=key) as api:
        assert api.models.list().data[0].id == "one"


@pytest.mark.fault(18, "401 with WWW-Authenticate")
def test_without_a_key_there_is_nothing(guarded: Webui, key: str) -> None:
    """401 in OpenAI's shape, on the API and the figures; what tells that it lives stays open."""
    for headers in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer wrong"}):
        for path in ("/v1/models", "/metrics"):
            status, answer, text = get(guarded, path, headers)
            assert (status, answer["www-authenticate"]) == (401, "Bearer")
            assert json.loads(text)["error"]["code"] == "invalid_api_key"
    assert chat(guarded) == chat(guarded, x_api_key="x" * 4000) == 401
    assert get(guarded, f"/v1/models?key={key}", {})[0] == 401
    assert guarded.engine.seen() == []
    assert get(guarded, "/livez", {})[0] == get(guarded, "/readyz", {})[0] == 200


@pytest.mark.fault(18, "401 with WWW-Authenticate")
def test_the_page_asks_for_a_key_as_password(guarded: Webui, key: str) -> None:
    """The browser's own dialogue; any name."""
    status, headers, _ = get(guarded, "/", {})
    assert status == 401
    assert headers["www-authenticate"].startswith("Basic realm=")
    word = base64.b64encode(f"anyone:{key}".encode()).decode()
    assert get(guarded, "/", {"authorization": f"Basic {word}"})[0] == 200
    wrong = base64.b64encode(b"anyone:wrong").decode()
    assert get(guarded, "/", {"authorization": f"Basic {wrong}"})[0] == 401


def test_keys_come_and_go_while_it_runs(guarded: Webui, file: KeyFile) -> None:
    """Within a second or so of adding and of revoking."""
    new = file.add("bert", {})
    wait_for(lambda: chat(guarded, x_api_key=new) == 200, 5, "the new key is known")
    assert file.revoke("bert") == 1
    wait_for(lambda: chat(guarded, x_api_key=new) == 401, 5, "it is no longer")


def test_a_key_can_have_limits(guarded: Webui, file: KeyFile) -> None:
    """429 with the seconds to wait; other keys go on."""
    few = file.add("few", {"requests_per_minute": 2, "tokens_per_minute": None})
    wait_for(lambda: get(guarded, "/v1/models", {"x-api-key": few})[0] == 200, 5, "it is known")
    statuses = [chat(guarded, x_api_key=few) for _ in range(3)]
    assert 429 in statuses
    status, headers, text = get(guarded, "/v1/models", {"x-api-key": few})
    assert (status, json.loads(text)["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 61
    little = file.add("little", {"requests_per_minute": None, "tokens_per_minute": 5})
    wait_for(lambda: chat(guarded, x_api_key=little) == 200, 5, "it is known")
    assert chat(guarded, x_api_key=little) == 429
    # A stream that is left, and the older route, count too.
    file.revoke("little")
    for number, spend in enumerate((left_stream, completed_text)):
        little = file.add(f"little{number}", {"requests_per_minute": None, "tokens_per_minute": 5})
        known = {"x-api-key": little}
        wait_for(lambda: get(guarded, "/v1/models", known)[0] == 200, 5, "it is known")  # noqa: B023
        spend(guarded, little)
        wait_for(lambda: get(guarded, "/v1/models", known)[0] == 429, 5, "it has counted")  # noqa: B023
        file.revoke(f"little{number}")
    file.revoke("few")


def left_stream(webui: Webui, key: str) -> None:
    """Read a few words of many, and go."""
    webui.engine.script(words=500, delay_s=0.01)
    with openai.OpenAI(base_url=f"{webui.url}/v1", api_key=key) as api:
        hello: Any = [{"role": "user", "content": "hello"}]
        stream = api.chat.completions.create(model="one", messages=hello, stream=True)
        for _, _ in zip(range(12), stream, strict=False):
            pass
        stream.close()
    webui.engine.script()


def completed_text(webui: Webui, key: str) -> None:
    with openai.OpenAI(base_url=f"{webui.url}/v1", api_key=key) as api:
        api.completions.create(model="one", prompt="hello")


@pytest.mark.fault(18, "429 after twenty wrong ones a minute")
def test_trying_keys_is_slowed_down(guarded: Webui, key: str) -> None:
    """After twenty wrong ones within a minute an address has to wait, also with a right one; others
    do not. (A proxy on this machine says for whom it asks.)"""
    there = {"x_forwarded_for": "203.0.113.7"}
    statuses = {chat(guarded, x_api_key=f"wrong {n}", **there) for n in range(25)}
    assert statuses == {401, 429}
    assert chat(guarded, x_api_key=key, **there) == 429
    assert chat(guarded, x_api_key=key, x_forwarded_for="203.0.113.8") == 200
    odd = "6.6.6.6 root POST /chat/completions 200"
    assert chat(guarded, x_api_key=key, x_forwarded_for=odd) == 200
    assert odd not in guarded.log.read_text()


@pytest.mark.fault(18, "429 after twenty wrong ones a minute")
def test_a_revoked_key_that_is_still_in_use_shuts_nobody_out(guarded: Webui, key: str) -> None:
    """The same wrong one again is no guess: an open page, or a program, does not know better."""
    there = {"x_forwarded_for": "203.0.113.9"}
    statuses = {chat(guarded, x_api_key="was revoked", **there) for _ in range(25)}
    assert statuses == {401}
    assert chat(guarded, x_api_key=key, **there) == 200


def test_only_the_page_itself_makes_a_browser_ask(guarded: Webui) -> None:
    """What an open page asks for by itself must not, every two seconds."""
    for path in ("/gradio_api/run/predict", "/config"):
        status, headers, text = get(guarded, path, {})
        assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")
        assert "www-authenticate" not in headers


@pytest.mark.fault(22, "no header that would let them read")
def test_only_configured_origins_may_read(guarded: Webui) -> None:
    """Others get no header that would let their page see an answer; nor does the page give any."""
    asked = {"access-control-request-method": "POST"}
    status, headers, _ = get(
        guarded, "/v1/chat/completions", {"origin": ORIGIN, **asked}, method="OPTIONS"
    )
    assert (status, headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert "authorization" in headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in headers
    for origin in ("https://other.example", "null", ORIGIN + ".evil.example", "http://localhost:1"):
        for path in ("/v1/models", "/", "/config"):
            for method in ("GET", "OPTIONS"):
                headers = get(guarded, path, {"origin": origin, **asked}, method=method)[1]
                assert not [name for name in headers if "access-control" in name.lower()]


@pytest.mark.fault(23, "the page's settings tell no path, no key and no address of the engine")
def test_the_page_tells_nothing_of_this_machine(guarded: Webui, key: str, file: KeyFile) -> None:
    """Wherever its library lists what it knows."""
    word = base64.b64encode(f"x:{key}".encode()).decode()
    headers = {"authorization": f"Basic {word}", "host": "public.example"}
    wait_for(lambda: get(guarded, "/config", headers)[0] == 200, 60, "the page is there")
    folders = [str(ROOT), sys.prefix, str(guarded.log.parent), str(file.path.parent)]
    secret = [key, guarded.engine.url, *folders]
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/openapi.json"):
        status, _, text = get(guarded, path, headers)
        assert status in {200, 404}
        assert [word for word in secret if word in text] == []
    assert get(guarded, "/config", {})[0] == 401


@pytest.mark.fault(25, "a policy that lets nothing from elsewhere be loaded")
def test_the_page_loads_nothing_from_elsewhere(guarded: Webui, key: str) -> None:
    """A policy for the browser, whatever the model writes."""
    word = base64.b64encode(f"x:{key}".encode()).decode()
    headers = get(guarded, "/", {"authorization": f"Basic {word}"})[1]
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_a_key_that_is_required_must_be_there(tmp_path: Path, engine_process: Engine) -> None:
    """An empty file of keys lets nobody in, and does not count where one is required."""
    file = KeyFile(tmp_path / "keys.json")
    file.add("one", {})
    file.revoke("one")
    with running_webui(tmp_path, engine_process, WEBUI_KEYS_FILE=str(file.path)) as webui:
        assert chat(webui) == 401
    with (
        pytest.raises(AssertionError, match="it ended"),
        running_webui(
            tmp_path, engine_process, WEBUI_KEYS_FILE=str(file.path), WEBUI_REQUIRE_KEYS="1"
        ),
    ):
        pass
    assert "launch keys add" in (tmp_path / "webui.log").read_text()


@pytest.mark.fault(18, "hashes only, for the owner only")
def test_the_file_holds_no_key(tmp_path: Path) -> None:
    """Hashes only, for its owner only; names are taken once and must be plain."""
    file = KeyFile(tmp_path / "run" / "keys.json")
    key = file.add("anna", {"requests_per_minute": 5, "tokens_per_minute": None})
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert key not in file.path.read_text()
    assert file.entries()[0]["requests_per_minute"] == 5
    for name in ("anna", "", "a b", "x" * 65):
        with pytest.raises(LauncherError):
            file.add(name, {})
    with pytest.raises(LauncherError, match="no key 'bert'"):
        file.revoke("bert")
