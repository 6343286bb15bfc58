"""The self-test finds what is wrong with a box, and says it in one line."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from PIL import Image
from support import free_port

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.selftest import (
    BLUE_SQUARE,
    CHECKS,
    DEMO,
    MODEL,
    RED_CIRCLE,
    Box,
    FailedError,
    Outcome,
    Reply,
    ShutOutError,
    default_url,
    fits_schema,
    image,
    run_checks,
    selftest,
    streamed_words,
)

# By the kind of request that belongs to it.
NAMES = {check.__name__.removeprefix("check_"): name for name, check in CHECKS}
THING = '{"color": "red", "shape": "circle", "count": 1}'


def chat(content: Any = "A red circle.", reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"content": content, "reasoning": "red", "reasoning_content": "red", **message}
    return {
        "choices": [{"message": said, "finish_reason": reason}],
        "usage": {"completion_tokens": 3},
    }


def event(content: str | None = None, reason: str | None = None) -> str:
    return json.dumps({"choices": [{"delta": {"content": content}, "finish_reason": reason}]})


def stream_of(*events: str) -> bytes:
    return "".join(f"data: {one}\n\n" for one in events).encode()


def error(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message}}).encode())


STREAM = stream_of(event("A red"), event(" circle."), event(None, "stop"), "[DONE]")


def kind_of(url: str, document: Any) -> str:
    """Which check a request belongs to, as far as its form tells."""
    if document is None:
        return "ready" if url.endswith("/readyz") else "models"
    content = document["messages"][0]["content"]
    urls = [p["image_url"]["url"] for p in content if not isinstance(p, str) and "image_url" in p]
    if document.get("stream"):
        return "stream"
    if "response_format" in document:
        return "json"
    if len(document["messages"]) == 3:
        return "turns"
    if len(urls) == 2:
        return "order" if urls[0] == image(RED_CIRCLE)["image_url"]["url"] else "other_order"
    if not urls:
        return {"off": "whole", "low": "text", "auto": "small_limit"}[document["thinking"]]
    known = {
        image(RED_CIRCLE)["image_url"]["url"]: "image",
        image(RED_CIRCLE, "")["image_url"]["url"]: "base64",
        image(BLUE_SQUARE)["image_url"]["url"]: "reasoning",
    }
    return known.get(urls[0], "bad_image")


GOOD: dict[str, Reply] = {
    "ready": Reply(200, b'{"status": "ready"}'),
    "models": Reply(200, json.dumps({"data": [{"id": DEMO}, {"id": MODEL}]}).encode()),
    "json": Reply(200, json.dumps(chat(THING)).encode()),
    "stream": Reply(200, STREAM),
    "other_order": Reply(200, json.dumps(chat("A blue square.")).encode()),
    "bad_image": error(400, "Image 1 is not a picture that can be read."),
}


@dataclass
class Canned(Box):
    """A box that answers from a table; what stands in ``replies`` differs from a good one."""

    replies: dict[str, Reply | Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def send(self, url: str, document: Any = None) -> Reply:
        kind = kind_of(url, document)
        self.asked.append(kind)
        reply = self.replies.get(kind, GOOD.get(kind, Reply(200, json.dumps(chat()).encode())))
        if isinstance(reply, Exception):
            raise reply
        return reply


def canned(**replies: Reply | Exception | dict[str, Any]) -> Canned:
    """Documents become answers with status 200."""
    made = {
        kind: Reply(200, json.dumps(reply).encode()) if isinstance(reply, dict) else reply
        for kind, reply in replies.items()
    }
    return Canned("http://box", "http://box/api/v1", replies=made)


def failures(box: Box) -> dict[str, str]:
    return {one.name: one.reason for one in run_checks(box) if not one.passed}


def test_a_good_box_passes() -> None:
    """Every check passes, and every kind of request was made."""
    box = canned()
    assert failures(box) == {}
    assert set(box.asked) == {*NAMES, "other_order", "whole"}


def listing(*names: str) -> dict[str, Any]:
    return {"data": [{"id": name} for name in names]}


@pytest.mark.parametrize(
    ("check", "replies", "reason"),
    [
        ("ready", {"ready": Reply(503, b'{"status": "loading", "message": "weights"}')},
         "/readyz answers 503: weights"),
        ("models", {"models": listing(DEMO, "other")}, "not in the list: Step3-VL-demo, other"),
        ("models", {"models": listing()}, "not in the list: empty"),
        ("models", {"models": error(401, "no key")}, "status 401: no key"),
        ("models", {"models": Reply(200, b"<html>")}, "not a JSON object: '<html>'"),
        ("models", {"models": Reply(200, b"[1]")}, "not a JSON object"),
        ("models", {"models": Reply(502, b"<html>bad gateway")}, "502: '<html>bad gateway'"),
        ("text", {"text": chat(None)}, "`content` is empty: None"),
        ("text", {"text": chat(" \n")}, "`content` is empty"),
        ("text", {"text": chat(reason="error")}, "finish_reason is 'error'"),
        ("text", {"text": {"choices": []}}, "has not OpenAI's shape"),
        ("text", {"text": {**chat(), "usage": None}}, "has not OpenAI's shape"),
        ("text", {"text": {**chat(), "usage": {"completion_tokens": "x"}}}, "OpenAI's shape"),
        ("text", {"text": error(500, "two\nlines")}, "status 500: two lines"),
        ("text", {"text": FailedError("no answer within 1 s")}, "no answer within 1 s"),
        ("image", {"image": chat("Nothing.")}, "'red' is not in the answer: 'Nothing.'"),
        ("base64", {"base64": error(400, "Image 1: it has no URL.")}, "400: Image 1: it has"),
        ("order", {"order": chat("A blue square.")}, "'red' is not in the answer"),
        ("order", {"other_order": chat("A red circle.")}, "'blue' is not in the answer"),
        ("turns", {"turns": chat("Blue.")}, "'red' is not in the answer: 'Blue.'"),
        ("small_limit", {"small_limit": chat(None, "length")}, "`content` is empty"),
        ("json", {"json": chat("Here: {}")}, "is not JSON: 'Here: {}'"),
        ("json", {"json": chat('{"color": "red"}')}, "does not fit the schema"),
        ("json", {"json": chat(THING.replace("red", "blue"))}, "'red' is not in the answer"),
        ("stream", {"stream": error(500, "out of order")}, "status 500: out of order"),
        ("stream", {"stream": Reply(200, STREAM.replace(b" circle", b" square"))},
         "streamed 'A red square.', whole 'A red circle.'"),
        ("stream", {"stream": Reply(200, STREAM.removesuffix(b"data: [DONE]\n\n"))},
         "does not end with [DONE]"),
        ("reasoning", {"reasoning": chat(reasoning_content=None)},
         "reasoning is 'red', reasoning_content 'None'"),
        ("reasoning", {"reasoning": chat(reasoning="", reasoning_content="")}, "reasoning is ''"),
        ("bad_image", {"bad_image": chat()}, "expected status 400 for a damaged picture, not 200"),
        ("bad_image", {"bad_image": error(400, "No.")}, "does not name Image 1: 'No.'"),
    ],
)  # fmt: skip
def test_each_failure_is_found_and_has_its_reason(
    check: str, replies: dict[str, Any], reason: str
) -> None:
    """One check fails, all others pass."""
    found = failures(canned(**replies))
    assert [*found] == [NAMES[check]]
    assert reason in found[NAMES[check]]
    assert "\n" not in found[NAMES[check]]


def test_another_models_words_are_its_own() -> None:
    """Only of the demo it is known what it should say."""
    nothing = chat("Something else.")
    box = canned(
        models=listing(MODEL, DEMO), image=nothing, base64=nothing, order=nothing, turns=nothing,
        json=chat(THING.replace("red", "blue")),
    )  # fmt: skip
    assert failures(box) == {}


def test_nothing_is_tried_where_nobody_answers() -> None:
    """One reason, not twelve times the same wait."""
    box = canned(ready=ShutOutError("http://box cannot be reached: refused"))
    found = failures(box)
    assert found.pop(NAMES["ready"]) == "http://box cannot be reached: refused"
    assert set(found.values()) == {"not tried"}
    assert len(found) == len(CHECKS) - 1
    assert box.asked == ["ready"]


def test_seconds_are_measured() -> None:
    """Those of the check itself, to the millisecond."""
    times = iter([10.0, 12.5])
    [outcome] = run_checks(canned(), [("nothing", lambda _: None)], lambda: next(times))
    assert outcome == Outcome("nothing", passed=True, seconds=2.5)
    assert outcome.line() == "pass    2.50 s  nothing"
    assert Outcome("x", False, 0.1, "why").line() == "FAIL    0.10 s  x: why"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "does not end with [DONE]"),
        (stream_of(event("a"), "[DONE]"), "without a finish_reason"),
        (stream_of("no JSON", "[DONE]"), "cannot be read: 'no JSON'"),
        (stream_of("[]", "[DONE]"), "cannot be read: '[]'"),
        (stream_of('{"choices": [{}]}', "[DONE]"), "cannot be read"),
        (stream_of(event("a"), '{"error": {"message": "lost"}}', "[DONE]"), "stream: lost"),
    ],
)
def test_streams_that_are_not_whole(body: bytes, reason: str) -> None:
    """A cut or broken stream is never taken for an answer."""
    with pytest.raises(FailedError) as caught:
        list(streamed_words(body))
    assert reason in str(caught.value)


def test_streams_with_comments_and_usage() -> None:
    """Comments are skipped; an event may have no choice; signs that end lines elsewhere do not."""
    usage = '{"choices": [], "usage": {}}'
    told = json.dumps(json.loads(event("a\u2028b")), ensure_ascii=False)
    body = b": still here\n\n" + stream_of(told, event(None, "stop"), usage, "[DONE]")
    assert "".join(streamed_words(body)) == "a\u2028b"


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ({"color": "red", "shape": "circle", "count": 1}, True),
        ({"color": "red", "shape": "circle", "count": True}, False),
        ({"color": "red", "shape": 1, "count": 1}, False),
        ({"color": "red", "shape": "circle"}, False),
        ({"color": "red", "shape": "circle", "count": 1, "more": 1}, False),
        ([], False),
        (None, False),
    ],
)
def test_what_fits_the_schema(found: Any, fits: bool) -> None:
    """All fields, no others, each of its type."""
    assert fits_schema(found) is fits


@pytest.mark.parametrize(
    ("url", "root", "api"),
    [
        ("http://localhost:7860", "http://localhost:7860", "http://localhost:7860/api/v1"),
        ("http://localhost:7860/", "http://localhost:7860", "http://localhost:7860/api/v1"),
        ("http://a/api/v1", "http://a", "http://a/api/v1"),
        ("http://a/api/v1/", "http://a", "http://a/api/v1"),
        ("https://a/v1", "https://a", "https://a/v1"),
        ("https://a/step3/v1", "https://a/step3", "https://a/step3/v1"),
        ("http://[::1]:7860", "http://[::1]:7860", "http://[::1]:7860/api/v1"),
    ],
)
def test_addresses(url: str, root: str, api: str) -> None:
    """With the API's path or without."""
    box = Box.at(url)
    assert (box.root, box.api) == (root, api)


