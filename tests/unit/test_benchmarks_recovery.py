"""What the commands that measure recovery count, and when they call a figure missed."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.installation import (
    ANSWERED,
    API_SERVER,
    CHILD,
    CUT,
    ENGINE_CORE,
    NO_ANSWER,
    PAGE,
    PARENT,
    WEB,
    WORKER,
    Reply,
    ask,
    outcome_of,
    role_of,
)
from benchmarks.recovery import Row
from benchmarks.soak import LOST, LOST_WITH_WEBUI, REFUSED, Outage, count_as

WORD = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{}}\n\n'
ERROR = b'data: {"error":{"code":"engine_restarted"}}\n\n'
DONE = b"data: [DONE]\n\n"


def reply(status: int | None, body: bytes, broke: str = "") -> Reply:
    return Reply(status, body, broke, 10.0, 11.0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (WORD + LAST + DONE, ANSWERED),
        (b": keep-alive\n\n" + WORD + LAST + USAGE + DONE, ANSWERED),
        (WORD + ERROR + DONE, "stream ended with engine_restarted"),
        (WORD + b'data: {"cho\n\n' + ERROR + DONE, "stream ended with engine_restarted"),
        (WORD + ERROR, CUT),
        (WORD + LAST, CUT),
        (WORD + DONE, CUT),
        (DONE, CUT),
        (b"", CUT),
    ],
)
def test_a_stream_is_whole_only_with_its_last_events(body: bytes, expected: str) -> None:
    """Neither a [DONE] alone nor a reason to finish alone is a whole answer."""
    assert outcome_of(reply(200, body), stream=True) == expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"choices":[]}', ANSWERED),
        (200, b'{"error":{"code":"shutting_down"}}', "error 200 shutting_down"),
        (200, b'{"choices":', CUT),
        (503, b'{"error":{"code":"overloaded"}}', "error 503 overloaded"),
        (None, b"", NO_ANSWER),
    ],
)
def test_a_whole_answer_is_told_by_its_document(
    status: int | None, body: bytes, expected: str
) -> None:
    """Half a document is a cut answer, whatever its status."""
    assert outcome_of(reply(status, body), stream=False) == expected


def test_an_error_in_place_of_a_stream() -> None:
    """It has no events, and is not taken for a cut stream."""
    refused = reply(502, b'{"error":{"code":"engine_restarted"}}')
    assert outcome_of(refused, stream=True) == "error 502 engine_restarted"


@pytest.mark.parametrize(
    ("given", "outage", "expected"),
    [
        (reply(200, WORD, "IncompleteRead"), None, LOST),
        (reply(200, WORD, "IncompleteRead"), Outage(10.5, killed=True), LOST_WITH_WEBUI),
        (reply(200, WORD, "IncompleteRead"), Outage(10.5, killed=False), LOST),
        (reply(200, WORD), Outage(12.0, killed=True), LOST),
        (reply(200, WORD), Outage(5.0, killed=True, ended=9.0), LOST),
        (reply(None, b"", "ConnectionRefusedError"), Outage(5.0, killed=True), REFUSED),
        (reply(None, b"", "ConnectionRefusedError"), None, LOST),
        (reply(None, b"", "ConnectionResetError"), Outage(5.0, killed=True), LOST_WITH_WEBUI),
        (reply(None, b"", "ConnectionResetError"), Outage(5.0, killed=False), REFUSED),
        (reply(None, b"", "TimeoutError"), None, LOST),
        (reply(200, WORD + LAST + DONE), Outage(10.5, killed=True), ANSWERED),
    ],
)
def test_only_the_webuis_own_end_excuses_a_lost_answer(
    given: Reply, outage: Outage | None, expected: str
) -> None:
    """At that very time, and for a cut answer only if it was killed."""
    assert count_as(given, [outage] if outage else [], stream=True) == expected


def test_an_outage_lasts_until_another_listens() -> None:
    """Without an end it meets all that comes later."""
    assert Outage(0.0, killed=True).ended == math.inf
    assert Outage(0.0, killed=True).meets(reply(None, b""))


@contextmanager
def server_that_says(words: bytes) -> Iterator[int]:
    """A port on which one connection gets these words and is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(words)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("words", "status", "body"),
    [
        (b"", None, b""),
        (HEAD + b"5\r\nhello\r\n0\r\n\r\n", 200, b"hello"),
        (HEAD + b"5\r\nhello\r\n", 200, b"hello"),
        (HEAD + b"5\r\nhel", 200, b"hel"),
    ],
)
def test_what_came_before_the_end_is_kept(words: bytes, status: int | None, body: bytes) -> None:
    """Also of an answer that breaks off, whose error has a name."""
    with server_that_says(words) as port:
        came = ask(port, "/x", {"stream": True}, 10)
    assert (came.status, came.body) == (status, body)
    assert bool(came.broke) == (not words.endswith(b"0\r\n\r\n"))


def test_nobody_listens() -> None:
    """Told apart from a connection that was taken and broken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        came = ask(taken.getsockname()[1], "/x", None, 10)
    assert (came.status, came.broke) == (None, "ConnectionRefusedError")


@pytest.mark.parametrize(
    ("command_line", "expected"),
    [
        (["python", "-P", "-m", "launcher.engine", "{}", "x", "--served-model-name"], PARENT),
        (["python", "-P", "-m", "webui"], WEB),
        (["python", "-P", "-m", "webui.chat", "1"], PAGE),
        (["python", "fake_vllm.py", "--model", "x", "--served-model-name", "one"], API_SERVER),
        (["VLLM::EngineCore"], ENGINE_CORE),
        (["VLLM::Worker_TP0"], WORKER),
        (["sleep", "600"], CHILD),
        ([], None),
    ],
)
def test_processes_are_known_by_what_they_run(
    command_line: list[str], expected: str | None
) -> None:
    """The engine's parent carries the engine's options, and is not taken for it."""
    assert role_of(command_line) == expected


def row(name: str = PARENT, times: int = 2) -> Row:
    return Row(name, 5.0, times, [1.0, 5.0])


def test_a_row_is_met_only_as_a_whole() -> None:
    """Each time, in time, with nothing left and no open stream cut."""
    assert row().is_met
    assert not row(times=3).is_met
    late, left, cut, two_engines, webui = row(), row(), row(), row(), row(WEB)
    late.seconds[0] = 5.1
    left.leftovers = 1
    two_engines.faults.append("2 processes are the engine's parent")
    cut.streams[CUT] = webui.streams[CUT] = 1
    assert not any(one.is_met for one in (late, left, cut, two_engines))
    assert webui.is_met
