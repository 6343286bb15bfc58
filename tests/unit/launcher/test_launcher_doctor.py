"""launcher.doctor: what a bug report holds, and that no secret is in any byte of it."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import secrets
import socket
import stat
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import free_port

from launcher import doctor, redaction
from launcher.cli import main
from launcher.doctor import (
    LOG_BYTES,
    LOG_MARGIN_BYTES,
    LOGS,
    Report,
    bundle,
    capped,
    describe,
    exits_in,
    machine_document,
    versions,
    write,
)
from launcher.errors import LauncherError
from launcher.keys import PREFIX
from launcher.machine import Access, Machine
from launcher.paths import ROOT, Paths
from launcher.redaction import (
    LEAST_SECRET,
    MASK,
    Redactor,
    parse_source,
    redacted_source,
    secrets_of,
)
from launcher.supervisord import ProgramState, Supervisord

NOW = 1_780_000_000.0
DEMO = ROOT / "deploy" / "models" / "step3-vl-demo"
ENVIRON = {"HOME": "/home/alice", "USER": "alice", "HOSTNAME": "gpu-box-7"}

# Whatever may stand around a secret, also what looks like a part of one.
AROUND = st.text(max_size=20) | st.sampled_from(
    ["hf_", "sk-", "Bearer ", "://", "@", '"', "'", "\\", "key=", "0.", "127.0.0.", "x", "=", "\n"]
)
# As the system gives them: any text without NUL, and bytes that are no UTF-8.
PASSWORDS = (
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
        min_size=LEAST_SECRET,
        max_size=40,
    )
    .map(str.strip)
    .filter(lambda text: len(text) >= LEAST_SECRET and any(map(str.isalnum, text)))
    .filter(lambda text: not redaction._NO_SECRET.fullmatch(text))
)
LONG = st.text("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=20, max_size=43)


def redactor(*known: str, environ: Mapping[str, str] = ENVIRON) -> Redactor:
    return Redactor.of(environ, known)


def unpacked(file: Path) -> dict[str, bytes]:
    """A bundle's files, by their names in its folder."""
    found = {}
    with tarfile.open(file) as archive:
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            assert stream is not None
            found[member.name.partition("/")[2]] = stream.read()
    return found


@contextmanager
def installation(text: str | bytes | None = None) -> Iterator[Paths]:
    """An installation in a folder of its own, with this YAML in use; None: without one."""
    with tempfile.TemporaryDirectory() as name:
        paths = Paths(etc=Path(name) / "etc", run=Path(name) / "run")
        paths.make_private_folders()
        config = Path(name) / "deploy.yaml"
        if text is not None:
            config.write_bytes(text.encode() if isinstance(text, str) else text)
            paths.active_config.write_text(str(config))
        yield paths


def deployment(**environment: str) -> str:
    """A YAML that is right, for the demo's checkpoint."""
    document = {
        "model": {"folder": str(DEMO)},
        "engine": {"port": free_port(), "environment": environment},
        "webui": {"port": free_port()},
    }
    return yaml.safe_dump(document)


def text_of(report: Report, name: str) -> str:
    return report.files[name].decode()


# --- What is never in it ---


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    PASSWORDS, AROUND, AROUND, st.sampled_from(["MY_TOKEN", "api_key", "DbPassword", "A_SECRET"])
)
def test_a_secret_of_the_environment_is_nowhere(
    secret: str, before: str, after: str, name: str
) -> None:
    """In logs, states and the YAML's free text, as text, as JSON, as Python and in a URL."""
    from urllib.parse import quote

    line = f"{before}{secret}{after} {json.dumps(secret)} {secret!r} http://h/?x={quote(secret)}\n"
    document = yaml.safe_load(deployment())
    document["model"]["notice"] = f"{before}{secret}{after}".replace("\0", "")
    with installation(yaml.safe_dump(document)) as paths:
        for log in LOGS:
            paths.log_of(log).write_text(line, newline="")
        paths.engine_state.write_text(json.dumps({"phase": "failed", "message": line}))
        report = bundle(paths, {**ENVIRON, name: secret}, NOW)
        files = unpacked(write(report, paths.run))
    spellings = {secret, quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    for content in files.values():
        assert not [text for text in spellings if text.encode() in content]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    PASSWORDS,
    AROUND,
    st.sampled_from(
        [
            ("engine", "environment", "HF_TOKEN"),
            ("engine", "options", "hf-token"),
            ("engine", "options", "api_key", "nested"),
            ("webui", "password"),
            ("secret",),
        ]
    ),
)
def test_a_secret_of_the_yaml_is_nowhere(secret: str, around: str, path: tuple[str, ...]) -> None:
    """Nor where a log repeats it, nor where an error of the YAML quotes it."""
    document: dict[str, Any] = yaml.safe_load(deployment())
    place = document
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = secret
    text = yaml.safe_dump(document, allow_unicode=True)
    assume(yaml.safe_load(text) == document)  # PyYAML does not keep every line break
    with installation(text) as paths:
        paths.log_of("vllm").write_text(f"{around}{secret}{around}\n", newline="")
        files = unpacked(write(bundle(paths, ENVIRON, NOW), paths.run))
    assert not [name for name, content in files.items() if secret.encode() in content]


