"""The parent of vLLM: starts it, says how far it is, and leaves nothing of it behind.

    python -m launcher.engine SETTINGS COMMAND [ARG ...]

vLLM is three processes or more, and its own exit code cannot be trusted (0 after a crash of the
engine core). So supervisord runs this small process instead. Before a start it ends what an earlier
engine of this installation has left and waits until the memory is free. It adopts whatever vLLM's
processes leave behind, passes SIGTERM on once, ends an engine that hangs, kills what has not gone
in time, and exits with a code that tells a stop from a crash. Crashes are counted in a file; after
the third without ten good minutes in between, starts end at once with the cause, and supervisord
shows FATAL.

Standard library only: it lives as long as the engine and should cost next to nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from launcher.engine_causes import OPTIONS, UNKNOWN, Cause
from launcher.engine_log import EngineLog
from launcher.engine_preparation import (
    EX_CONFIG,
    EX_SOFTWARE,
    EX_TEMPFAIL,
    CannotStartError,
    Preparation,
    Settings,
    Stop,
    StoppedError,
    say,
)
from launcher.engine_state import (
    READY,
    STALLED,
    STOPPED,
    STOPPING,
    CrashLedger,
    StateFile,
    read_document,
)
from launcher.engine_watch import HEALTH, Pulse, Question, Watch, is_ok
from launcher.leftovers import (
    TAG,
    adopt_orphans,
    descendants,
    end_with_parent,
    environment_of,
    kill_all,
    shared_memory,
    state_of,
    wake,
)

KILL_GRACE_S = 5.0
STARTING_POLL_S = 0.25
LOADING_STOP_S = 5.0
POLL_S = 0.5
LOOK_BESIDE_S = 10.0
HEALTH_S = 1.0
LAST_WORDS_S = 1.0
"""For the errors that vLLM sends to those who wait, once its core has died."""
FIND_PROCESSES_S = 60.0
UNDO_S = 60.0
MAX_READS = 16


def _die_with_parent() -> None:
    """In the child, before exec: if this parent is killed, vLLM's API server goes too."""
    end_with_parent(signal.SIGKILL)


