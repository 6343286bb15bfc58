"""Small runs of ``python -m launcher.engine``, with a shell or a tiny server as vLLM."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from support import free_port, wait_for

from launcher.engine_preparation import Settings
from launcher.leftovers import TAG, tagged

LIMIT_S = 60.0

PARENT = ("-m", "launcher.engine")
# The same parent, which looks at the engine's progress more often.
QUICK_PARENT = (
    "-c",
    "import sys\n"
    "from launcher import engine, engine_watch\n"
    "engine_watch.CHECK_S, engine_watch.ANSWER_LIMIT_S = 1.0, 2.0\n"
    "engine.LOOK_BESIDE_S = 0.5\n"
    "raise SystemExit(engine.main(sys.argv[1:]))",
)

# vLLM's port: healthy from the beginning, with so many requests that run, and with figures that
# move at each look or stand still.
SERVER = """\
import http.server, os, sys
port, running, moves = map(int, sys.argv[1:])
tokens = 0
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global tokens
        tokens += moves
        self.send_response(200)
        self.end_headers()
        if self.path == "/metrics":
            self.wfile.write(b"vllm:num_requests_running %d\\n" % running)
            self.wfile.write(b"vllm:generation_tokens_total %d\\n" % tokens)
    def log_message(self, *_):
        pass
print(f"pid={os.getpid()}", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Page).serve_forever()
"""


def server(port: int, *, running: int = 0, moves: bool = False) -> list[str]:
    """The command of a tiny engine on this port."""
    return [sys.executable, "-c", SERVER, str(port), str(running), str(int(moves))]


def settings_in(folder: Path, **changes: Any) -> Settings:
    """Files in this folder, short times, and no look at a card of this machine."""
    found: dict[str, Any] = {
        "state": folder / "engine.json",
        "crashes": folder / "crashes.json",
        "lock": folder / "engine.lock",
        "webui": folder / "webui.json",
        "port": 0,
        "model": "m",
        "start_timeout": 60.0,
        "stop_timeout": 1.0,
        "stalled_after": 30.0,
        "hung_after": 120.0,
        "crash_limit": 3,
        "good_run": 600.0,
        "memory_timeout": 5.0,
        "gpu_share": 0.0,
        "gpu_count": 1,
        **changes,
    }
    return Settings(**{k: str(v) if isinstance(v, Path) else v for k, v in found.items()})


@dataclass
class Run:
    """One run of the engine's parent; its log is a file, or a pipe."""

    process: subprocess.Popen[str]
    settings: Settings
    log_file: Path

    @property
    def document(self) -> dict[str, Any]:
        """What stands in the state file, whoever wrote it."""
        try:
            found = json.loads(Path(self.settings.state).read_text())
        except FileNotFoundError:
            return {}
        assert isinstance(found, dict)
        return found

    @property
    def state(self) -> dict[str, Any]:
        """What this run wrote; empty while it has not."""
        return self.document if self.document.get("pid") == self.process.pid else {}

    @property
    def verdict(self) -> tuple[str, str]:
        return self.state["phase"], self.state["message"]

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def end(self, seconds: float = LIMIT_S) -> int:
        return self.process.wait(seconds)

    def said(self, words: str) -> None:
        wait_for(lambda: words in self.log, LIMIT_S, f"{words!r} in the log")

    def reached(self, phase: str) -> None:
        wait_for(lambda: self.state.get("phase") == phase, LIMIT_S, f"phase {phase}")

    def number_after(self, name: str) -> int:
        """A process id that the child printed as ``name=pid``."""
        self.said(f"{name}=")
        wait_for(lambda: "\n" in self.log.partition(f"{name}=")[2], LIMIT_S, "a whole line")
        return int(self.log.partition(f"{name}=")[2].split()[0])


class Runs:
    """Starts engines in one folder; whatever is left of them is killed by its process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: list[Run] = []
        self._tags: set[str] = set()

    def __call__(
        self,
        *command: str,
        tag: str | None = None,
        piped: bool = False,
        quick: bool = False,
        env: dict[str, str] | None = None,
        **changes: Any,
    ) -> Run:
        settings = settings_in(self.folder, **{"port": free_port(), **changes})
        log_file = self.folder / f"log-{len(self._runs)}"
        inherited = {k: v for k, v in os.environ.items() if k not in {TAG, "CUDA_VISIBLE_DEVICES"}}
        tags = {TAG: tag} if tag else {}
        self._tags |= {tag} if tag else set()
        parent = QUICK_PARENT if quick else PARENT
        with log_file.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", *parent, settings.as_argument(), *command],
                stdout=subprocess.PIPE if piped else log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**inherited, **tags, **(env or {})},
                text=True,
            )
        self._runs.append(Run(process, settings, log_file))
        return self._runs[-1]

    def clean_up(self) -> None:
        for run in self._runs:
            kill(run.process)
        for pid in tagged(self._tags):
            with contextlib.suppress(ProcessLookupError):
                psutil.Process(pid).kill()


def kill(process: subprocess.Popen[str]) -> None:
    """End a process that we started, and all below it."""
    if process.poll() is None:
        below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait(LIMIT_S)
    if process.stdout is not None:
        process.stdout.close()


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or only its exit code, which init has yet to collect."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True
