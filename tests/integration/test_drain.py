"""How the WebUI ends: what runs may finish, what does not is told, and nothing holds it up.

Each test stops a process of its own, over a stand-in engine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deployments import Engine, Webui, running_webui
from support import wait_for

pytestmark = pytest.mark.fault(
    34, "streams end whole or with a typed event, then everything is gone"
)

HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": "one", "messages": HELLO}
AT_ONCE = {"thinking": "off"}
PATIENCE_S = 120  # for the start of a process, on a machine that is busy
SLACK_S = 3  # beyond what is promised, for the same
SMALL = 4096

Start = Callable[..., AbstractContextManager[Webui]]


@pytest.fixture
def start(engine_process: Engine, tmp_path: Path) -> Start:
    """Starts a WebUI with these settings, which gives its engine time."""

    def starting(**settings: str) -> AbstractContextManager[Webui]:
        return running_webui(tmp_path, engine_process, WEBUI_UPSTREAM_IDLE_S="60", **settings)

    return starting


@dataclass
class Answer:
    """What came until the end, and whether that was the end of an answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    whole: bool

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.document["error"]["code"])

    @property
    def events(self) -> list[str]:
        return [e for e in self.body.decode().split("\n\n") if e and not e.startswith(":")]

    @property
    def last_document(self) -> Any:
        """Of the last event that is JSON."""
        lines = self.body.decode().splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        return json.loads(data[-1])


def port_of(webui: Webui) -> int:
    return int(webui.url.rpartition(":")[2])


