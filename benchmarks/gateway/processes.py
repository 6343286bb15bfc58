"""Programs under measurement: started, waited for, marked, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

START_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0


class NotStartedError(Exception):
    """A program does not answer; the message says which, and shows the end of its log."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A program and whatever it starts, in a session of their own; its log is in ``folder``."""

    def __init__(
        self, name: str, argv: Sequence[str], folder: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                env={**_clean(os.environ), **environ},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)

    def wait_for(self, url: str, text: bytes = b"", **headers: str) -> None:
        """Until ``url`` answers 200 and has ``text`` in its body.

        Raises:
            NotStartedError: it ended, or took more than START_LIMIT_S.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            asked = urllib.request.Request(url, headers=headers)
            with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=5) as answer:
                if text in answer.read():
                    return
            time.sleep(0.1)
        end = self._log.read_text(errors="replace")[-600:]
        raise NotStartedError(f"{self.name} does not answer at {url}:\n{end}")

    def cpu_s(self) -> float:
        """User and system time so far, of all threads and of child processes, ended ones too."""
        used = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
        return used

    def memory_mb(self) -> float:
        """Resident memory of all its processes, in MB of a million bytes."""
        used = 0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                used += process.memory_info().rss
        return used / 1e6

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def end(self) -> None:
        """End it and what it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without this shell's settings of what is measured."""
    ours = ("WEBUI_", "STEP3VL_", "GRADIO_", "LITELLM_")
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(ours) and name.lower() not in proxies
    }
