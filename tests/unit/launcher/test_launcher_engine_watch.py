"""launcher.engine_watch: what counts as progress, with a small server and a clock of our own."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import free_port, wait_for

from launcher.engine_watch import (
    ANSWER_LIMIT_S,
    CHECK_S,
    PROBE_S,
    Pulse,
    Question,
    Watch,
    figures_in,
    is_ok,
)

LIMIT_S = 60.0
# What is shorter than this is no stall yet: a look and the time for its answer.
SLACK_S = CHECK_S + ANSWER_LIMIT_S
MODEL = "some-model"


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeEngine(ThreadingHTTPServer):
    """vLLM's /health, /metrics and /v1/completions, with figures that a test sets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.figures: dict[str, float] = {
            "num_requests_running": 0,
            "num_requests_waiting": 0,
            "kv_cache_usage_perc": 0,
            "generation_tokens_total": 0,
        }
        self.garbage: bytes | None = None
        self.probe_status = self.health_status = 200
        self.probes: list[dict[str, object]] = []
        self.answers_health = threading.Event()
        self.answers_health.set()
        self.answers_metrics = threading.Event()
        self.answers_probes = threading.Event()
        self.answers_metrics.set()
        self.answers_probes.set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def metrics(self) -> bytes:
        if self.garbage is not None:
            return self.garbage
        lines = [f'vllm:{name}{{engine="0"}} {value}' for name, value in self.figures.items()]
        return "\n".join(["# HELP vllm:x y", "process_open_fds 12.0", *lines]).encode()