@settings(max_examples=50, deadline=None)
@given(PASSWORDS)
def test_any_value_of_the_engines_environment_is_masked(value: str) -> None:
    """Whatever its name: in the YAML, and in what quotes it."""
    with installation(deployment(ANYTHING=value)) as paths:
        report = bundle(paths, ENVIRON, NOW)
    document = yaml.safe_load(text_of(report, "config.yaml"))
    assert document["engine"]["environment"] == {"ANYTHING": MASK}
    for name in ("findings.txt", "errors.txt"):
        assert value.encode() not in report.files[name]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789!$%^&*+/=?-_.~", min_size=6, max_size=40).filter(
        # "enabled" and the like are nobody's secret, and are not looked for in logs.
        lambda text: any(map(str.isalpha, text)) and not redaction._NO_SECRET.fullmatch(text)
    ),
    st.sampled_from(["{", "[", "\t- a\n b: *", "a: b: c", "'", "&a [*a]", "? !", "- - : ::", "%x"]),
    st.sampled_from(
        ["HF_TOKEN: {}", 'HF_TOKEN: "{}"', "api_key: {} # mine", "environment: {{HF_TOKEN: {},"]
    ),
)
def test_a_secret_of_a_torn_yaml_is_nowhere(secret: str, tear: str, line: str) -> None:
    """Only the names of keys are kept of it, and no error repeats a word of it."""
    text = f"model:\n  folder: x\n  {line.format(secret)}\n{tear}\n"
    with installation(text) as paths:
        paths.log_of("vllm").write_text(f"got {secret}\n")
        files = unpacked(write(bundle(paths, ENVIRON, NOW), paths.run))
    assert not [name for name, content in files.items() if secret.encode() in content]


@settings(max_examples=300, deadline=None)
@given(LONG, AROUND, AROUND, st.data())
def test_what_looks_like_a_secret_is_masked(
    secret: str, before: str, after: str, data: st.DataObject
) -> None:
    """Nobody knows it, and its form gives it away, whatever surrounds it."""
    assume(secret not in before + after)
    form = data.draw(
        st.sampled_from(
            [
                *(PREFIX + "{}", "sk-{}", "hf_{}", "Bearer {}", "bearer  {}", "--hf-token {}"),
                *('"authorization": "Token {}"', "b'authorization', b'x {}'", "Cookie: a={}"),
                *("http://user:{}@host/x", "http://{}@host", "https://h/a?b=1&sig={}&c=2"),
                *("http://h/?access_token={}", "https://h/#id_token={}", "api_key={}"),
                *("'secret': '{}'", '\\"password\\": \\"{}\\"', "API-KEY: [{}, 1]", "ghp_{}"),
                *("data:image/png;base64,{}", "eyJhbGciOiJI.{}.c", "passwd = {}", "tokens: {}"),
            ]
        )
    )
    masked = redactor().text(f"{before}{form.format(secret)}{after}")
    assert secret not in masked
    assert MASK in masked


@settings(max_examples=200, deadline=None)
@given(AROUND, AROUND)
def test_a_key_of_ours_is_masked(before: str, after: str) -> None:
    """In the form in which `launch keys add` shows it."""
    key = PREFIX + secrets.token_urlsafe(32)
    assert key not in redactor().text(f"{before}{key}{after}")


@settings(max_examples=300, deadline=None)
@given(st.ip_addresses(v=4), AROUND, AROUND)
def test_an_address_has_an_alias(address: Any, before: str, after: str) -> None:
    """Of version 4, whatever surrounds it; only those of this machine itself stay."""
    text = str(address)
    assume(text != "0.0.0.0" and not text.startswith("127."))
    assume(text not in before + after)
    masked = redactor().text(f"{before}{text}{after}")
    assert text not in masked


@settings(max_examples=300, deadline=None)
@given(st.ip_addresses(v=6), st.sampled_from(["", " ", "[", "(", "/", "'", ","]))
def test_an_address_of_version_6_has_an_alias(address: Any, before: str) -> None:
    """Also in brackets with a port."""
    text = str(address)
    assume(text not in {"::", "::1"} and "." not in text)
    masked = redactor().text(f"from {before}{text}]:8000 {text}")
    assert text not in masked
    assert masked.endswith("]:8000 ADDR1")


@settings(max_examples=200, deadline=None)
@given(st.emails(domains=st.just("example.com")), st.sampled_from(["", " ", "<", "'", ":", "x"]))
def test_an_email_address_is_masked(email: str, before: str) -> None:
    """Whole, as far as its name is made of letters, digits and a few signs."""
    assume(re.fullmatch(r"[A-Za-z0-9._%+'-]+@example\.com", email))
    assume("sk-" not in email)  # whose mask would stand before the @
    assert "@" not in redactor().text(f"{before}{email}>")


