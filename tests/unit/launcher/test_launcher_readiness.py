"""launcher.readiness: what state files and logs say about a start."""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import free_port

from launcher import readiness
from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.readiness import (
    LOG_TAIL_BYTES,
    Address,
    EngineState,
    StartWatch,
    answers,
    last_lines,
    read_engine_state,
    read_webui_address,
)
from launcher.supervisord import ProgramState
from launcher.terminal import ProgressLine

BEGAN = 1000.0


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://localhost:7860"),
        ("0.0.0.0", "http://localhost:7860"),
        ("::", "http://localhost:7860"),
        ("::1", "http://[::1]:7860"),
        ("192.0.2.1", "http://192.0.2.1:7860"),
        ("box.example", "http://box.example:7860"),
    ],
)
def test_an_address_is_shown_as_a_link(host: str, expected: str) -> None:
    """A wildcard is nothing to click on; an IPv6 address needs brackets."""
    assert expected == Address(host, 7860).url


@pytest.fixture
def ended_pid() -> int:
    """The id of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def write_engine(paths: Paths, **state: Any) -> None:
    document = {"phase": "loading", "message": "m", "changed_at": BEGAN, "pid": os.getpid()}
    paths.engine_state.write_text(json.dumps(document | state))


def test_a_state_is_read_while_its_writer_lives(paths: Paths) -> None:
    """All of the engine's words arrive."""
    write_engine(paths, evidence="e")
    assert EngineState("loading", "m", "e", BEGAN) == read_engine_state(paths.engine_state)


@pytest.mark.parametrize(("phase", "expected"), [("ready", True), ("loading", False)])
def test_only_the_ready_phase_is_ready(phase: str, expected: bool, paths: Paths) -> None:
    """Loading is not ready."""
    write_engine(paths, phase=phase)
    state = read_engine_state(paths.engine_state)
    assert state is not None
    assert expected == state.is_ready


@pytest.mark.parametrize("phase", ["starting", "loading", "ready"])
def test_a_state_whose_writer_was_killed_is_not_believed(
    phase: str, ended_pid: int, paths: Paths
) -> None:
    """A killed engine leaves "ready" behind; nobody serves."""
    write_engine(paths, phase=phase, pid=ended_pid)
    assert read_engine_state(paths.engine_state) is None


@pytest.mark.parametrize("phase", ["failed", "stopped"])
def test_last_words_outlive_their_writer(phase: str, ended_pid: int, paths: Paths) -> None:
    """Why an engine ended is told after it has ended."""
    write_engine(paths, phase=phase, pid=ended_pid)
    state = read_engine_state(paths.engine_state)
    assert state is not None
    assert phase == state.phase


@pytest.mark.parametrize("content", [None, "", "{", "[]", "null"])
def test_a_missing_or_broken_state_is_none(content: str | None, paths: Paths) -> None:
    """Before the first start, or with garbage in the file, there is no state."""
    for path in (paths.engine_state, paths.webui_address):
        if content is not None:
            path.write_text(content)
    assert read_engine_state(paths.engine_state) is None
    assert read_webui_address(paths) is None


def test_the_webui_is_where_it_says(paths: Paths, ended_pid: int) -> None:
    """Its address is known while it lives, and not after."""
    document = {"host": "0.0.0.0", "port": 7861, "pid": os.getpid()}
    paths.webui_address.write_text(json.dumps(document))
    assert Address("0.0.0.0", 7861) == read_webui_address(paths)
    paths.webui_address.write_text(json.dumps(document | {"pid": ended_pid}))
    assert read_webui_address(paths) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a\nb\n\n  \nc\n\n", ["b", "c"]),
        (b"a", ["a"]),
        (b"a\n\xff\xfe", ["a", "\ufffd\ufffd"]),
    ],
)
def test_the_last_lines_of_a_log_are_those_with_words(
    content: bytes, expected: list[str], tmp_path: Path
) -> None:
    """Empty lines do not count, and broken text is shown as far as it can be."""
    log = tmp_path / "vllm.log"
    log.write_bytes(content)
    assert expected == last_lines(log, 2)


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    """A line that lies further back is out of reach, however many are asked for."""
    log = tmp_path / "vllm.log"
    log.write_text("first\n" + "x" * LOG_TAIL_BYTES + "\nlast\n")
    lines = last_lines(log, 100)
    assert (lines[-1], "first" in lines) == ("last", False)


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    """A program that never wrote has no last words."""
    assert last_lines(tmp_path / "no.log", 3) == []


class FakeSupervisord:
    """The two programs in given states."""

    def __init__(self, vllm: str = "RUNNING", webui: str = "RUNNING") -> None:
        self._states = {"vllm": vllm, "webui": webui}

    def states(self) -> list[ProgramState]:
        return [ProgramState(n, s, 1, f"{n} words") for n, s in self._states.items()]


def watch(paths: Paths, supervisord: FakeSupervisord, seconds: float = 0.0) -> StartWatch:
    """A watch on whose clock ``seconds`` have passed at the first look, and an hour later on."""
    ticks = iter([BEGAN + seconds, BEGAN + seconds])
    return StartWatch(
        supervisord,  # type: ignore[arg-type]
        paths,
        BEGAN,
        ProgressLine(io.StringIO()),
        clock=lambda: next(ticks, BEGAN + 3600),
    )


def answering(monkeypatch: pytest.MonkeyPatch, *, answer: bool) -> list[tuple[Address, str]]:
    """Let the WebUI answer so; what it is asked."""
    asked: list[tuple[Address, str]] = []

    def answers(address: Address, path: str) -> bool:
        asked.append((address, path))
        return answer

    monkeypatch.setattr(readiness, "answers", answers)
    return asked