class _Page(BaseHTTPRequestHandler):
    server: FakeEngine

    def do_GET(self) -> None:
        if self.path == "/health":
            assert self.server.answers_health.wait(LIMIT_S)
            self._answer(self.server.health_status, b"")
            return
        assert self.path == "/metrics"
        assert self.server.answers_metrics.wait(LIMIT_S)
        self._answer(200, self.server.metrics)

    def do_POST(self) -> None:
        assert self.path == "/v1/completions"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.probes.append(json.loads(body))
        assert self.server.answers_probes.wait(LIMIT_S)
        self._answer(self.server.probe_status, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # nobody waits for it any more
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Observer:
    """A Watch that looks once a second, on a clock of its own."""

    def __init__(self, port: int) -> None:
        self.clock = FakeClock()
        self.stopped = False
        self.watch = Watch(("127.0.0.1", port), MODEL, lambda: self.stopped, self.clock)

    def look(self, seconds: float = 0.0, *, settle: bool = True) -> float:
        """Let a second pass so many times; what the last look said.

        Args:
            settle: wait, with the clock standing, until /metrics has been answered.
        """
        stalled = self._once(settle)
        for _ in range(round(seconds)):
            self.clock.now += 1.0
            stalled = self._once(settle)
        return stalled

    def _once(self, settle: bool) -> float:
        stalled = self.watch.stalled_s()
        return self.settle() if settle else stalled

    def settle(self) -> float:
        deadline = time.monotonic() + LIMIT_S
        while (metrics := self.watch._metrics) is not None:
            assert time.monotonic() < deadline, "no answer to /metrics"
            select.select([metrics.question._socket], [], [], 0.05)
            self.watch.stalled_s()
        return self.watch.stalled_s()


@contextlib.contextmanager
def serving() -> Iterator[FakeEngine]:
    server = FakeEngine()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.answers_health.set()
        server.answers_metrics.set()
        server.answers_probes.set()
        server.shutdown()
        thread.join(LIMIT_S)
        server.server_close()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with serving() as server:
        yield server


@pytest.fixture
def observer(engine: FakeEngine) -> Iterator[Observer]:
    found = Observer(engine.port)
    yield found
    found.watch.close()


def busy(engine: FakeEngine) -> None:
    engine.figures["num_requests_running"] = 1


@pytest.mark.parametrize(
    "figure", ["generation_tokens_total", "kv_cache_usage_perc", "num_requests_waiting"]
)
def test_a_busy_engine_of_which_one_figure_moves_is_well(
    figure: str, engine: FakeEngine, observer: Observer
) -> None:
    """Tokens of an answer, or the KV cache that fills during a long prefill."""
    busy(engine)
    seen = []
    for _ in range(30):
        engine.figures[figure] += 0.001
        seen.append(observer.look(10))
    assert set(seen) == {0.0}
    assert engine.probes == []


def test_a_busy_engine_of_which_nothing_moves_is_stalled(
    engine: FakeEngine, observer: Observer
) -> None:
    """From the last progress on, and more with every second."""
    busy(engine)
    assert observer.look(SLACK_S) == 0.0
    found = [observer.look(1) for _ in range(30)]
    assert [SLACK_S + 1 + i for i in range(30)] == found


def test_progress_ends_a_stall(engine: FakeEngine, observer: Observer) -> None:
    """A look later it is well again."""
    busy(engine)
    assert observer.look(60) > 0
    engine.figures["generation_tokens_total"] += 1
    assert observer.look(CHECK_S) == 0.0


def test_waiting_requests_are_owed_progress_too(engine: FakeEngine, observer: Observer) -> None:
    """An engine that hangs before it takes a request up has none that runs."""
    engine.figures["num_requests_waiting"] = 3
    assert observer.look(60) == 60.0


def test_an_idle_engine_is_well(engine: FakeEngine, observer: Observer) -> None:
    """It owes nobody anything, and answers when it is asked for a token."""
    assert [observer.look(PROBE_S / 2) for _ in range(8)] == [0.0] * 8
    expected = {"model": MODEL, "prompt": ".", "max_tokens": 1, "temperature": 0}
    assert engine.probes == [expected] * len(engine.probes)
    assert 3 <= len(engine.probes) <= 4


def test_an_engine_at_work_is_not_asked_for_tokens(engine: FakeEngine, observer: Observer) -> None:
    """Its figures say enough; a probe would only wait in its queue."""
    for _ in range(10):
        engine.figures["generation_tokens_total"] += 1
        observer.look(PROBE_S / 2)
    assert engine.probes == []


def test_an_idle_engine_that_does_not_answer_a_probe_is_stalled(
    engine: FakeEngine, observer: Observer
) -> None:
    """Its port answers /metrics all the while, with figures that stand still."""
    engine.answers_probes.clear()
    assert observer.look(PROBE_S - CHECK_S) == 0.0
    stalled = observer.look(CHECK_S + 60)
    assert 60 - CHECK_S <= stalled <= 60 + CHECK_S
    assert len(engine.probes) == 1
    engine.answers_probes.set()
    wait_for(lambda: observer.look() == 0.0 or observer.look(1) == 0.0, LIMIT_S, "well again")


@pytest.mark.parametrize("status", [400, 404])
def test_a_refused_probe_is_not_repeated(
    status: int, engine: FakeEngine, observer: Observer
) -> None:
    """An engine that does not take such a request has answered, and will again."""
    engine.probe_status = status
    assert observer.look(5 * PROBE_S) == 0.0
    assert len(engine.probes) == 1


def test_an_engine_that_accepts_and_never_answers_is_stalled(
    engine: FakeEngine, observer: Observer
) -> None:
    """Whether it is busy cannot be known, and nobody else gets an answer either."""
    engine.answers_metrics.clear()
    assert observer.look(SLACK_S, settle=False) == 0.0
    assert observer.look(45, settle=False) == SLACK_S + 45
    engine.answers_metrics.set()
    observer.look(2 * CHECK_S + ANSWER_LIMIT_S, settle=False)
    wait_for(lambda: observer.look() == 0.0, LIMIT_S, "well again")


def test_where_nobody_listens_is_no_progress() -> None:
    """A refused connection is no answer, and no error either."""
    observer = Observer(free_port())
    assert observer.look(SLACK_S, settle=False) == 0.0
    assert observer.look(10, settle=False) == SLACK_S + 10


@pytest.mark.parametrize("running", [0, 1])
def test_an_engine_with_a_stopped_process_is_stalled(
    running: int, engine: FakeEngine, observer: Observer
) -> None:
    """Idle or not, and although its port answers; once woken it is well again."""
    engine.figures["num_requests_running"] = running
    observer.look(CHECK_S)
    observer.stopped = True
    assert observer.look(60) >= 60
    observer.stopped = False
    engine.figures["generation_tokens_total"] += 1
    assert observer.look(CHECK_S) == 0.0


@pytest.mark.parametrize(
    "garbage",
    [
        *(b"", b"\xff\x00\n" * 9, b"<html>", b"vllm:", b"vllm:num_requests_running"),
        b"vllm:num_requests_running{ x\nvllm:generation_tokens_total} 3 y",
        b"vllm:num_requests_running NaN\nvllm:num_requests_waiting -",
    ],
)
def test_metrics_that_say_nothing_are_no_stall(
    garbage: bytes, engine: FakeEngine, observer: Observer
) -> None:
    """Nobody knows of a request that would wait; a probe tells whether it lives."""
    engine.garbage = garbage
    assert observer.look(100) == 0.0


@pytest.mark.parametrize("value", ["NaN", "Inf", "-Inf"])
def test_a_figure_that_is_no_number_is_no_progress(
    value: str, engine: FakeEngine, observer: Observer
) -> None:
    """NaN differs from itself, and would look like progress for ever."""
    engine.garbage = (
        f"vllm:num_requests_running 1\nvllm:kv_cache_usage_perc {value}\n"
        f'vllm:kv_cache_usage_perc{{engine="1"}} -{value.removeprefix("-")}'
    ).encode()
    assert observer.look(60) == 60.0


def test_an_engine_without_figures_is_not_asked_for_tokens(
    engine: FakeEngine, observer: Observer
) -> None:
    """With disable-log-stats nobody can tell a long queue, where a probe waits, from a hang."""
    engine.garbage = b"process_open_fds 12.0\n"
    engine.answers_probes.clear()
    assert observer.look(4 * PROBE_S) == 0.0


@pytest.mark.parametrize("running", [0, 1])
def test_time_in_which_nobody_looked_is_no_stall(
    running: int, engine: FakeEngine, observer: Observer
) -> None:
    """A parent that was stopped itself, or a paused container, has seen no hang."""
    engine.figures["num_requests_running"] = running
    observer.look(3)
    observer.watch.stalled_s()
    observer.clock.now += 10_000
    engine.figures["generation_tokens_total"] += 1
    assert observer.look() == 0.0
    for _ in range(4):
        engine.figures["generation_tokens_total"] += 1
        assert observer.look(CHECK_S) == 0.0


def test_a_question_that_was_open_meanwhile_is_no_stall_either(
    engine: FakeEngine, observer: Observer
) -> None:
    """Its answer came while nobody looked."""
    busy(engine)
    observer.look(CHECK_S)
    observer.clock.now += CHECK_S
    observer.look(settle=False)
    metrics = observer.watch._metrics
    assert metrics is not None
    assert select.select([metrics.question._socket], [], [], LIMIT_S)[0], "no answer"
    observer.clock.now += 10_000
    for _ in range(6):
        engine.figures["generation_tokens_total"] += 1
        assert observer.look(CHECK_S) == 0.0


def test_a_hang_is_seen_although_nobody_looked_for_a_while(
    engine: FakeEngine, observer: Observer
) -> None:
    """Only the time without a look is forgiven."""
    busy(engine)
    observer.look(60)
    observer.clock.now += 10_000
    assert 60 <= observer.look() <= 60 + CHECK_S
    assert observer.look(60) >= 120


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 1))
def test_a_stall_is_never_told_shorter_than_it_is(gaps: list[int], slow: int) -> None:
    """Progress between two looks may be as old as the first of them; ``slow`` is its answer, in s.

    The stall that is told is at most a look longer than the real one.
    """
    with serving() as engine:
        observer = Observer(engine.port)
        busy(engine)
        observer.look(1)
        for gap in gaps:
            engine.figures["generation_tokens_total"] += 1
            progress_at = observer.clock.now
            for _ in range(gap):
                observer.clock.now += 1.0
                stalled = tick(engine, observer, slow)
                real = observer.clock.now - progress_at
                assert stalled == 0.0 or stalled >= real
                if real > CHECK_S + slow + 1:  # by now the progress has been seen
                    assert stalled <= real + CHECK_S + slow + 1
                assert stalled > 0.0 or real <= SLACK_S
        observer.watch.close()


