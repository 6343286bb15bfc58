"""Watch a start until it is ready or has failed. A process that exists is not a service."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.engine_state import FAILED, READY, STOPPED, read_document
from launcher.errors import LauncherError
from launcher.layout import ENGINE
from launcher.paths import Paths
from launcher.programs import NODE, WEBUI
from launcher.supervisord import FATAL, ProgramState, Supervisord
from launcher.terminal import ProgressLine

POLL_S = 0.2
LOG_TAIL_BYTES = 16_384
ENDED = {FATAL, "EXITED", "STOPPED", "UNKNOWN"}


@dataclass(frozen=True)
class EngineState:
    """What the engine's parent last wrote; ``changed_at`` is in seconds since the epoch."""

    phase: str
    message: str
    evidence: str
    changed_at: float
    cause: dict[str, str] | None = None
    """Why it failed, or why the run before this one ended: ``code``, ``message``, ``fix``."""
    shards: dict[str, int] | None = None
    """Of the weights: ``done`` and ``total``."""

    @property
    def is_ready(self) -> bool:
        return self.phase == READY


@dataclass(frozen=True)
class Address:
    """Where the WebUI listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """For people: a wildcard address is reached as localhost."""
        host = "localhost" if self.host in {"0.0.0.0", "::", "127.0.0.1"} else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def _read_live(path: Path) -> dict[str, Any] | None:
    """A state file's content; None if it is missing or its writer is gone."""
    document = read_document(path)
    pid = document.get("pid")
    gone = not (isinstance(pid, int) and psutil.pid_exists(pid))
    return None if gone and document.get("phase") not in {FAILED, STOPPED} else document


def read_engine_state(file: Path) -> EngineState | None:
    """What an engine does now; None if it was never started, or it was killed.

    Args:
        file: where its parent writes.
    """
    if (document := _read_live(file)) is None:
        return None
    return EngineState(
        phase=str(document.get("phase")),
        message=str(document.get("message")),
        evidence=str(document.get("evidence", "")),
        changed_at=float(document.get("changed_at", 0)),
        cause=document.get("cause"),
        shards=document.get("shards"),
    )


def read_webui_address(paths: Paths) -> Address | None:
    """Where the WebUI listens; None while it does not."""
    if (document := _read_live(paths.webui_address)) is None:
        return None
    return Address(host=str(document["host"]), port=int(document["port"]))


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that are not empty."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def answers(address: Address, path: str, timeout: float = 3.0) -> bool:
    """Whether the WebUI answers 200: to ``/livez`` if it lives, to ``/readyz`` if all serve."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, address.port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class StartWatch:
    """Follows one start, from ``since`` (seconds since the epoch) on."""

    def __init__(
        self,
        supervisord: Supervisord,
        paths: Paths,
        since: float,
        progress: ProgressLine,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._supervisord = supervisord
        self._paths = paths
        self._since = since
        self._progress = progress
        self._clock = clock

    def wait(self, timeout: float) -> Address:
        """Show progress until the WebUI says ready; where it listens.

        Raises:
            LauncherError: a program ended or the time is over; the message holds the cause.
        """
        try:
            while self._clock() - self._since < timeout:
                if (address := self._look()) is not None:
                    return address
                time.sleep(POLL_S)
        finally:
            self._progress.end()
        raise LauncherError(f"not ready after {timeout:.0f} s; `launch logs {ENGINE}` tells more")

    def wait_for_webui(self, timeout: float) -> Address:
        """Wait for the WebUI alone, whatever the engine does; where it listens.

        Raises:
            LauncherError: it ended or the time is over.
        """
        while self._clock() - self._since < timeout:
            for program in self._supervisord.states():
                if program.name == WEBUI and program.state in ENDED:
                    raise LauncherError(self._why(program))
            address = read_webui_address(self._paths)
            if address is not None and answers(address, "/livez"):
                return address
            time.sleep(POLL_S)
        raise LauncherError(f"not up after {timeout:.0f} s; `launch logs {WEBUI}` tells more")

    def wait_for_engines(self, names: Sequence[str], timeout: float) -> None:
        """Show progress until these engines of this machine are ready.

        Raises:
            LauncherError: one has failed, or the time is over.
        """
        try:
            while self._clock() - self._since < timeout:
                for program in self._supervisord.states():
                    if program.state in ENDED and program.name in {NODE, *names}:
                        raise LauncherError(self._why(program))
                states = {n: read_engine_state(self._paths.state_of(n)) for n in names}
                for name, state in states.items():
                    if state and state.phase == FAILED and state.changed_at >= self._since:
                        raise LauncherError(self._engine_failure(name, state))
                left = [name for name, state in states.items() if not (state and state.is_ready)]
                if not left:
                    return
                state = states[left[0]]
                words = state.message if state and state.phase != STOPPED else "starting"
                self._progress.show(f"{left[0]}: {words}", self._clock() - self._since)
                time.sleep(POLL_S)
        finally:
            self._progress.end()
        raise LauncherError(f"not ready after {timeout:.0f} s; `launch logs {left[0]}` tells more")

    def _look(self) -> Address | None:
        programs = self._supervisord.states()
        # One of several engines is no reason to give up on the others.
        has_engine = any(p.is_engine and p.state not in ENDED for p in programs)
        for program in programs:
            if program.state in ENDED and not (program.is_engine and has_engine):
                raise LauncherError(self._why(program))
        engine = read_engine_state(self._paths.engine_state)
        if engine is not None and engine.phase == FAILED and engine.changed_at >= self._since:
            raise LauncherError(self._engine_failure(self._failed(programs), engine))
        address = read_webui_address(self._paths)
        ready = engine is not None and engine.is_ready and address is not None
        if ready and address is not None and answers(address, "/readyz"):
            return address
        # "stopped" is what the one before said, while supervisord restarts it.
        words = engine.message if engine and engine.phase != STOPPED else "starting"
        page = f" (the page already answers at {address.url})" if address else ""
        self._progress.show(f"{words}{page}", self._clock() - self._since)
        return None

    def _failed(self, programs: Sequence[ProgramState]) -> str:
        """The name of an engine that has failed."""
        names = [p.name for p in programs if p.is_engine]
        states = [read_engine_state(self._paths.state_of(name)) for name in names]
        return next(
            (n for n, state in zip(names, states, strict=True) if state and state.phase == FAILED),
            ENGINE,
        )

    def _engine_failure(self, name: str, engine: EngineState) -> str:
        evidence = f"\n    {engine.evidence}" if engine.evidence else ""
        log = self._paths.log_of(name)
        return (
            f"{name} failed: {engine.message}{evidence}\n  all of its log: {log}"
            "\n  `launch status` shows whether it is started again"
        )

    def _why(self, program: ProgramState) -> str:
        engine = read_engine_state(self._paths.state_of(program.name))
        if program.is_engine and engine and engine.changed_at >= self._since:
            return self._engine_failure(program.name, engine)
        log = self._paths.log_of(program.name)
        said = "\n    ".join(last_lines(log, 3)) or program.description
        return f"{program.name} is {program.state}. Its last words:\n    {said}\n  its log: {log}"
