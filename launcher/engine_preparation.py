"""Before vLLM starts: nothing of an earlier engine may be in its way. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from launcher.engine_causes import OUT_OF_MEMORY, UNKNOWN, Cause
from launcher.engine_state import STARTING, STOPPING, WAITING, CrashLedger, StateFile
from launcher.gpu_memory import cards
from launcher.leftovers import TAG, has_ended, kill_found, tagged

EX_SOFTWARE = 70
"""The engine ended by itself, whatever it said, or was ended because it hung."""
EX_TEMPFAIL = 75
"""It was not ready in time, or there was no memory for it."""
EX_CONFIG = 78
"""Starting again would not help."""

POLL_S = 0.25
MEMORY_POLL_S = 2.0
LOCK_MARGIN_S = 5.0
PORT_PATIENCE_S = 3.0


@dataclass(frozen=True)
class Settings:
    """How to run one engine; times in seconds, files as paths."""

    state: str
    crashes: str
    lock: str
    webui: str
    """Where the WebUI writes its process id, so that one that was stopped is woken."""
    port: int
    model: str
    start_timeout: float
    stop_timeout: float
    stalled_after: float
    hung_after: float
    crash_limit: int
    good_run: float
    memory_timeout: float
    gpu_share: float
    gpu_count: int
    host: str = "127.0.0.1"
    """Where it listens."""
    title: str = "vLLM"
    """For people."""
    has_figures: bool = True
    """Whether its ``/metrics`` tell of progress; and it ends where a core has died, so that an
    unhealthy one is not to be waited for."""
    undo: list[str] = field(default_factory=list)
    """A command for what outlives its processes, where the first was killed and could not see to
    it."""

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def as_argument(self) -> str:
        return json.dumps(asdict(self))


def say(message: str, *, on_new_line: bool = False) -> None:
    """A line in the engine's log, as long as anybody reads it."""
    with contextlib.suppress(OSError):
        before = "\n" if on_new_line else ""
        print(f"{before}step3vl: {message}", flush=True)


class StoppedError(Exception):
    """A stop was asked for before there was an engine."""


class CannotStartError(Exception):
    """There will be no engine this time."""

    def __init__(self, cause: Cause, exit_code: int, message: str | None = None) -> None:
        super().__init__(message or cause.message)
        self.cause = cause
        self.exit_code = exit_code
        self.message = message


class Stop:
    """SIGTERM, SIGINT and SIGHUP: when it came, and what is told of the first one."""

    def __init__(self) -> None:
        self.since: float | None = None
        self._tell: Callable[[], None] | None = None
        self._told = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: object) -> None:
        self.ask()

    def ask(self) -> None:
        """As a signal does."""
        if self.since is None:
            self.since = time.monotonic()
        self._pass_on()

    def connect(self, tell: Callable[[], None]) -> None:
        """Call this once, of a stop that comes or of one that has come already."""
        self._tell = tell
        self._pass_on()

    def _pass_on(self) -> None:
        if self.since is not None and self._tell is not None and not self._told:
            self._told = True
            self._tell()


