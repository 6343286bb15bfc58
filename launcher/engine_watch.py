"""Is the engine ready, and does it get on with its work? Asked of its port, without ever waiting.

Progress is whatever changes among vLLM's own figures while requests run: tokens, and the KV cache
that fills during a long prefill. An engine that has nothing to do is asked for one token now and
then, because its figures would stand still as well if it hung. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEALTH = "/health"
CHECK_S = 5.0
PROBE_S = 30.0
"""An idle engine is asked for a token this often."""
ANSWER_LIMIT_S = 10.0
CONNECT_S = 1.0

RUNNING = (b"vllm:num_requests_running", b"vllm:num_requests_waiting")
FIGURES = (
    *RUNNING,
    b"vllm:kv_cache_usage_perc",
    b"vllm:generation_tokens_total",
    b"vllm:prompt_tokens_total",
    b"vllm:iteration_tokens_total_count",
    b"vllm:iteration_tokens_total_sum",
)


class Question:
    """One HTTP request to the engine, whose answer is collected as it comes.

    Raises:
        OSError: nobody listens; a loading engine refuses the connection.
    """

    def __init__(self, address: tuple[str, int], path: str, body: bytes | None = None) -> None:
        self._socket = socket.create_connection(address, CONNECT_S)
        self._parts: list[bytes] = []
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        with self._closed_on_error():
            self._socket.sendall(f"{head}\r\n".encode() + (body or b""))
            self._socket.setblocking(False)

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._socket.close()
            raise

    def answer(self) -> bytes | None:
        """The whole answer, head and body; None while it is not there.

        Raises:
            OSError: the connection broke.
        """
        with self._closed_on_error():
            while True:
                try:
                    part = self._socket.recv(1 << 16)
                except BlockingIOError:
                    return None
                if not part:
                    break
                self._parts.append(part)
        self._socket.close()
        return b"".join(self._parts)

    def close(self) -> None:
        self._socket.close()


def is_ok(answer: bytes | None) -> bool:
    """Whether an answer's status is 200."""
    return answer is not None and b" 200 " in answer[:16]


def figures_in(answer: bytes) -> dict[bytes, float]:
    """vLLM's figures of :data:`FIGURES`, summed over engines, from its ``/metrics``."""
    figures: dict[bytes, float] = {}
    for line in answer.splitlines():
        if not line.startswith(b"vllm:"):
            continue
        name = line[: line.find(b"{")] if b"{" in line else line.partition(b" ")[0]
        if name in FIGURES:
            with contextlib.suppress(ValueError):
                value = float(line.rpartition(b" ")[2])
                if math.isfinite(value):  # NaN differs from itself: that would be progress
                    figures[name] = figures.get(name, 0.0) + value
    return figures


@dataclass
class _Asked:
    """A question that was asked at ``at``, seconds on the clock."""

    question: Question
    at: float