def write_address(paths: Paths) -> Address:
    document = {"host": "127.0.0.1", "port": 7860, "pid": os.getpid()}
    paths.webui_address.write_text(json.dumps(document))
    return Address("127.0.0.1", 7860)


def failure(start: StartWatch, timeout: float = 60) -> str:
    with pytest.raises(LauncherError) as caught:
        start.wait(timeout)
    return str(caught.value)


@pytest.mark.parametrize("state", ["FATAL", "EXITED", "STOPPED", "UNKNOWN"])
def test_a_program_that_ended_ends_the_wait(state: str, paths: Paths) -> None:
    """Its last words and its log are shown at once, not after the timeout."""
    log = paths.log_of("webui")
    log.write_text("one\ntwo\nthree\nfour\n")
    expected = f"webui is {state}. Its last words:\n    two\n    three\n    four\n  its log: {log}"
    assert expected == failure(watch(paths, FakeSupervisord(webui=state)))


def test_a_program_without_a_log_is_described_by_supervisord(paths: Paths) -> None:
    """Where nothing was written, supervisord's own words stand."""
    expected = f"Its last words:\n    webui words\n  its log: {paths.log_of('webui')}"
    assert failure(watch(paths, FakeSupervisord(webui="FATAL"))).endswith(expected)


@pytest.mark.parametrize("vllm", ["RUNNING", "FATAL"])
def test_a_failed_engine_ends_the_wait_with_its_cause(vllm: str, paths: Paths) -> None:
    """The cause is told whether or not supervisord has noticed yet."""
    write_engine(paths, phase="failed", message="out of memory", evidence="MemoryError")
    log = paths.log_of("vllm")
    expected = f"vllm failed: out of memory\n    MemoryError\n  all of its log: {log}"
    assert failure(watch(paths, FakeSupervisord(vllm=vllm))).startswith(expected)


def test_a_failure_of_an_earlier_start_is_not_this_ones(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before this start began is old news; the wait goes on to its limit."""
    monkeypatch.setattr(readiness, "POLL_S", 0.0)
    write_engine(paths, phase="failed", changed_at=BEGAN - 1)
    expected = "not ready after 60 s; `launch logs vllm` tells more"
    assert expected == failure(watch(paths, FakeSupervisord()))


def test_the_wait_is_over_when_the_webui_says_so(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ready engine, a known address and a page that says ready together are the end."""
    asked = answering(monkeypatch, answer=True)
    write_engine(paths, phase="ready")
    expected = write_address(paths)
    assert expected == watch(paths, FakeSupervisord()).wait(60)
    assert [(expected, "/readyz")] == asked


def test_a_webui_that_is_not_ready_is_waited_for(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ready engine and an address are not enough."""
    monkeypatch.setattr(readiness, "POLL_S", 0.0)
    asked = answering(monkeypatch, answer=False)
    write_engine(paths, phase="ready")
    address = write_address(paths)
    assert failure(watch(paths, FakeSupervisord())).startswith("not ready after 60 s")
    assert {(address, "/readyz")} == set(asked)


@pytest.mark.parametrize(("phase", "expected"), [("loading", "m"), ("stopped", "starting")])
def test_progress_is_in_the_words_of_this_start(
    phase: str, expected: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "stopped" is what the engine before this one said, and is not shown."""
    monkeypatch.setattr(readiness, "POLL_S", 0.0)
    shown: list[str] = []
    monkeypatch.setattr(ProgressLine, "show", lambda _, words, __: shown.append(words))
    write_engine(paths, phase=phase)
    failure(watch(paths, FakeSupervisord()))
    assert {expected} == set(shown)


def test_the_webui_alone_can_be_waited_for(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarting the page does not wait for a model that is still loading, only for life."""
    asked = answering(monkeypatch, answer=True)
    write_engine(paths, phase="loading")
    expected = write_address(paths)
    assert expected == watch(paths, FakeSupervisord(vllm="FATAL")).wait_for_webui(60)
    assert [(expected, "/livez")] == asked


def test_an_address_without_an_answer_is_no_webui(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that says where it listens is not yet a page."""
    monkeypatch.setattr(readiness, "POLL_S", 0.0)
    answering(monkeypatch, answer=False)
    write_address(paths)
    with pytest.raises(LauncherError, match="not up after 60 s"):
        watch(paths, FakeSupervisord()).wait_for_webui(60)


def test_a_webui_that_ended_ends_that_wait(paths: Paths) -> None:
    """Its last words are shown at once."""
    with pytest.raises(LauncherError, match=r"webui is FATAL\. Its last words"):
        watch(paths, FakeSupervisord(webui="FATAL")).wait_for_webui(60)


def test_a_webui_that_does_not_come_is_given_up(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the limit the log is named."""
    monkeypatch.setattr(readiness, "POLL_S", 0.0)
    with pytest.raises(LauncherError, match="not up after 60 s; `launch logs webui` tells more"):
        watch(paths, FakeSupervisord()).wait_for_webui(60)


class Page(BaseHTTPRequestHandler):
    """Lives, and is not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> Iterator[int]:
    """The port of a page that lives and is not ready."""
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(("path", "expected"), [("/livez", True), ("/readyz", False)])
def test_only_200_is_an_answer(host: str, path: str, expected: bool, page: int) -> None:
    """A wildcard address is asked on the loopback."""
    assert expected == answers(Address(host, page), path)


def test_a_closed_port_is_no_answer() -> None:
    """Nobody listens there, which is no error."""
    assert not answers(Address("127.0.0.1", free_port()), "/livez")