# --- Names ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/alice", "~"),
        ("'/home/alice/run/x'", "'~/run/x'"),
        ("/data/home/alice/x", "/data~/x"),
        ("/home/alice2/x", "/home/USER/x"),
        ("/home/bob/x /Users/eve", "/home/USER/x /Users/USER"),
        ("/var/mail/alice: no", "/var/mail/USER: no"),
        ("/srv/alice.txt", "/srv/USER.txt"),
        ("/srv/alicex", "/srv/alicex"),
        ("alice said", "alice said"),
        ("on gpu-box-7: up", "on HOST: up"),
        ("GPU-BOX-7.lan", "HOST.lan"),
        ("xgpu-box-7", "xgpu-box-7"),
        ("gpu-box-70", "gpu-box-70"),
        ("http://gpu-box-7:7860/", "http://HOST:7860/"),
    ],
)
def test_home_user_and_host_are_masked(text: str, expected: str) -> None:
    """The user where the name is a part of a path; a name within another one is not ours."""
    assert redactor().text(text) == expected


def test_this_host_and_this_account_are_known_without_the_environment() -> None:
    """A service may have none."""
    host = socket.gethostname()
    found = redactor(environ={}).text(f"at {host} in {Path.home()}/x")
    assert found == "at HOST in ~/x"


@pytest.mark.parametrize("home", ["/", "", "//"])
def test_a_home_that_is_everything_is_left(home: str) -> None:
    """Containers have such users."""
    assert redactor(environ={"HOME": home}).text("/usr/lib x") == "/usr/lib x"


def test_a_linked_home_is_known_by_both_paths(tmp_path: Path) -> None:
    """Logs have the one or the other."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    masked = redactor(environ={"HOME": str(tmp_path / "link")})
    assert masked.text(f"{tmp_path}/link/a {tmp_path}/real/b") == "~/a ~/b"


def test_an_account_without_a_line_in_passwd_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number may run a container."""
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert redactor(environ={}).text("x") == "x"


# --- Addresses ---


def test_an_alias_is_the_same_in_all_of_a_bundle() -> None:
    """In every file; another address has another one."""
    with installation(deployment()) as paths:
        paths.log_of("vllm").write_text("10.0.0.1 10.0.0.2\n")
        paths.log_of("webui").write_text("10.0.0.2 10.0.0.3\n")
        state = {"phase": "failed", "message": "10.0.0.3 10.0.0.4"}
        paths.engine_state.write_text(json.dumps(state))
        report = bundle(paths, ENVIRON, NOW)
    state, vllm, webui = (
        text_of(report, name) for name in ("status.json", "logs/vllm.log", "logs/webui.log")
    )
    first, second = vllm.split()
    again, third = webui.split()
    assert (second, len({first, second, third})) == (again, 3)
    assert json.loads(state)["engine"]["message"].split()[0] == third


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1:8000", "0.0.0.0:7860", "http://[::1]:8000", "[::]:80", "127.9.9.9"),
        *("12:34:56", "2026-11-28T15:22:01.123", "std::vector<int>", "c10::Error", "at::native"),
        *("version 2.13.0", "1.2", "cuda 12.8", "x[::2", "torch::autograd"),
    ],
)
def test_what_is_no_foreign_address_stays(text: str) -> None:
    """Loopback, wildcards, times, names of C++ and versions."""
    if text == "x[::2":  # an address, for all that anybody can tell
        assert redactor().text(text) == "x[ADDR1"
    else:
        assert redactor().text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 10.1.2.3.", "from ADDR1."),
        ("5.10.0.0.7", "ADDR1"),
        ("127.0.0.1.9", "ADDR1"),
        ("::ffff:10.0.0.7", "::ffff:ADDR1"),
        ("fe80::1%eth0", "ADDR1%eth0"),
        ("x2001:db8::1y", "xADDR1y"),
        ("1:2:3:4:5:6:7:8", "ADDR1"),
        ("10.0.0.1 10.0.0.2 10.0.0.1", "ADDR1 ADDR2 ADDR1"),
    ],
)
def test_an_address_at_odd_places(text: str, expected: str) -> None:
    """At the end of a sentence, with more numbers, with a zone."""
    assert redactor().text(text) == expected


# --- What stays, and odd secrets ---

VLLM_LINE = (
    "(APIServer pid=12) INFO 11-28 15:22:01 [api_server.py:1839] non-default args: {'model':"
    " '/srv/m', 'hf_token': None, 'max_num_batched_tokens': 2048, 'max_tokens': 16}"
)


@pytest.mark.parametrize(
    "text",
    [
        VLLM_LINE,
        "KeyError: 'weights'",
        "GPU KV cache size: 23,456 tokens, 1.2x",
        "exited: vllm (exit status 70; not expected)",
        "task-completed disk-utilization mask-rcnn hf_hub_download hf_overrides",
        "Basic usage of a token",
        "pkg@1.2.3",
        'File "/srv/launcher/keys.py", line 33, in entries',
        "sha256 " + "0123456789abcdef" * 4,
    ],
)
def test_what_helps_stays(text: str) -> None:
    """A bug report with everything masked helps nobody."""
    assert redactor().text(text) == text