class Pulse:
    """As :class:`Watch`, for an engine without figures, which mends itself: it is asked for its
    health every few seconds, and whatever has died or hangs on the way to an answer, there is none.
    """

    def __init__(
        self, address: tuple[str, int], is_stopped: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._address = address
        self._is_stopped = is_stopped
        self._clock = clock
        self._well_at = self._asked_at = self._looked_at = clock()
        self._asked: _Asked | None = None

    def stalled_s(self) -> float:
        """For how long it has not been well, in seconds; 0 while all is well."""
        now = self._clock()
        if (missed := now - self._looked_at) > CHECK_S:  # this process itself was stopped
            self._well_at += missed
        self._looked_at = now
        if self._asked is not None:
            self._collect(self._asked, now)
        elif now - self._asked_at >= CHECK_S:
            self._asked_at = now
            with contextlib.suppress(OSError):  # not answered
                self._asked = _Asked(Question(self._address, HEALTH), now)
        silent = now - self._well_at
        return silent if silent > CHECK_S + ANSWER_LIMIT_S else 0.0

    @staticmethod
    def complaint(seconds: float, *, over: bool = False) -> str:
        """As Watch's."""
        return f"it {'had' if over else 'has'} not been well for {seconds:g} s"

    def close(self) -> None:
        if self._asked is not None:
            self._asked.question.close()
        self._asked = None

    def _collect(self, asked: _Asked, now: float) -> None:
        try:
            answer = asked.question.answer()
        except OSError:
            self._asked = None
            return
        if answer is not None:
            self._asked = None
            if is_ok(answer) and not self._is_stopped():
                self._well_at = now
        elif now - asked.at > ANSWER_LIMIT_S:
            self.close()  # who should have answered may have died with the question


class Watch:
    """Looks at a ready engine every few seconds; ``stalled_s`` says how long nothing moved.

    Args:
        model: a name the engine knows, for the token that it is asked for.
        is_stopped: whether one of its processes has been stopped (SIGSTOP).
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        address: tuple[str, int],
        model: str,
        is_stopped: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._address = address
        self._is_stopped = is_stopped
        self._clock = clock
        self._moved_at = self._judged_at = self._asked_at = self._probed_at = clock()
        self._looked_at = self._moved_at
        self._figures: dict[bytes, float] = {}
        self._metrics: _Asked | None = None
        self._probe: _Asked | None = None
        self._probes = True
        document = {"model": model, "prompt": ".", "max_tokens": 1, "temperature": 0}
        self._probe_body = json.dumps(document).encode()

    def stalled_s(self) -> float:
        """For how long it has owed somebody progress, in seconds; 0 while all is well."""
        now = self._clock()
        self._forgive(now - self._looked_at)
        self._looked_at = now
        self._collect(now)
        if self._metrics is None and now - self._asked_at >= CHECK_S:
            self._ask(now)
        stalled = now - self._moved_at
        return stalled if stalled > CHECK_S + ANSWER_LIMIT_S else 0.0

    @staticmethod
    def complaint(seconds: float, *, over: bool = False) -> str:
        """In words; ``over`` of an engine that is ended for it."""
        return f"no progress for {seconds:g} s while requests {'ran' if over else 'run'}"

    def _forgive(self, missed: float) -> None:
        """Time in which this process itself was stopped, or its container paused, is no stall."""
        if missed > CHECK_S:
            self._moved_at += missed
            self._judged_at += missed
            if self._metrics is not None:
                self._metrics.at += missed

    def close(self) -> None:
        for asked in (self._metrics, self._probe):
            if asked is not None:
                asked.question.close()
        self._metrics = self._probe = None

    def _ask(self, now: float) -> None:
        self._asked_at = now
        with contextlib.suppress(OSError):  # not answered: no progress
            self._metrics = _Asked(Question(self._address, "/metrics"), now)
        # Without figures (disable-log-stats) a probe in a long queue would look like a hang.
        wanted = self._probes and self._probe is None and self._figures
        if wanted and now - self._probed_at >= PROBE_S:
            self._probed_at = now
            with contextlib.suppress(OSError):
                self._probe = _Asked(
                    Question(self._address, "/v1/completions", self._probe_body), now
                )

    def _collect(self, now: float) -> None:
        if self._probe is not None and (answer := self._answer_to(self._probe)) is not None:
            # An engine that does not take such a request is not asked again.
            self._probes = is_ok(answer) or not answer
            self._probe = None
        if self._metrics is None:
            return
        answer = self._answer_to(self._metrics)
        if answer:
            self._judge(figures_in(answer), self._metrics.at, now)
        if answer is not None or now - self._metrics.at > ANSWER_LIMIT_S:
            self._metrics.question.close()
            self._metrics = None

    @staticmethod
    def _answer_to(asked: _Asked) -> bytes | None:
        try:
            return asked.question.answer()
        except OSError:
            return b""

    def _judge(self, figures: dict[bytes, float], asked_at: float, now: float) -> None:
        busy = any(figures.get(name) for name in RUNNING) or self._probe is not None
        moved = figures != self._figures
        if moved:
            self._probed_at = now  # at work, or it was a moment ago: no need to ask
        if (moved or not busy) and not self._is_stopped():
            # It moved after it was last asked; perhaps right after.
            self._moved_at = self._judged_at if busy else now
        self._figures, self._judged_at = figures, asked_at