class Engine:
    """One run of vLLM, from spawn to the last of its processes gone."""

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self._settings = settings
        self._command = command
        self._state = StateFile(Path(settings.state))
        self._ledger = CrashLedger(Path(settings.crashes), settings.crash_limit)
        self._log = EngineLog(settings.title)
        self._stop = Stop()
        # Kept, because the lock that it takes ends with it.
        self._preparation = Preparation(settings, self._state, self._ledger, self._stop)
        self._announced = ""
        self._began = time.monotonic()
        self._ready_since: float | None = None
        self._health: Question | None = None
        self._health_asked = 0.0
        self._died_at: float | None = None
        self._progress: Watch | Pulse | None = None
        self._webui_tag = os.environ.get(TAG, "").partition("-")[0] + "-webui"
        self._output = b""
        self._below: list[int] = []
        self._shared: set[Path] = set()
        self._found_at = self._looked_at = self._began
        self._stopped_since = self._stopped_looked = self._began

    def run(self) -> int:
        """Prepare, start, watch, clean up; the exit code for supervisord."""
        adopt_orphans()
        try:
            self._preparation.run()
            child = self._spawn()
            self._began = time.monotonic()
        except StoppedError:
            self._ledger.clear()
            self._state.write(STOPPED, "stopped")
            return 0
        except CannotStartError as error:
            return self._failed(error.cause, error.exit_code, error.message)
        self._stop.connect(child.terminate)
        try:
            ended_for = self._watch(child)
        finally:
            self._kill_the_rest()
        status = child.wait()
        if status < 0 and self._settings.undo:
            self._undo()
        return self._verdict(status, ended_for)

    def _spawn(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (this process has one thread)
            )
        except OSError as error:
            evidence = f"{self._command[0]}: {error.strerror}"
            cause = Cause(OPTIONS, "the engine's program cannot be run", "", evidence)
            raise CannotStartError(cause, EX_CONFIG) from None

    def _failed(self, cause: Cause, code: int, message: str | None = None) -> int:
        self._state.fail(cause, message)
        say(message or cause.message)
        if cause.evidence and cause.code != UNKNOWN:
            say(cause.evidence)
        return code

    def _watch(self, child: subprocess.Popen[bytes]) -> Cause | None:
        """Until vLLM's first process ends; or why it must be ended."""
        assert child.stdout is not None  # noqa: S101  (a pipe was asked for)
        os.set_blocking(child.stdout.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            with contextlib.suppress(OSError):  # an old kernel: then it is polled
                selector.register(os.pidfd_open(child.pid), selectors.EVENT_READ)
            listening = True
            while child.poll() is None:
                selector.select(POLL_S if self._announced == READY else STARTING_POLL_S)
                # Read even where nothing was waiting a moment ago: what is said before the engine
                # is ready must be known before it is asked whether it is.
                if listening and not self._copy_output(child.stdout.fileno()):
                    selector.unregister(child.stdout)
                    listening = False
                if (cause := self._look()) is not None:
                    return cause
            self._copy_output(child.stdout.fileno())
        return None

    def _look(self) -> Cause | None:
        """How the engine does; a reason to end it, if there is one."""
        now = time.monotonic()
        if self._stop.since is not None:
            if self._announced != STOPPING:
                self._note_shared_memory()  # Ray kills whom it stops
            self._announce(STOPPING, "stopping")
            # Of one that loads nobody has an answer to come, and vLLM does not listen before it
            # has loaded.
            grace = self._settings.stop_timeout
            if self._ready_since is None:
                grace = min(grace, LOADING_STOP_S)
            late = now - self._stop.since > grace
            return Cause("stopped", "it did not stop in time") if late else None
        self._look_beside(now)
        if self._progress is not None:
            died = self._look_at_core(now) if self._settings.has_figures else None
            return died or self._look_at_progress(self._progress)
        if (cause := self._look_for_stopped(now)) is not None:
            return cause
        if self._is_healthy():
            self._be_ready()
        elif now - self._began > self._settings.start_timeout:
            limit = self._settings.start_timeout
            fix = "where it only needs longer, raise engine.start_timeout_s"
            return Cause("not_ready", f"not ready after {limit:g} s", fix)
        return None

    def _look_for_stopped(self, now: float) -> Cause | None:
        """While it loads, a process that has been stopped is the only hang that can be told."""
        if now - self._stopped_looked < LOOK_BESIDE_S:
            return None
        self._stopped_looked = now
        if not self._is_stopped():
            self._stopped_since = now
        if now - self._stopped_since <= self._settings.hung_after:
            return None
        words = f"one of its processes was stopped for {now - self._stopped_since:.0f} s"
        return Cause(STALLED, words, "it was ended and is started again")

    def _be_ready(self) -> None:
        self._ready_since = time.time()
        self._announce(READY, "ready", ready_since=self._ready_since)
        self._progress = self._watch_progress()
        self._log.serve()
        self._output = b""  # half a line of before

    def _watch_progress(self) -> Watch | Pulse:
        settings, clock = self._settings, time.monotonic
        if settings.has_figures:
            return Watch(settings.address, settings.model, self._is_stopped, clock)
        return Pulse(settings.address, self._is_stopped, clock)

    def _look_at_core(self, now: float) -> Cause | None:
        """vLLM says at once that its core has died, and then takes seconds to leave."""
        if self._died_at is not None:
            words = "vLLM's engine process ended; its log says why"
            ended = Cause("killed", words) if now - self._died_at > LAST_WORDS_S else None
            return ended and (self._known_cause() or ended)
        if self._health is None:
            if now - self._health_asked < HEALTH_S:
                return None
            self._health_asked = now
        answer = self._health_answer()
        if answer and not is_ok(answer):
            self._died_at = now
        return None

    def _look_at_progress(self, watch: Watch | Pulse) -> Cause | None:
        stalled = watch.stalled_s()
        if stalled > self._settings.hung_after:
            words = watch.complaint(round(stalled), over=True)
            return Cause(STALLED, words, "it was ended and is started again")
        if stalled > self._settings.stalled_after:
            words = watch.complaint(self._settings.stalled_after)
            self._announce(STALLED, words, ready_since=self._ready_since)
        else:
            self._announce(READY, "ready", ready_since=self._ready_since)
        return None

    def _is_healthy(self) -> bool:
        return is_ok(self._health_answer())

    def _health_answer(self) -> bytes | None:
        """To ``GET /health``, asked now or before; None while there is none, as from an engine that
        loads: it refuses the connection."""
        try:
            if self._health is None:
                self._health = Question(self._settings.address, HEALTH)
            answer = self._health.answer()
        except OSError:
            self._health = None
            return None
        if answer is not None:
            self._health = None
        return answer

    def _is_stopped(self) -> bool:
        """Whether a process of vLLM's has been stopped (SIGSTOP)."""
        now = time.monotonic()
        if now - self._found_at > FIND_PROCESSES_S or not self._below:
            # Reading all of /proc is too much to do every few seconds.
            self._found_at, self._below = now, descendants(os.getpid())
        return any(state_of(pid) == "T" for pid in self._below)

    def _look_beside(self, now: float) -> None:
        """Let a WebUI that was stopped (SIGSTOP) run on; it does the same for us."""
        if now - self._looked_at < LOOK_BESIDE_S:
            return
        self._looked_at = now
        pid = read_document(Path(self._settings.webui)).get("pid")
        # The file may be an old one, and the number a stranger's by now.
        if not isinstance(pid, int) or environment_of(pid).get(TAG) != self._webui_tag:
            return
        if wake([pid]):
            say(f"the WebUI (process {pid}) had been stopped; it runs on")

    def _announce(self, phase: str, message: str, **more: object) -> None:
        """Write a change of phase to the state file and the log."""
        if self._announced != phase:
            self._announced = phase
            self._state.write(phase, message, **more)
            # vLLM may be in the middle of a line.
            say(message, on_new_line=bool(self._output))

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
                self._stop.ask()
                return False
            # A progress bar ends its states with a carriage return.
            *lines, self._output = (self._output + data.replace(b"\r", b"\n")).split(b"\n")
            for line in lines:
                if self._log.feed(line.decode(errors="replace")) and not self._announced:
                    self._tell_phase()
        return True

    def _tell_phase(self) -> None:
        phase = self._log.phase
        shards = dict(zip(("done", "total"), phase.shards, strict=True)) if phase.shards else None
        self._state.write(phase.name, phase.message, **({"shards": shards} if shards else {}))

    def _kill_the_rest(self) -> None:
        """End every process below this one, the adopted included, and collect them."""
        self._note_shared_memory()
        _, left = kill_all(lambda: descendants(os.getpid()), KILL_GRACE_S)
        if left:
            words = f"still there after {KILL_GRACE_S:g} s, in the kernel's hands: processes"
            say(f"{words} {sorted(left)}")
            return
        for block in self._shared:
            block.unlink(missing_ok=True)

    def _note_shared_memory(self) -> None:
        self._shared |= shared_memory(descendants(os.getpid()))

    def _undo(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(self._settings.undo, timeout=UNDO_S, check=False)

    def _verdict(self, status: int, ended_for: Cause | None) -> int:
        if self._stop.since is not None:
            self._ledger.clear()
            self._state.write(STOPPED, "stopped")
            return 0
        if ended_for is not None and ended_for.code == "not_ready":
            return self._failed(ended_for, EX_TEMPFAIL)
        cause = ended_for or self._cause(status)
        good_run = self._settings.good_run
        if self._ready_since is not None and time.time() - self._ready_since > good_run:
            self._ledger.clear()
        if cause.permanent:
            return self._failed(cause, EX_CONFIG)
        self._ledger.add(cause)
        return self._failed(cause, EX_SOFTWARE)

    def _cause(self, status: int) -> Cause:
        """In words that may be shown to anyone; the log's own line is for this machine only."""
        if status < 0:
            return Cause("killed", f"{self._settings.title} was killed by signal {-status}")
        if (known := self._known_cause()) is not None:
            return known
        found = self._log.cause()
        words = f"{self._settings.title} ended by itself (exit {status}); its log says why"
        return Cause(UNKNOWN, words, "", found.evidence if found else "")

    def _known_cause(self) -> Cause | None:
        """What the log names; an engine that was ready has had nothing against its options."""
        found = self._log.cause()
        if found is None or found.code == UNKNOWN:
            return None
        return None if found.permanent and self._ready_since is not None else found


def main(argv: list[str]) -> int:
    settings, *command = argv
    return Engine(Settings(**json.loads(settings)), command).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