@pytest.mark.parametrize(
    "value", ["", "abc", "true", "FALSE", "none", "auto", "1", "12345", "----", "    "]
)
def test_values_that_are_no_secret_are_not_hunted_for(value: str) -> None:
    """KEYTIMEOUT=1 must not take every 1 out of the logs."""
    text = f"true false none auto abc 1 12345 ---- {value} ."
    assert redactor(environ={"X_KEY": value}).text(text) == text


@pytest.mark.parametrize(
    ("known", "text", "expected"),
    [
        (["hunter2"], "xhunter2y", "x***y"),
        (["hunter2", "hunter2-long"], "hunter2-long", "***"),
        # What is left when one is taken out may be one again.
        (["aabb"], "aaaabbbb", "aa***bb"),
        (["a***"], "aaa***", "***"),
        (["USER"], "/srv/alice", "/srv/***"),
        (["line one\nline two"], "see line two.", "see ***."),
        (['say "x"'], json.dumps('say "x"'), '"***"'),
        (["pass word"], "?p=pass+word&q=pass%20word", "?p=***&q=***"),
        (["kä se"], json.dumps("kä se"), '"***"'),
        (["abc\udcffdef"], "abc\ufffddef", "***"),
        ([], "Bearer Bearer abc", "Bearer *** ***"),
        ([], "key= api_key= abc def", "key= *** *** def"),
        ([], "KEY=--hf-token abc", "KEY=*** ***"),
        ([], "tokens: 12345678", "tokens: ***"),
        ([], "token: 5, key: true", "token: ***, key: true"),
        ([], "key: truest", "key: ***"),
        ([], "BEARER'secret': 'abc'", "BEARER'***': ***"),
        ([], "sk-abc sk-abcsk-abc", "*** ***"),
        ([], "hf_eyJhbGciOiJI.abc.d", "***"),
    ],
)
def test_odd_secrets_are_masked(known: list[str], text: str, expected: str) -> None:
    """Within each other, made of masks, in several lines, and in other spellings."""
    assert redactor(*known).text(text) == expected


@pytest.mark.parametrize(
    "piece", ["?", "?a", "-----BEGIN A-----", "a", "1.", ":", "key=", "://", "aaaa-"]
)
def test_no_log_is_slow_to_redact(piece: str) -> None:
    """Half a megabyte of what a pattern begins with."""
    began = time.monotonic()
    redactor("supersecret").text((piece * LOG_BYTES)[:LOG_BYTES])
    assert time.monotonic() - began < 60


def test_a_private_key_is_masked_with_or_without_its_beginning() -> None:
    """A log may have been rotated in the midst of it."""
    body = "\n".join(secrets.token_hex(32) for _ in range(10))
    key = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"
    assert redactor().text(f"a\n{key}\nb") == f"a\n{MASK}\nb"
    rest = redactor().text(key.partition("\n")[2])
    assert not any(line in rest for line in body.splitlines())


# --- The YAML ---


def masked(text: str, environ: Mapping[str, str] = ENVIRON) -> Any:
    return yaml.safe_load(redacted_source(parse_source(text), redactor(environ=environ)))


def test_a_yaml_keeps_what_helps() -> None:
    """Comments go, since they may hold anything; numbers of tokens and switches stay."""
    text = """
    # password: hunter2
    model: {hub_id: a/b, names: [one]}  # hunter2
    engine:
      options:
        max-num-batched-tokens: 8192
        tokenizer-mode: auto
        hf-token: hunter2
        api-key: [hunter2, hunter3]
        hf-overrides: {token: {a: hunter2}}
        seed: 7
      environment: {VLLM_LOGGING_LEVEL: DEBUG, N: 5}
      command: [run, --hf-token, hunter2, --port, '8000', --api-key=hunter2]
    webui:
      require_keys: true
      thinking_tokens: {low: 512}
      tasks: [{name: t, max_tokens: 1024, prompt: what}, {tokens: 12345678}]
      password: 12345678
      notice: see http://u:hunter2@10.0.0.1/ and /home/alice/x
    """
    assert masked(text) == {
        "model": {"hub_id": "a/b", "names": ["one"]},
        "engine": {
            "options": {
                "max-num-batched-tokens": 8192,
                "tokenizer-mode": "auto",
                "hf-token": MASK,
                "api-key": [MASK, MASK],
                "hf-overrides": {"token": {"a": MASK}},
                "seed": 7,
            },
            "environment": {"VLLM_LOGGING_LEVEL": MASK, "N": MASK},
            "command": ["run", "--hf-token", MASK, "--port", "8000", f"--api-key={MASK}"],
        },
        "webui": {
            "require_keys": True,
            "thinking_tokens": {"low": 512},
            "tasks": [{"name": "t", "max_tokens": 1024, "prompt": "what"}, {"tokens": MASK}],
            "password": MASK,
            "notice": f"see http://{MASK}@ADDR1/ and ~/x",
        },
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!binary aGk=", {"a": MASK}),
        ("a: 1234567", {"a": MASK}),
        ("1234567: a", {MASK: "a"}),
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: !!set {x}", {"a": "{'x'}"}),
        ("{}", {}),
    ],
)
def test_odd_values_of_a_yaml(text: str, expected: Any) -> None:
    """Bytes are masked, and a number or a key that is a secret elsewhere is."""
    assert masked(text, {"X_KEY": "1234567"}) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [\n", "not YAML at line 2, column 1"),
        ("a: b: c\n", "not YAML at line 1, column 5"),
        ("just text hunter2\n", "no keys in it"),
        ("- hunter2\n", "no keys in it"),
        ("", "no keys in it"),
        ("a: &x [*x]\n", "has aliases, which are not followed"),
        ("a: !!python/object:os.system x\n", "not YAML at line 1, column 4"),
        ("a: !!int x\n", "not YAML"),
        ("a: \x07\n", "not YAML"),
        ("[" * 100_000, "brackets that nobody closes"),
        ("- " * 100_000, "not YAML"),
        ("[" * 200, "not YAML at line 1, column 201"),
        ("a: 1\n" + "#" * doctor.CONFIG_BYTES, "larger than 1000000 bytes"),
    ],
)
def test_a_yaml_that_is_none_says_where(text: str, problem: str) -> None:
    """And nothing of what stands there."""
    source = parse_source(text)
    assert (source.data, source.problem) == (None, problem)