def tick(engine: FakeEngine, observer: Observer, slow: int) -> float:
    """A look; the answer to a question that it asks is as of now, and read ``slow`` s later."""
    before = observer.watch._asked_at
    stalled = observer.watch.stalled_s()
    if observer.watch._metrics is not None and observer.watch._asked_at != before:
        question = observer.watch._metrics.question
        assert select.select([question._socket], [], [], LIMIT_S)[0], "no answer"
    metrics = observer.watch._metrics
    if metrics is not None and observer.clock.now - metrics.at >= slow:
        return observer.settle()
    return stalled


def test_no_connection_is_left_open(engine: FakeEngine) -> None:
    """Whether it is answered, not answered, or closed half way."""
    before = open_files()
    observer = Observer(engine.port)
    observer.look(60)
    engine.answers_metrics.clear()
    engine.answers_probes.clear()
    observer.look(2 * PROBE_S, settle=False)
    observer.watch.close()
    engine.answers_metrics.set()
    engine.answers_probes.set()
    # The server's own ends are in this process too.
    wait_for(lambda: open_files() <= before, LIMIT_S, "all of them closed")


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *((b"HTTP/1.0 200 OK\r\n\r\n", True), (b"HTTP/1.1 200 \r\n", True), (None, False)),
        *((b"", False), (b"HTTP/1.0 503 x 200 y", False), (b"200", False)),
    ],
)
def test_only_status_200_is_well(answer: bytes | None, expected: bool) -> None:
    """A loading engine, a broken connection and an error are not."""
    assert is_ok(answer) is expected