def ask(webui: Webui, path: str, body: dict[str, Any] | None = None) -> Answer:
    """One exchange on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(webui), timeout=PATIENCE_S)
    with contextlib.closing(connection):
        question = json.dumps(body) if body else None
        connection.request("POST" if body else "GET", path, question)
        response = connection.getresponse()
        try:
            content, whole = response.read(), True
        except http.client.IncompleteRead as error:
            content, whole = error.partial, False
        return Answer(response.status, response.headers, content, whole)


def chat(webui: Webui, **more: Any) -> Answer:
    return ask(webui, "/v1/chat/completions", {**CHAT, **more})


@contextlib.contextmanager
def asking() -> Iterator[Callable[..., Future[Answer]]]:
    """Exchanges in threads."""
    with ThreadPoolExecutor(16) as pool:
        yield pool.submit


def questions(webui: Webui) -> list[dict[str, Any]]:
    """That have reached the engine."""
    return [seen for seen in webui.engine.seen() if seen["method"] == "POST"]


def wait_until_seen(webui: Webui, count: int) -> None:
    message = f"the engine works on {count} requests"
    wait_for(lambda: len(questions(webui)) >= count, PATIENCE_S, message)


def stop(webui: Webui) -> float:
    """Send the signal; when that was, by the monotonic clock."""
    webui.process.send_signal(signal.SIGTERM)
    return time.monotonic()


def wait_until_stopping(webui: Webui) -> Answer:
    def answer() -> Answer | None:
        told = ask(webui, "/readyz")
        return told if told.status == 503 else None

    told: Answer | None = wait_for(answer, PATIENCE_S, "the signal arrived")
    assert told is not None
    return told


def seconds_to_end(webui: Webui, began: float) -> float:
    """Until the process ended, well."""
    assert webui.process.wait(PATIENCE_S) == 0, webui.log.read_text()[-2000:]
    return time.monotonic() - began


def test_what_runs_finishes_and_what_is_endless_is_told(start: Start) -> None:
    """Three streams: two come to their end, the third to that of our patience. New requests are
    refused meanwhile, by a process that lives and says that it is not ready.
    """
    with start(WEBUI_STOP_TIMEOUT_S="5") as webui, asking() as submit:
        webui.engine.script(words=1000, delay_s=0.4)
        short = [
            submit(chat, webui, stream=True, max_tokens=6, user="short", **AT_ONCE)
            for _ in range(2)
        ]
        endless = submit(chat, webui, stream=True)
        wait_until_seen(webui, 3)
        began = stop(webui)
        ready = wait_until_stopping(webui)
        assert ready.document["status"] == "stopping"
        assert ready.document["message"] == "the service is being stopped or restarted"
        assert ready.headers["retry-after"] == "5"
        assert ask(webui, "/livez").status == 200
        for path in ("/v1/chat/completions", "/api/v1/messages", "/v1/models"):
            refused = ask(webui, path, None if path.endswith("models") else CHAT)
            assert refused.status == 503
            assert refused.headers["retry-after"] == "5"
            assert refused.headers["connection"] == "close"
            error = refused.document["error"]
            kind = "overloaded_error" if "messages" in path else "service_unavailable_error"
            assert error["type"] == kind
            assert "Send the request again" in error["message"]
        assert ask(webui, "/").status == 503
        for answer in (future.result() for future in short):
            assert answer.events[-1] == "data: [DONE]"
            assert '"finish_reason":"length"' in answer.events[-2]
            assert b"shutting_down" not in answer.body
        assert not endless.done()
        last = endless.result()
        assert last.whole
        assert last.events[-1] == "data: [DONE]"
        assert last.last_document["error"]["code"] == "shutting_down"
        assert seconds_to_end(webui, began) < 5 + 2 + SLACK_S
        seen = questions(webui)
        assert len(seen) == 3
        outcomes = sorted(s["outcome"] for s in seen if s["body"].get("max_tokens"))
        assert outcomes == ["done", "done"]

        def is_let_go() -> bool:
            [asked] = [s for s in questions(webui) if not s["body"].get("max_tokens")]
            return bool(asked["outcome"] == "aborted")

        wait_for(is_let_go, 5, "it was let go")
        log = webui.log.read_text()
        assert "Traceback" not in log
        assert " 200 shutting_down " in log


def test_the_last_event_has_the_shape_of_its_api(start: Start) -> None:
    """Also of an answer that is the second try, after a thought alone."""
    with start(WEBUI_STOP_TIMEOUT_S="0.5") as webui, asking() as submit:
        webui.engine.script(words=1000, delay_s=0.4, never_answers=True)
        stream = {"model": "one", "stream": True}
        asked = [
            submit(chat, webui, stream=True),
            submit(ask, webui, "/v1/responses", {**stream, "input": "x"}),
            submit(ask, webui, "/v1/messages", {**stream, "messages": HELLO, "max_tokens": 500}),
        ]
        wait_until_seen(webui, 6)
        webui.engine.script(words=1000, delay_s=0.4)
        asked.append(submit(ask, webui, "/v1/completions", {**stream, "prompt": "x"}))
        wait_until_seen(webui, 1)
        stop(webui)
        answers = [future.result() for future in asked]
        assert all(answer.whole and answer.status == 200 for answer in answers)
        of_chat, of_response, of_message, of_text = answers
        for answer in (of_chat, of_text):
            assert answer.last_document["error"]["code"] == "shutting_down"
            assert answer.events[-1] == "data: [DONE]"
        assert of_response.last_document["type"] == "response.failed"
        error = of_response.last_document["response"]["error"]
        assert error["type"] == "service_unavailable_error"
        assert of_message.last_document["type"] == "error"
        assert of_message.last_document["error"]["type"] == "overloaded_error"
        assert of_message.events[-1].startswith("event: error\n")
        assert webui.process.wait(PATIENCE_S) == 0
        assert len(questions(webui)) == 1
        assert "Traceback" not in webui.log.read_text()


@contextlib.contextmanager
def site_that_never_answers() -> Iterator[str]:
    """The address of a picture that does not come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://localhost:{server.getsockname()[1]}/picture.png"


def test_whole_answers_end_with_a_503_wherever_they_wait(start: Start) -> None:
    """For the engine, the first time or the second, and for an image."""
    with (
        start(WEBUI_STOP_TIMEOUT_S="0.5") as webui,
        site_that_never_answers() as url,
        asking() as submit,
    ):
        webui.engine.script(words=1000, delay_s=0.4, never_answers=True)
        picture = [{"type": "image_url", "image_url": {"url": url}}]
        asked = [
            submit(chat, webui, **AT_ONCE),
            submit(chat, webui),
            submit(chat, webui, stream=True, messages=[{"role": "user", "content": picture}]),
            submit(ask, webui, "/v1/responses", {"model": "one", "input": "x"}),
            submit(ask, webui, "/v1/messages", {**CHAT, "max_tokens": 500}),
        ]
        wait_until_seen(webui, 7)
        webui.engine.script(words=1000, delay_s=0.4)
        asked.insert(0, submit(ask, webui, "/v1/completions", {"model": "one", "prompt": "x"}))
        wait_until_seen(webui, 1)
        wait_for(lambda: running(webui) == len(asked), PATIENCE_S, "all have begun")
        began = stop(webui)
        answers = [future.result() for future in asked]
        for answer in answers:
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.headers["connection"] == "close"
        assert [answer.code for answer in answers[:-1]] == ["shutting_down"] * 5
        assert answers[-1].document["type"] == "error"
        assert answers[-1].document["error"]["type"] == "overloaded_error"
        assert seconds_to_end(webui, began) < 0.5 + 2 + SLACK_S
        assert len(questions(webui)) == 1
        assert "Traceback" not in webui.log.read_text()