def test_brackets_that_are_closed_may_be_many() -> None:
    """Only depth is slow."""
    source = parse_source("a:\n" + "- [{}]\n" * redaction.CONFIG_DEPTH)
    assert (source.data, source.problem) == ({"a": [[{}]] * redaction.CONFIG_DEPTH}, "")


def test_of_a_torn_yaml_the_names_of_its_keys_are_kept() -> None:
    """Each on its line, so that the place of the mistake can be found."""
    text = (
        'model:\n  folder: /srv/hunter2\n# hunter2\n\n  - name: hunter2\n  "quoted": 1\n'
        "  hunter2 hunter2\nhunter2:x\n{broken"
    )
    assert redacted_source(parse_source(text), redactor()).splitlines() == [
        *("model: ***", "  folder: ***", "", "", "  - name: ***", "  quoted: ***"),
        *("***", "***", "***"),
    ]


def test_the_yamls_secrets_are_known() -> None:
    """By the nearest name above them that says so, and after a flag."""
    text = """
    engine:
      environment: {HF_TOKEN: t-1, HF_HOME: /x}
      options: {api-key: [t-2, {deep: t-3}], max-tokens: 4711234, tokens: t-4, a-tokens: 47112345}
      command: [a, --my-secret, t-5, --port, '8000']
    password: 87654321
    require_keys: true
    """
    found = secrets_of(parse_source(text))
    assert sorted(found) == ["47112345", "87654321", "t-1", "t-2", "t-3", "t-4", "t-5"]


def test_the_secrets_of_a_torn_yaml_are_known() -> None:
    """The rest of the line, and its first word: nobody knows where the value ends."""
    found = secrets_of(
        parse_source("password: 'my words' # mine\nx: {a_key: b, c: d\nmax_tokens: 5")
    )
    assert sorted(found) == ["b", "b, c: d", "my", "my words' # mine"]


# --- What is in it ---


def test_a_bundle_of_a_good_installation() -> None:
    """Every file, each with what it is for."""
    with installation(deployment(HF_TOKEN="hunter2hunter2")) as paths:
        for log in LOGS:
            paths.log_of(log).write_text(f"hello from {log}\n")
        report = bundle(paths, ENVIRON, NOW)
    assert set(report.files) == {
        *("README.txt", "config.yaml", "versions.txt", "machine.json", "status.json"),
        *("findings.txt", "errors.txt"),
        *(f"logs/{name}.log" for name in ("vllm", "webui", "supervisord", "launcher")),
    }
    assert report.errors == ()
    assert text_of(report, "errors.txt") == "Everything could be read.\n"
    assert text_of(report, "logs/webui.log") == "hello from webui\n"
    assert "launch up" in text_of(report, "findings.txt") or "→" in text_of(report, "findings.txt")
    assert json.loads(text_of(report, "machine.json"))["memory"]["total"] > 0
    assert "Look through all of it before you send it." in text_of(report, "README.txt").replace(
        "\n", " "
    )
    for name in report.files:
        assert name.partition("/")[0].replace("logs", "logs/") in text_of(report, "README.txt") or (
            name == "README.txt"
        )