@pytest.mark.parametrize("url", ["", "localhost:7860", "ftp://a", "http://", "http://a:b", "/v1"])
def test_what_is_no_address(url: str) -> None:
    """It says how one is written."""
    with pytest.raises(LauncherError, match="http://HOST:PORT"):
        Box.at(url)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    """It names the variable, and does not show the key."""
    with pytest.raises(LauncherError, match="STEP3VL_API_KEY") as caught:
        Box.at("http://a", key)
    assert key not in str(caught.value)


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_the_key_is_sent_and_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the environment names one for everything."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    keys = []

    def note(request: BaseHTTPRequestHandler) -> None:
        keys.append(request.headers["authorization"])
        request.send_response(204)
        request.end_headers()

    with server(note) as url:
        assert Box.at(url, "secret").send(url).status == 204
        Box.at(url).send(url)
    assert keys == ["Bearer secret", None]


def test_answers_that_break_off() -> None:
    """The connection ends inside the answer, or before it."""

    def half(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("content-length", "100")
        request.end_headers()
        request.wfile.write(b"half")

    for answer in (half, lambda request: request.connection.close()):
        with server(answer) as url, pytest.raises(FailedError, match="broke off"):
            Box.at(url).send(url)


def test_answers_that_never_come() -> None:
    """It waits for its limit, and says so."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FailedError, match="no answer within 0 s"):
            Box(url, url, timeout=0.2).send(url)


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, one reason, and a summary."""
    url = f"http://127.0.0.1:{free_port()}"
    assert selftest(url, key=None, as_json=False) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert f"{url} cannot be reached: " in first
    assert "`launch up` starts this machine's" in first
    assert last == f"0 of {len(CHECKS)} passed at {url}"


def test_a_missing_key_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """And where it is to be put; nothing more is tried without it."""

    def refuse(request: BaseHTTPRequestHandler) -> None:
        body = b'{"error": {"message": "A key is needed here."}}'
        request.send_response(401)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with server(refuse) as url:
        assert selftest(url, key=None, as_json=False) == 1
    first, *others, _ = capsys.readouterr().out.splitlines()
    assert first.endswith("A key is needed here. Set STEP3VL_API_KEY to a key of that box.")
    assert all(line.endswith(": not tried") for line in others)


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One document, with everything."""
    url = f"http://127.0.0.1:{free_port()}"
    assert selftest(url, key=None, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["url"], found["passed"]) == (url, False)
    assert [check["name"] for check in found["checks"]] == [name for name, _ in CHECKS]
    assert found["checks"][0].keys() == {"name", "passed", "seconds", "reason"}


def test_the_webui_that_runs_is_the_default(paths: Paths) -> None:
    """Where it really listens, else where it usually would."""
    assert default_url(paths) == "http://localhost:7860"
    paths.webui_address.write_text(
        json.dumps({"host": "0.0.0.0", "port": 7999, "pid": os.getpid()})
    )
    assert default_url(paths) == "http://localhost:7999"


def test_its_pictures_are_what_they_are_called() -> None:
    """Red in the middle and white around it; the other one is blue."""
    for data, colour in ((RED_CIRCLE, (255, 0, 0)), (BLUE_SQUARE, (0, 0, 255))):
        picture = Image.open(io.BytesIO(data))
        assert picture.getpixel((160, 120)) == colour
        assert picture.getpixel((5, 5)) == (255, 255, 255)
    corners = [
        Image.open(io.BytesIO(data)).getpixel((102, 62)) for data in (RED_CIRCLE, BLUE_SQUARE)
    ]
    assert corners == [(255, 255, 255), (0, 0, 255)]


def test_it_imports_nothing_of_the_webui() -> None:
    """The launcher stays apart from what it launches."""
    code = "import launcher.selftest, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    top = {name.partition(".")[0] for name in done.stdout.split()}
    assert not top & {"webui", "vllm", "gradio", "torch", "openai"}