def running(webui: Webui) -> int:
    """Exchanges that are being answered, by the WebUI's own count."""
    lines = ask(webui, "/metrics").body.decode().splitlines()
    [line] = [line for line in lines if line.startswith("step3vl_requests_running ")]
    return int(float(line.split()[1]))


def test_an_answer_that_is_kept_alive_ends_with_the_error(start: Start) -> None:
    """Its status has gone out, with white space; the document is the error's."""
    alive = {"WEBUI_JSON_KEEP_ALIVE": "1", "WEBUI_KEEP_ALIVE_S": "0.2"}
    with start(WEBUI_STOP_TIMEOUT_S="1", **alive) as webui, asking() as submit:
        webui.engine.script(words=1000, delay_s=0.4)
        asked = submit(chat, webui)
        wait_until_seen(webui, 1)
        stop(webui)
        answer = asked.result()
        assert (answer.status, answer.whole, answer.code) == (200, True, "shutting_down")
        assert answer.body.startswith(b" ")
        assert webui.process.wait(PATIENCE_S) == 0


def test_json_is_not_asked_for_again(start: Start) -> None:
    """An answer of the wrong form, whose second try runs: that is ended, and there is no third."""
    with start(WEBUI_STOP_TIMEOUT_S="0.5") as webui, asking() as submit:
        webui.engine.script(says=["no JSON", "nor this"], delay_s=4)
        asked = submit(chat, webui, response_format={"type": "json_object"})
        wait_until_seen(webui, 2)
        stop(webui)
        assert (asked.result().status, asked.result().code) == (503, "shutting_down")
        assert webui.process.wait(PATIENCE_S) == 0
        assert len(questions(webui)) == 2


@contextlib.contextmanager
def half_a_request(webui: Webui) -> Iterator[socket.socket]:
    """A connection with a request on it, of which the last byte is missing."""
    body = json.dumps(CHAT).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", port_of(webui)), PATIENCE_S) as connection:
        connection.sendall(f"{head}\r\n".encode() + body[:-1])
        yield connection


def test_half_a_body_is_told_too(start: Start) -> None:
    """A request that began before the signal may come whole; one that never does is refused."""
    with start(WEBUI_STOP_TIMEOUT_S="1.5") as webui:
        webui.engine.script()
        with half_a_request(webui) as completed, half_a_request(webui) as left:
            wait_for(lambda: running(webui) == 2, PATIENCE_S, "both have begun")
            began = stop(webui)
            wait_until_stopping(webui)
            completed.sendall(b"}")
            assert completed.recv(65_536).startswith(b"HTTP/1.1 200 ")
            refused = b"".join(iter(lambda: left.recv(65_536), b""))  # head and body may come apart
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"shutting_down" in refused
        assert seconds_to_end(webui, began) < 1.5 + 2 + SLACK_S


def shows_the_page(webui: Webui) -> bool:
    with urllib.request.urlopen(webui.url, timeout=10) as response:
        return b"The page is starting" not in response.read()