def test_an_installation_with_nothing_in_it_has_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing that is missing is a line, but for the log of errors that nobody expected."""
    monkeypatch.setattr("launcher.selection.gpus", list)
    with installation() as paths:
        report = bundle(paths, {}, NOW)
    assert [line.partition(":")[0] for line in report.errors] == [
        f"logs/{name}.log" for name in LOGS if name != "launcher"
    ]
    assert text_of(report, "errors.txt").splitlines() == [*report.errors]
    assert "No such file or directory" in report.errors[0]


def test_a_yaml_that_is_gone_is_a_line() -> None:
    """The rest is there; the file in use is named."""
    with installation(deployment()) as paths:
        config = Path(paths.active_config.read_text())
        config.unlink()
        report = bundle(paths, ENVIRON, NOW)
    assert report.errors[0] == (
        f"the configuration in use: {config}: in use until now, but gone; name another with"
        " --config"
    )
    assert text_of(report, "config.yaml") == "{}\n"
    assert json.loads(text_of(report, "machine.json"))["cores"]
    assert "errors.txt" in text_of(report, "findings.txt")


@pytest.mark.parametrize("how", ["folder", "closed"])
def test_a_yaml_that_cannot_be_read_is_a_line(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in its place."""
    with installation(deployment()) as paths:
        config = Path(paths.active_config.read_text())
        if how == "folder":
            config.unlink()
            config.mkdir()
        else:
            read = doctor._read_beginning
            refusal = PermissionError(13, "Permission denied")

            def refuse(path: Path) -> str:
                if path == config:
                    raise refusal
                return read(path)

            monkeypatch.setattr(doctor, "_read_beginning", refuse)
        report = bundle(paths, ENVIRON, NOW)
    words = "Is a directory" if how == "folder" else "Permission denied"
    assert f"config.yaml: {words}" in report.errors


def test_a_torn_yaml_is_a_line_and_keeps_its_keys() -> None:
    """Nothing is checked by it, and nothing of it is quoted."""
    with installation("model:\n  folder: hunter2\n  names: [hunter2\n") as paths:
        report = bundle(paths, ENVIRON, NOW)
    assert report.errors[0] == (
        "config.yaml: not YAML at line 4, column 1; only the names of its keys are kept"
    )
    assert not any(line.startswith("findings") for line in report.errors)
    assert text_of(report, "config.yaml") == "model: ***\n  folder: ***\n  names: ***\n"
    assert not any(b"hunter2" in content for content in report.files.values())


def test_a_yaml_with_mistakes_has_them_in_errors() -> None:
    """As `launch up` says them, without the values of its environment."""
    document = yaml.safe_load(deployment())
    document["engine"]["environment"] = {"PLAIN": 87654321}
    document["engine"]["prot"] = 1
    with installation(yaml.safe_dump(document)) as paths:
        report = bundle(paths, ENVIRON, NOW)
    [line] = [line for line in report.errors if line.startswith("findings: ")]
    assert "unknown key; did you mean port?" in line
    assert "engine.environment.PLAIN: write text" in line
    assert not any(b"87654321" in content for content in report.files.values())


def test_a_yaml_that_is_not_utf_8_is_kept_as_far_as_it_goes() -> None:
    """One bad byte takes nothing else with it."""
    with installation(b"model: {hub_id: a/b}\nwebui: {notice: \xff}\n") as paths:
        report = bundle(paths, ENVIRON, NOW)
    assert yaml.safe_load(text_of(report, "config.yaml"))["model"] == {"hub_id": "a/b"}
    assert any("not UTF-8" in line for line in report.errors)


def test_findings_are_those_of_check() -> None:
    """In the same words."""
    document = yaml.safe_load(deployment())
    document["model"] = {"folder": "/srv/nothing"}
    with installation(yaml.safe_dump(document)) as paths:
        found = text_of(bundle(paths, ENVIRON, NOW), "findings.txt").splitlines()
    place = found.index("✗ model.folder: /srv/nothing: no such folder")
    assert found[place + 1].startswith("  → ")


def test_the_status_holds_states_cause_and_how_runs_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `launch status --json` has, the engine's file, the crashes and supervisord's words."""
    program = ProgramState("vllm", "RUNNING", 12, "pid 12, uptime 0:01:00")
    monkeypatch.setattr(Supervisord, "is_running", lambda _: True)
    monkeypatch.setattr(Supervisord, "states", lambda _: [program])
    cause = {"code": "port", "message": "its port is taken", "fix": "write another"}
    with installation(deployment()) as paths:
        state = {"phase": "failed", "message": "no", "evidence": "10.0.0.9", "cause": cause}
        paths.engine_state.write_text(json.dumps(state))
        crashes = {"count": 2, "code": "disk", "what": "full", "fix": "free some"}
        paths.crashes_of("vllm").write_text(json.dumps(crashes))
        paths.log_of("supervisord").write_text("x exited: vllm (exit status 70)\nx noise\n")
        report = bundle(paths, ENVIRON, NOW)
        active = paths.active_config.read_text()
    document = json.loads(text_of(report, "status.json"))
    assert document["config"] == active
    assert document["programs"] == [
        {
            "name": "vllm",
            "state": "RUNNING",
            "pid": 12,
            "description": "pid 12, uptime 0:01:00",
            "group": "",
        }
    ]
    assert (document["ready"], document["engine"]["phase"]) == (False, "failed")
    assert document["cause"] == cause
    assert document["engine_file"] == {**state, "evidence": "ADDR1"}
    assert document["crashes"] == crashes
    assert document["exits"] == ["x exited: vllm (exit status 70)"]


@pytest.mark.parametrize("state", ["RUNNING", "BACKOFF"])
def test_all_that_runs_and_an_engine_that_is_ready_is_ready(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not run is enough for not ready."""
    programs = [ProgramState("vllm", "RUNNING", 1, ""), ProgramState("webui", state, 2, "")]
    monkeypatch.setattr(Supervisord, "is_running", lambda _: True)
    monkeypatch.setattr(Supervisord, "states", lambda _: programs)
    with installation(deployment()) as paths:
        document = {"phase": "ready", "message": "", "pid": os.getpid()}
        paths.engine_state.write_text(json.dumps(document))
        status = json.loads(text_of(bundle(paths, ENVIRON, NOW), "status.json"))
    assert status["ready"] is (state == "RUNNING")


