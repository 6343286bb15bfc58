"""supervisord behind verbs: nothing above this module speaks XML-RPC or knows its states."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import psutil
from supervisor.xmlrpc import SupervisorTransport

from launcher.errors import LauncherError
from launcher.layout import ENGINE
from launcher.leftovers import state_of
from launcher.paths import Paths

START_TIMEOUT_S = 15.0
POLL_S = 0.05

RUNNING = "RUNNING"
STARTING = "STARTING"
FATAL = "FATAL"

_SHUTDOWN_STATE = 6
_ALREADY_STARTED = 60
_NOT_RUNNING = 70


@dataclass(frozen=True)
class ProgramState:
    """A program as supervisord sees it: STOPPED, STARTING, RUNNING, BACKOFF, EXITED, FATAL."""

    name: str
    state: str
    pid: int | None
    description: str
    group: str = ""
    """Its own name, where it belongs to none."""

    @property
    def is_engine(self) -> bool:
        """Whether it is vLLM's, or that of one of several."""
        return ENGINE in {self.name, self.group}


class Supervisord:
    """The supervisord of one set of paths, running or not."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def _rpc(self) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._paths.socket}")
        return cast("Any", xmlrpc.client.ServerProxy("http://127.0.0.1", transport)).supervisor

    @contextmanager
    def _speaking(self) -> Iterator[Any]:
        try:
            yield self._rpc()
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _SHUTDOWN_STATE:
                raise LauncherError(
                    "the service is being stopped; `launch up` when that is done starts it again"
                ) from None
            raise LauncherError(f"supervisord refused: {fault.faultString}") from None
        except (OSError, http.client.HTTPException) as error:
            raise LauncherError(
                f"nothing is running here ({error.__class__.__name__}); `launch up` starts it"
            ) from None

    def process(self) -> psutil.Process | None:
        """Its process, whatever state it is in; None if there is none."""
        process = _process_in(self._paths.pidfile)
        try:
            ours = process and str(self._paths.supervisord_conf) in process.cmdline()
        except psutil.Error:
            return None
        return process if ours else None

    def is_stopped(self) -> bool:
        """Whether it has been stopped (SIGSTOP): it is there, and would answer nothing."""
        process = self.process()
        return process is not None and state_of(process.pid) == "T"

    def is_running(self) -> bool:
        """Whether it answers and takes orders. One that is stopping answers, but takes none."""
        if self.is_stopped():
            return False
        try:
            self._rpc().getPID()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return True

    def stopping(self) -> psutil.Process | None:
        """The process of a supervisord that answers, but only that it is shutting down."""
        try:
            self._rpc().getPID()
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _SHUTDOWN_STATE:
                return self.process()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            pass
        return None

    def wait_until_stopped(self, timeout: float) -> bool:
        """Wait for one that is shutting down; False if there is none.

        Raises:
            LauncherError: it was still there after ``timeout`` seconds.
        """
        if (process := self.stopping()) is None:
            return False
        _wait_for_end(process, timeout)
        return True

    def pid(self) -> int:
        with self._speaking() as rpc:
            return int(rpc.getPID())

    def ensure_running(self) -> None:
        """Start it unless it answers.

        Raises:
            LauncherError: it did not come up; the message has its own last words.
        """
        if self.is_running():
            return
        started = subprocess.run(
            self._command(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=START_TIMEOUT_S,
        )
        if started.returncode != 0:
            words = (started.stderr or started.stdout).strip().splitlines()
            raise LauncherError(f"supervisord did not start: {words[-1] if words else 'no word'}")
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_running():
            if time.monotonic() > deadline:
                log = self._paths.log_of("supervisord")
                raise LauncherError(f"supervisord did not answer in time; its log: {log}")
            time.sleep(POLL_S)

    def become(self) -> NoReturn:
        """Replace this process by it, in the foreground: SIGTERM then stops all, in order."""
        command = [*self._command(), "--nodaemon"]
        os.execv(command[0], command)  # noqa: S606

    def _command(self) -> list[str]:
        self._paths.socket.unlink(missing_ok=True)  # left by a supervisord that was killed
        program = Path(sys.executable).parent / "supervisord"
        return [str(program), "-c", str(self._paths.supervisord_conf)]

    def update(self) -> None:
        """Apply a changed configuration file: start, restart and remove what it says."""
        with self._speaking() as rpc:
            [[added, changed, removed]] = rpc.reloadConfig()
            # The WebUI before vLLM: it drains while the engine still lives.
            for name in sorted([*changed, *removed], reverse=True):
                rpc.stopProcessGroup(name)
                rpc.removeProcessGroup(name)
            for name in [*added, *changed]:
                rpc.addProcessGroup(name)  # starts it too: autostart is on

    def states(self) -> list[ProgramState]:
        """Every program, in the order of its name."""
        with self._speaking() as rpc:
            return [
                ProgramState(
                    name=str(info["name"]),
                    state=str(info["statename"]),
                    pid=int(info["pid"]) or None,
                    description=str(info["description"]),
                    group=str(info["group"]),
                )
                for info in rpc.getAllProcessInfo()
            ]

    def start(self, name: str) -> None:
        """Begin to start a program, or all of a group; does not wait for it."""
        for program in self._named(name):
            self._call("startProcess", program, ignore=_ALREADY_STARTED)

    def stop(self, name: str) -> None:
        """Stop a program, or all of a group at the same time, and wait until it is gone."""
        programs = self._named(name)
        if len(programs) == 1:
            self._call("stopProcess", programs[0], wait=True, ignore=_NOT_RUNNING)
            return
        with self._speaking() as rpc:
            rpc.stopProcessGroup(name, True)

    def restart(self, name: str, timeout: float) -> None:
        """End a program, and return once supervisord has another one in its place. It starts again
        what ends without its own order: one order, so that nothing is left stopped.

        Raises:
            LauncherError: it was still there after ``timeout`` seconds.
        """
        [program] = self._named(name)
        if program.state not in {RUNNING, STARTING}:
            self._call("startProcess", program, ignore=_ALREADY_STARTED)
            return
        with self._speaking() as rpc:
            rpc.signalProcess(f"{program.group}:{program.name}", "TERM")
        deadline = time.monotonic() + timeout
        while self._named(name)[0].pid == program.pid:
            if time.monotonic() > deadline:
                raise LauncherError(f"{name} has not stopped after {timeout:.0f} s")
            time.sleep(POLL_S)

    def _named(self, name: str) -> list[ProgramState]:
        """
        Raises:
            LauncherError: there is no such program.
        """
        states = self.states()
        if found := [state for state in states if name in {state.name, state.group}]:
            return found
        known = ", ".join(state.name for state in states)
        raise LauncherError(f"no program {name!r}; there are: {known}")

    def _call(self, method: str, program: ProgramState, *, ignore: int, wait: bool = False) -> None:
        with self._speaking() as rpc:
            try:
                getattr(rpc, method)(f"{program.group}:{program.name}", wait)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != ignore:
                    raise

    def shut_down(self, timeout: float) -> None:
        """Stop every program and supervisord itself, and wait until its process is gone.

        Raises:
            LauncherError: it was still there after ``timeout`` seconds.
        """
        process = psutil.Process(self.pid())
        with self._speaking() as rpc:
            rpc.shutdown()
        _wait_for_end(process, timeout)


def _process_in(pidfile: Path) -> psutil.Process | None:
    try:
        return psutil.Process(int(pidfile.read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


def _wait_for_end(process: psutil.Process, timeout: float) -> None:
    try:
        process.wait(timeout)
    except psutil.TimeoutExpired:
        raise LauncherError(
            f"supervisord (process {process.pid}) is still stopping after {timeout:.0f} s;"
            " its log tells what it waits for: `launch logs supervisord`"
        ) from None