def test_a_question_to_a_closed_port_is_refused() -> None:
    """That is how a loading engine answers."""
    with pytest.raises(OSError, match="refused"):
        Question(("127.0.0.1", free_port()), "/health")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"vllm:num_requests_running 2.0", {b"vllm:num_requests_running": 2.0}),
        (
            b'vllm:num_requests_running{engine="0",model_name="a b"} 2.0\n'
            b'vllm:num_requests_running{engine="1",model_name="a b"} 3.0',
            {b"vllm:num_requests_running": 5.0},
        ),
        (b'vllm:generation_tokens_total{x="{"} 1e3', {b"vllm:generation_tokens_total": 1000.0}),
        (b"vllm:num_requests_running_total 2.0\nnum_requests_running 1", {}),
        (b'# vllm:num_requests_running 1\nvllm:iteration_tokens_total_bucket{le="1"} 4', {}),
    ],
)
def test_figures_are_summed_over_engines(lines: bytes, expected: dict[bytes, float]) -> None:
    """Of vLLM's many lines only those that tell progress are read."""
    assert expected == figures_in(b"HTTP/1.0 200 OK\r\n\r\n" + lines)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.sampled_from([b"", b"vllm:num_requests_running"]))
def test_no_answer_is_too_odd_to_be_read(noise: bytes, start: bytes) -> None:
    """Whatever a port says, it is figures or none."""
    for value in figures_in(start + noise).values():
        assert value == value


class PulseTaker:
    """A Pulse that looks once a second, on a clock of its own."""

    def __init__(self, port: int) -> None:
        self.clock = FakeClock()
        self.stopped = False
        self.pulse = Pulse(("127.0.0.1", port), lambda: self.stopped, self.clock)

    def look(self, seconds: int, *, answered: bool = True) -> float:
        """Let a second pass so many times; what the last look said."""
        stalled = 0.0
        for _ in range(seconds):
            self.clock.now += 1.0
            stalled = self.pulse.stalled_s()
            if answered and (asked := self.pulse._asked) is not None:
                select.select([asked.question._socket], [], [], LIMIT_S)
        return stalled


@pytest.fixture
def taker(engine: FakeEngine) -> Iterator[PulseTaker]:
    found = PulseTaker(engine.port)
    yield found
    found.pulse.close()


def test_an_engine_that_says_it_is_well_is_well(taker: PulseTaker) -> None:
    assert taker.look(300) == 0


@pytest.mark.parametrize("status", [404, 500, 503])
def test_an_engine_that_says_it_is_not_well_is_stalled(
    status: int, engine: FakeEngine, taker: PulseTaker
) -> None:
    engine.health_status = status
    assert 30 <= taker.look(40) <= 40
    engine.health_status = 200
    assert taker.look(10) == 0


def test_an_engine_that_does_not_say_is_stalled_and_asked_again(
    engine: FakeEngine, taker: PulseTaker
) -> None:
    """Whoever should have answered may have died with the first question."""
    engine.answers_health.clear()
    assert 30 <= taker.look(40, answered=False) <= 40
    engine.answers_health.set()
    assert taker.look(20) == 0


def test_an_engine_that_has_ended_is_stalled() -> None:
    assert 30 <= PulseTaker(free_port()).look(40) <= 40


def test_an_engine_that_was_stopped_is_not_well_whatever_answers(taker: PulseTaker) -> None:
    taker.stopped = True
    assert taker.look(40) >= 30


def test_time_in_which_nobody_took_the_pulse_is_no_stall(taker: PulseTaker) -> None:
    taker.look(10)
    taker.clock.now += 1000
    assert taker.look(1) == 0