def test_the_last_crash_is_the_cause_where_the_engine_names_none() -> None:
    """It was killed, say, and its file is gone."""
    with installation(deployment()) as paths:
        crashes = {"count": 1, "code": "killed", "what": "was killed", "fix": "dmesg"}
        paths.crashes_of("vllm").write_text(json.dumps(crashes))
        status = json.loads(text_of(bundle(paths, ENVIRON, NOW), "status.json"))
    assert (status["cause"]["code"], status["cause"]["fix"]) == ("killed", "dmesg")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"phase": "failed", "changed_at": "x"}', b"\xff\x00"]
)
def test_torn_states_stop_nothing(content: bytes) -> None:
    """Whatever is in the files of the running service."""
    with installation(deployment()) as paths:
        for file in (paths.engine_state, paths.crashes_of("vllm"), paths.webui_address, paths.keys):
            file.write_bytes(content)
        report = bundle(paths, ENVIRON, NOW)
    assert json.loads(text_of(report, "status.json"))["ready"] is False


def test_a_supervisord_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may end while it is asked."""

    def refuse(_: Supervisord) -> list[ProgramState]:
        raise LauncherError("nothing is running here")

    monkeypatch.setattr(Supervisord, "is_running", lambda _: True)
    monkeypatch.setattr(Supervisord, "states", refuse)
    with installation(deployment()) as paths:
        report = bundle(paths, ENVIRON, NOW)
    assert "programs: nothing is running here" in report.errors


def test_only_words_about_ends_and_starts_are_its_history() -> None:
    """The last fifty."""
    lines = [f"2026 INFO spawned: 'vllm' with pid {n}" for n in range(60)]
    assert exits_in("\n".join(["CRIT noise", *lines, "INFO success: vllm"])) == lines[10:]


def test_versions_name_what_matters() -> None:
    """Of Python, the system and the packages, installed or not."""
    found = dict(line.split(" ", 1) for line in versions().splitlines())
    assert found["python"] == sys.version
    assert {"system", "kernel", "libc", "step3vl", "torch", "gradio", "openai", "supervisor"} <= {
        *found
    }
    assert found["step3vl"] != "not installed"
    assert "not installed" in found.values()


def test_the_machine_is_written_for_people() -> None:
    """Modes as they are typed, and of the processor's flags those that matter."""
    machine = Machine(
        cpu_flags=frozenset({"sse", "avx2", "amx_tile"}), access=Access(config_mode=0o640)
    )
    document = machine_document(machine)
    assert document["cpu_flags"] == ["amx_tile", "avx2"]
    assert document["access"]["config_mode"] == "640"
    assert document["access"]["keys_mode"] is None
    assert machine_document(Machine())["cpu_flags"] is None


# --- Sizes ---


def test_of_a_long_log_the_end_is_kept() -> None:
    """From the beginning of a line on, and no more than the limit."""
    lines = [f"line {number:07}" for number in range(80_000)]
    with installation(deployment()) as paths:
        paths.log_of("vllm").write_text("\n".join(lines) + "\n")
        log = bundle(paths, ENVIRON, NOW).files["logs/vllm.log"]
    assert LOG_BYTES - 100 < len(log) <= LOG_BYTES
    kept = log.decode().splitlines()
    assert kept == lines[-len(kept) :]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("cut", range(0, 22, 3))
def test_a_secret_at_the_cut_is_not_half_there(cut: int, end: str) -> None:
    """What is left of a line that was cut goes, and so does a line that has no end."""
    secret = "s3cr3t-" * 3
    text = (secret + end) * 40_000
    size = LOG_BYTES + LOG_MARGIN_BYTES + cut
    with installation(deployment()) as paths:
        paths.log_of("vllm").write_text(text[: size - size % len(secret + end)] + secret[:cut])
        report = bundle(paths, {**ENVIRON, "X_TOKEN": secret}, NOW)
    log = report.files["logs/vllm.log"].decode()
    assert "cr3t" not in log.removesuffix(secret[:cut])


def test_a_log_of_one_line_without_end_is_left_out() -> None:
    """Its beginning is unknown, and so is what was cut in it."""
    with installation(deployment()) as paths:
        paths.log_of("vllm").write_text("a b" * LOG_BYTES)
        log = bundle(paths, ENVIRON, NOW).files["logs/vllm.log"]
    assert log == b"(one line, too long to be taken)\n"