class Preparation:
    """What comes before a start: nothing of an earlier engine may be in the way."""

    def __init__(
        self, settings: Settings, state: StateFile, ledger: CrashLedger, stop: Stop
    ) -> None:
        self._settings = settings
        self._state = state
        self._ledger = ledger
        self._stop = stop
        self._lock: TextIO | None = None

    def run(self) -> None:
        """Raises:
        CannotStartError: with the cause.
        StoppedError: a stop was asked for meanwhile.
        """
        self._lock_out_others()
        self._count_a_killed_one()
        self._state.last_cause = self._ledger.last_cause()
        if self._ledger.must_give_up():
            self._give_up()
        self._state.write(STARTING, f"starting {self._settings.title}")
        self._back_off()
        self._sweep()
        self._wait_for_gpu_memory()
        self._wait_for_port()

    def _give_up(self) -> None:
        cause = self._ledger.last_cause() or Cause(UNKNOWN, "unknown cause")
        raise CannotStartError(
            cause,
            EX_CONFIG,
            f"crashed {self._ledger.count()} times, not starting again; the last time:"
            f" {cause.message}",
        )

    def _lock_out_others(self) -> None:
        """One parent at a time: whatever else carries our tag is then a leftover."""
        try:
            self._lock = Path(self._settings.lock).open("w")  # noqa: SIM115  (while we live)
        except OSError as error:
            evidence = f"{self._settings.lock}: {error.strerror}"
            cause = Cause("disk", "its run folder cannot be written", "free some space", evidence)
            raise CannotStartError(cause, EX_TEMPFAIL) from None
        if self._locked():
            return
        self._state.is_ours = False
        say("waiting until the engine before this one has stopped")
        limit = self._settings.stop_timeout + LOCK_MARGIN_S
        if not self._wait(self._locked, limit, POLL_S):
            cause = Cause("running", "another engine of this installation runs", "stop it first")
            raise CannotStartError(cause, EX_CONFIG)
        self._state.is_ours = True

    def _locked(self) -> bool:
        assert self._lock is not None  # noqa: S101  (opened before)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _count_a_killed_one(self) -> None:
        """A parent that was killed could not count its own end."""
        if (left := self._state.left_behind()) is None or left.get("phase") in {STOPPING, WAITING}:
            return
        since = left.get("ready_since")
        if isinstance(since, (int, float)) and time.time() - since > self._settings.good_run:
            self._ledger.clear()
        words = "the engine and its parent were killed"
        self._ledger.add(Cause("killed", words, "the kernel does so when memory runs out: dmesg"))

    def _back_off(self) -> None:
        seconds = self._ledger.back_off_s()
        if not seconds or self._state.last_cause is None:
            return
        message = f"starting again in {seconds:g} s; {self._state.last_cause.message}"
        self._state.write(WAITING, message)
        say(message)
        self._wait(lambda: False, seconds, POLL_S)

    def _sweep(self) -> None:
        tag = os.environ.get(TAG)
        if not tag:
            return
        killed: set[int] = set()

        def is_clean() -> bool:
            return not kill_found(lambda: tagged([tag]), killed)

        if is_clean():
            return
        self._state.write(WAITING, "waiting until what an earlier engine left has ended")
        if not self._wait(is_clean, self._settings.memory_timeout, POLL_S):
            evidence = f"processes {sorted(pid for pid in killed if not has_ended(pid))}"
            words = "what an earlier engine left cannot be ended"
            cause = Cause("leftovers", words, "restart the machine", evidence)
            self._ledger.add(cause)
            raise CannotStartError(cause, EX_TEMPFAIL)
        say(f"ended what an earlier engine had left: processes {sorted(killed)}")

    def _shortages(self) -> list[str]:
        if not self._settings.gpu_share:
            return []
        found = cards(self._settings.gpu_count, os.environ.get("CUDA_VISIBLE_DEVICES"))
        shortages = [card.shortage(self._settings.gpu_share) for card in found]
        return [words for words in shortages if words]

    def _wait_for_gpu_memory(self) -> None:
        """What held it may be gone a while before the driver has it free again."""
        if not (shortages := self._shortages()):
            return
        message = "waiting for GPU memory that somebody else holds"
        self._state.write(WAITING, message, evidence="; ".join(shortages))
        say("; ".join([message, *shortages]))
        limit = self._settings.memory_timeout
        if not self._wait(lambda: not self._shortages(), limit, MEMORY_POLL_S):
            fix = (
                "end what holds it (nvidia-smi), or lower gpu-memory-utilization in engine.options"
            )
            evidence = "; ".join(self._shortages())
            cause = Cause(OUT_OF_MEMORY, f"no GPU memory for {limit:g} s", fix, evidence)
            self._ledger.add(cause)
            raise CannotStartError(cause, EX_TEMPFAIL)

    def _wait_for_port(self) -> None:
        """An engine that is ending has no tag any more while the driver takes back its memory, and
        holds its port until then."""
        if not self._wait(self._port_is_free, PORT_PATIENCE_S, POLL_S):
            raise CannotStartError(self._taken_port(), EX_CONFIG)

    def _port_is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(self._settings.address)
            except OSError:
                return False
        return True

    def _taken_port(self) -> Cause:
        # Not before it is needed: it is larger than all of this process.
        from launcher.host_checks import listen_problem

        evidence = listen_problem(*self._settings.address) or ""
        fix = "write another engine.port, or end the program that holds it"
        return Cause("port", f"port {self._settings.port} is taken", fix, evidence)

    def _wait(self, until: Callable[[], bool], limit_s: float, poll_s: float) -> bool:
        """Poll; False when the time is over.

        Raises:
            StoppedError: a stop was asked for meanwhile.
        """
        deadline = time.monotonic() + limit_s
        while not until():
            if self._stop.since is not None:
                raise StoppedError
            if (left := deadline - time.monotonic()) <= 0:
                return False
            time.sleep(min(poll_s, left))
        return True