def test_with_nothing_to_do_it_ends_at_once(start: Start) -> None:
    """However long it might wait, and whatever connections are open: one that is kept for a next
    request, half a head, and the page's.
    """
    with start(WEBUI_STOP_TIMEOUT_S="60") as webui:
        wait_for(lambda: shows_the_page(webui), PATIENCE_S, "the page is there")
        place = ("127.0.0.1", port_of(webui))
        page, kept, half = (socket.create_connection(place, 10) for _ in range(3))
        with page, kept, half:
            page.sendall(b"GET /gradio_api/heartbeat/x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert page.recv(65_536).startswith(b"HTTP/1.1 200 ")
            kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
            half.sendall(b"GET /livez HTTP/1.1\r\n")
            assert seconds_to_end(webui, stop(webui)) < SLACK_S
        assert not (webui.log.parent / "webui.json").exists()


def test_it_does_not_wait_for_its_page_to_be_built(start: Start) -> None:
    """An import in a thread cannot be ended; the process can."""
    with start(WEBUI_STOP_TIMEOUT_S="60") as webui:
        assert seconds_to_end(webui, stop(webui)) < SLACK_S


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(start: Start, second: signal.Signals) -> None:
    """What runs is told all the same, and the launcher's file is gone."""
    with start(WEBUI_STOP_TIMEOUT_S="60") as webui, asking() as submit:
        webui.engine.script(words=1000, delay_s=0.4)
        endless = submit(chat, webui, stream=True)
        wait_until_seen(webui, 1)
        stop(webui)
        wait_until_stopping(webui)
        began = time.monotonic()
        webui.process.send_signal(second)
        assert endless.result().last_document["error"]["code"] == "shutting_down"
        assert seconds_to_end(webui, began) < SLACK_S
        assert not (webui.log.parent / "webui.json").exists()


@contextlib.contextmanager
def slow_reader(webui: Webui, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A connection with a request on it, that takes next to nothing."""
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", port_of(webui)))
        connection.sendall(f"{head}\r\n".encode() + content)
        assert connection.recv(16).startswith(b"HTTP/1.1 200")
        yield connection


def rest_of(connection: socket.socket) -> Iterator[bytes]:
    """What a client takes that wakes up, and is fast from then on."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_000_000)
    while data := connection.recv(1_000_000):
        yield data


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_never_reads_does_not_hold_it_up(start: Start, stream: bool) -> None:
    """More than the kernel keeps is on its way to it."""
    with start(WEBUI_STOP_TIMEOUT_S="1") as webui:
        webui.engine.script(says=["x" * 8_000_000])
        with slow_reader(webui, {**CHAT, "stream": stream}):
            began = stop(webui)
            assert seconds_to_end(webui, began) < 1 + 2 + SLACK_S
        assert "Traceback" not in webui.log.read_text()


def test_a_client_that_reads_late_misses_nothing(start: Start) -> None:
    """It was behind when its time was over. What it then reads has no gap, up to the last event."""
    with start(WEBUI_STOP_TIMEOUT_S="2") as webui:
        webui.engine.script(words=50_000, context=60_000)
        body = {**CHAT, "stream": True, **AT_ONCE}
        with slow_reader(webui, body) as connection, half_a_request(webui) as other:
            wait_for(lambda: running(webui) == 2, PATIENCE_S, "both have begun")
            stop(webui)
            assert other.recv(65_536).startswith(b"HTTP/1.1 503 ")  # the time is over
            received = b"".join(rest_of(connection))
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert b"shutting_down" in received
        words = [int(word) for word in re.findall(rb'"content":" (\d+)"', received)]
        assert words == [*range(1, len(words) + 1)]
        assert 100 < len(words) < 49_999
        assert webui.process.wait(PATIENCE_S) == 0


def test_an_answer_that_is_read_late_keeps_its_end(start: Start) -> None:
    """It had come whole when its time was over, and its end had yet to be sent."""
    with start(WEBUI_STOP_TIMEOUT_S="3") as webui:
        webui.engine.script(says=["x" * 5_000_000])
        body = {**CHAT, "stream": True}
        with slow_reader(webui, body) as connection, half_a_request(webui) as other:
            wait_for(lambda: questions(webui)[0]["outcome"] == "done", PATIENCE_S, "it came")
            wait_for(lambda: running(webui) == 2, PATIENCE_S, "the other has begun")
            stop(webui)
            assert other.recv(65_536).startswith(b"HTTP/1.1 503 ")  # the time is over
            received = b"".join(rest_of(connection))
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert b"shutting_down" not in received
        assert len(received) > 5_000_000
        assert webui.process.wait(PATIENCE_S) == 0


def test_many_streams_all_end_well(start: Start) -> None:
    """A hundred of them, and none without its last event."""
    with start(WEBUI_STOP_TIMEOUT_S="1") as webui:
        webui.engine.script(words=1000, delay_s=0.5)
        answers: list[Answer] = []
        threads = [
            threading.Thread(target=lambda: answers.append(chat(webui, stream=True)))
            for _ in range(100)
        ]
        for thread in threads:
            thread.start()
        wait_until_seen(webui, 100)
        began = stop(webui)
        for thread in threads:
            thread.join(PATIENCE_S)
        codes = {answer.last_document["error"]["code"] for answer in answers}
        assert (len(answers), codes) == (100, {"shutting_down"})
        assert seconds_to_end(webui, began) < 1 + 2 + SLACK_S
