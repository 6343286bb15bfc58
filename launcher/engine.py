"""The parent of vLLM: starts it, says how far it is, and leaves nothing of it behind.

    python -m launcher.engine --state FILE --crashes FILE --port N ... -- COMMAND [ARG ...]

vLLM is three processes or more, and its own exit code cannot be trusted (0 after a crash of the
engine core). So supervisord runs this small process instead. It adopts whatever vLLM's processes
leave behind (child subreaper), passes SIGTERM on once, kills what has not gone in time, and exits
with a code that tells a stop from a crash. Crashes are counted in a file; after the third without
ten good minutes in between the next start ends at once with the cause, and supervisord, which
does not restart after that code, shows FATAL.

Standard library only: it lives as long as the engine and should cost next to nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.engine_log import Cause, EngineLog

EX_SOFTWARE = 70
"""The engine ended by itself, whatever it said."""
EX_TEMPFAIL = 75
"""It was not ready in time."""
EX_CONFIG = 78
"""Starting again would not help."""

MAX_CRASHES = 3
GOOD_RUN_S = 600.0
"""An engine that was ready this long has forgotten its earlier crashes."""
EARLY_EXIT_S = 5.0
"""supervisord's startsecs: an end before that is FATAL without our counting."""
KILL_GRACE_S = 5.0
POLL_S = 0.25
MAX_READS = 16

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Settings:
    """How to run one engine; times in seconds."""

    state: Path
    crashes: Path
    port: int
    start_timeout: float
    stop_timeout: float
    command: list[str]


class StateFile:
    """What the engine is doing, for ``up``, the page and the API: replaced whole, never torn."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._started = clock()

    def write(self, phase: str, message: str, **more: Any) -> None:
        document = {
            "phase": phase,
            "message": message,
            "started_at": self._started,
            "changed_at": self._clock(),
            "pid": os.getpid(),
            **more,
        }
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        # A full disk must not take the engine down with it.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(document))
            temporary.chmod(0o600)
            temporary.replace(self._path)


class CrashLedger:
    """How many crashes there were since the last good run, and why the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_text())
            return document if isinstance(document, dict) else {}
        except (OSError, ValueError):
            return {}

    def count(self) -> int:
        count = self._read().get("count", 0)
        return count if isinstance(count, int) else 0

    def last_cause(self) -> str:
        return str(self._read().get("cause", "unknown cause"))

    def add(self, cause: str) -> None:
        document = {"count": self.count() + 1, "cause": cause}
        with contextlib.suppress(OSError):
            self._path.write_text(json.dumps(document))

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def say(message: str, *, on_new_line: bool = False) -> None:
    """A line in the engine's log, as long as anybody reads it."""
    with contextlib.suppress(OSError):
        before = "\n" if on_new_line else ""
        print(f"{before}step3vl: {message}", flush=True)


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    """In the child, before exec: if this parent is killed, vLLM's API server goes too."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def is_healthy(port: int, timeout: float = 1.0) -> bool:
    """Whether ``GET /health`` answers 200. A loading engine refuses the connection."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Process ids below ``pid``, from /proc; ended ones that nobody collected included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            # "pid (name) state parent ...", and the name may hold anything.
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