def test_masks_that_are_longer_than_what_they_mask_do_not_lift_the_limit() -> None:
    """Addresses get longer with their number."""
    assert len(capped("1.1.1.1 é\n" * 100_000).encode()) <= LOG_BYTES
    assert capped("x" * LOG_BYTES) == "x" * LOG_BYTES
    with installation(deployment()) as paths:
        paths.log_of("vllm").write_text("/~x \n" * 110_000)
        environ = {**ENVIRON, "HOSTNAME": "~x"}
        log = bundle(paths, environ, NOW).files["logs/vllm.log"]
    assert b"HOST" in log
    assert len(log) <= LOG_BYTES


# --- The file ---


def report(**files: bytes) -> Report:
    return Report(NOW, files or {"a.txt": b"hello\n"}, ())


def test_the_file_has_a_name_of_its_time_and_is_for_this_user_only(tmp_path: Path) -> None:
    """In a folder that was named; whatever the umask."""
    before = os.umask(0)
    try:
        path = write(report(), tmp_path)
    finally:
        os.umask(before)
    assert path == tmp_path / "step3vl-report-20260528-202640.tar.gz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert unpacked(path) == {"a.txt": b"hello\n"}


def test_a_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that comes back is absolute, and an old file of that name is replaced."""
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "mine.tgz"
    old.write_text("old")
    old.chmod(0o644)
    path = write(report(), Path("mine.tgz"))
    assert path == old
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert unpacked(path) == {"a.txt": b"hello\n"}


def test_the_file_tells_nothing_of_who_made_it(tmp_path: Path) -> None:
    """Both formats have room for names; members are for their owner only."""
    path = write(report(**{"logs/a.log": b"x"}), tmp_path / "alices-report.tar.gz")
    assert b"alice" not in path.read_bytes()
    with tarfile.open(path) as archive:
        [member] = archive.getmembers()
    assert member.name == "step3vl-report-20260528-202640/logs/a.log"
    assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
    assert (member.mode, member.mtime) == (0o600, NOW)
    assert gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("where", ["no/such/file.tgz", "file/below.tgz"])
def test_a_place_that_cannot_be_written_is_an_error(where: str, tmp_path: Path) -> None:
    """With what to do; nothing is left."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        LauncherError, match=r"cannot be written: .*; name another place with --out"
    ):
        write(report(), tmp_path / where)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def fail_to_replace(*_: object) -> None:
    raise OSError(28, "No space left on device")


def fail_to_pack(*_: object) -> bytes:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("target", "fail", "error"),
    [
        ("pathlib.Path.replace", fail_to_replace, LauncherError),
        ("launcher.doctor._packed", fail_to_pack, KeyboardInterrupt),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    target: str,
    fail: Callable[..., Any],
    error: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole or not at all."""
    old = tmp_path / "mine.tgz"
    old.write_text("old")
    monkeypatch.setattr(target, fail)
    with pytest.raises(error):
        write(report(), old)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tgz"]
    assert old.read_text() == "old"


def test_a_half_written_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its name only once it is whole."""
    seen: list[list[str]] = []
    packed = doctor._packed

    def look(given: Report) -> bytes:
        seen.append([path.suffix for path in tmp_path.iterdir() if path.suffix == ".gz"])
        return packed(given)

    monkeypatch.setattr(doctor, "_packed", look)
    write(report(), tmp_path / "x.gz")
    assert seen == [[]]


def test_it_is_described() -> None:
    """Where it is, what is in it with sizes, and that it should be looked through."""
    made = report(**{"README.txt": b"x" * 999, "logs/vllm.log": b"x" * 1500})
    assert describe(made, Path("/tmp/x.tar.gz")) == [
        "Report: /tmp/x.tar.gz",
        "  README.txt                 999 B",
        "  logs/vllm.log             1.5 KB",
        "Look through it before you send it.",
    ]
    lost = describe(Report(NOW, {}, ("a", "b")))
    assert lost == [
        "Report: step3vl-report-20260528-202640.tar.gz",
        "Not all could be read: errors.txt says what.",
        "Look through it before you send it.",
    ]


def test_what_is_written_can_be_unpacked_by_anybody(tmp_path: Path) -> None:
    """Nothing in it is a link or leads out of its folder."""
    with installation(deployment()) as paths:
        path = write(bundle(paths, ENVIRON, NOW), tmp_path)
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        assert all(member.isfile() for member in archive.getmembers())
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "step3vl-report-20260528-202640"
    assert (folder / "README.txt").is_file()
    assert (folder / "status.json").is_file()


def test_the_command_writes_a_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where nothing has ever run."""
    assert main(["doctor", "--out", str(tmp_path / "report.tar.gz")]) == 0
    assert capsys.readouterr().out.endswith("Look through it before you send it.\n")
    with tarfile.open(tmp_path / "report.tar.gz") as archive:
        assert any(name.endswith("/findings.txt") for name in archive.getnames())
    assert main(["doctor", "--out", str(tmp_path / "none" / "x")]) == 1