class Engine:
    """One run of vLLM, from spawn to the last of its processes gone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = StateFile(settings.state)
        self._ledger = CrashLedger(settings.crashes)
        self._log = EngineLog()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping_since: float | None = None
        self._announced = ""
        self._began = time.monotonic()
        self._ready_since: float | None = None
        self._output = b""

    def run(self) -> int:
        """Start, watch, clean up; the exit code for supervisord."""
        if self._ledger.count() >= MAX_CRASHES:
            return self._give_up()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._handle_stop)
        self._state.write("starting", "starting vLLM")
        try:
            child = subprocess.Popen(
                self._settings.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (this process has one thread)
            )
        except OSError as error:
            evidence = f"{self._settings.command[0]}: {error.strerror}"
            say(evidence)
            return self._failed("the engine's program cannot be run", EX_CONFIG, evidence)
        self._child = child
        if self._stopping_since is not None:  # asked to stop while we started
            child.terminate()
        try:
            timed_out = self._watch(child)
        finally:
            self._kill_the_rest(child)
        return self._verdict(child.wait(), timed_out)

    def _give_up(self) -> int:
        cause = self._ledger.last_cause()
        # A start by hand after this one is a fresh attempt.
        self._ledger.clear()
        return self._failed(
            f"crashed {MAX_CRASHES} times, not starting again; the last time: {cause}", EX_CONFIG
        )

    def _failed(self, cause: str, code: int, evidence: str = "") -> int:
        self._state.write("failed", cause, evidence=evidence)
        say(cause)
        return code

    def _handle_stop(self, _number: int, _frame: object) -> None:
        """Pass the first SIGTERM on; the deadline in ``_watch`` sees to the rest."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            if self._child is not None:
                self._child.terminate()

    def _watch(self, child: subprocess.Popen[bytes]) -> bool:
        """Read output and look at the clock until vLLM's first process ends; True if too slow."""
        assert child.stdout is not None  # noqa: S101  (a pipe was asked for)
        os.set_blocking(child.stdout.fileno(), False)
        started = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while child.poll() is None:
                selector.select(POLL_S)
                # Read even where nothing was waiting a moment ago: what is said before the engine
                # is ready must be known before it is asked whether it is.
                if selector.get_map() and not self._copy_output(child.stdout.fileno()):
                    selector.unregister(child.stdout)
                self._report_progress()
                if self._overdue(started):
                    return True
            self._copy_output(child.stdout.fileno())
        return False

    def _report_progress(self) -> None:
        if self._stopping_since is not None:
            self._announce("stopping", "stopping")
        elif self._announced != "ready" and is_healthy(self._settings.port):
            self._announce("ready", "ready")
            self._ready_since = time.monotonic()
            # What was said before, half a line included, explains no later end.
            self._log.forget()
            self._output = b""

    def _announce(self, phase: str, message: str) -> None:
        """Write a change of phase to the state file and the log."""
        if self._announced != phase:
            self._announced = phase
            self._state.write(phase, message)
            # vLLM may be in the middle of a line.
            say(message, on_new_line=bool(self._output))

    def _overdue(self, started: float) -> bool:
        now = time.monotonic()
        if self._stopping_since is not None:
            return now - self._stopping_since > self._settings.stop_timeout
        return self._announced != "ready" and now - started > self._settings.start_timeout

    def _copy_output(self, descriptor: int) -> bool:
        """Copy some of what there is to our own output and to the log reader; False at the end.

        Not all of it: an engine that never pauses must not keep us from looking at the clock.
        """
        for _ in range(MAX_READS):
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return True
            if not data:
                self._log.feed(self._output.decode(errors="replace"))
                return False
            try:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            except OSError:  # supervisord is gone, and nobody else would stop the engine
                self._handle_stop(signal.SIGHUP, None)
                return False
            # A progress bar ends its states with a carriage return.
            *lines, self._output = (self._output + data.replace(b"\r", b"\n")).split(b"\n")
            for line in lines:
                if self._log.feed(line.decode(errors="replace")) and not self._announced:
                    self._state.write(self._log.phase.name, self._log.phase.message)
        return True

    def _kill_the_rest(self, child: subprocess.Popen[bytes]) -> None:
        """End every process below this one, the adopted included, and collect them."""
        deadline = time.monotonic() + KILL_GRACE_S
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.poll()  # Popen collects its own; the rest was adopted
            for pid in left:
                if pid != child.pid:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        if left:
            say(f"still there after {KILL_GRACE_S:g} s, in the kernel's hands: processes {left}")

    def _verdict(self, status: int, timed_out: bool) -> int:
        if self._stopping_since is not None:
            self._ledger.clear()
            self._state.write("stopped", "stopped")
            return 0
        if timed_out:
            return self._failed(f"not ready after {self._settings.start_timeout:g} s", EX_TEMPFAIL)
        cause = self._cause(status)
        now = time.monotonic()
        if self._ready_since is not None and now - self._ready_since > GOOD_RUN_S:
            self._ledger.clear()
        if cause.permanent:
            return self._failed(cause.message, EX_CONFIG, cause.evidence)
        if now - self._began > EARLY_EXIT_S:
            self._ledger.add(cause.message)
        return self._failed(cause.message, EX_SOFTWARE, cause.evidence)

    def _cause(self, status: int) -> Cause:
        """In words that may be shown to anyone; the log's own line is for this machine only."""
        if status < 0:
            return Cause(f"vLLM was killed by signal {-status}", "")
        found = self._log.cause()
        if found is not None and found.known:
            return found
        words = f"vLLM ended by itself (exit {status}); its log says why"
        return Cause(words, found.evidence if found else "")


def parse_arguments(argv: list[str]) -> Settings:
    parser = argparse.ArgumentParser(prog="launcher.engine")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--crashes", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--start-timeout", type=float, required=True)
    parser.add_argument("--stop-timeout", type=float, required=True)
    parser.add_argument("command", nargs="+")
    return Settings(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(Engine(parse_arguments(sys.argv[1:])).run())
