"""An installation in a folder of its own, under a real supervisord, whose parts can be struck.

What :mod:`benchmarks.recovery` and :mod:`benchmarks.soak` share: the YAML, the launcher's commands,
which process is which, what was left over, requests whose every end is told apart, and the tables.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from launcher.leftovers import descendants, tag_of, tagged
from launcher.paths import ROOT, Paths
from launcher.programs import EVERY
from launcher.supervisord import FATAL, RUNNING, Supervisord

API_SERVER = "API server"
ENGINE_CORE = "EngineCore"
WORKER = "Worker"
PARENT = "engine's parent"
WEB = "WebUI"
PAGE = "page"
SUPERVISORD = "supervisord"
CHILD = "child of the engine"
"""Whatever else runs below the engine's parent."""

OF_THE_ENGINE = (API_SERVER, ENGINE_CORE, WORKER, PARENT, CHILD)
REAL_ONLY = (ENGINE_CORE, WORKER)

POLL_S = 0.05
ASK_LIMIT_S = 90.0
"""Longer than any silence of a service that is well: streams have a comment every 15 s."""
UP_LIMIT_S = 600.0
SETTLED_LIMIT_S = 60.0

MISSED = "**missed**"

STAND_IN = ROOT / "tests" / "fakes" / "fake_vllm.py"
# A child that nothing but a sweep ends, and answers that take a second.
SCRIPT = {"leave_child": True, "words": 20, "delay_s": 0.05}


class MissedError(Exception):
    """Something that must hold did not; the message says what."""


def say(text: str) -> None:
    """For whoever waits; the tables go to standard output."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    """A port below those that the system gives to outgoing connections.

    It must stay free while the WebUI is away, and clients connect all the time.
    """
    while True:
        port = random.randint(18_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(what: Callable[[], bool], limit_s: float, words: str) -> None:
    """Poll.

    Raises:
        MissedError: it did not come true within ``limit_s`` seconds.
    """
    deadline = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > deadline:
            raise MissedError(f"not within {limit_s:.0f} s: {words}")
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Reply:
    """What came of a request, as far as it came; times by the monotonic clock."""

    status: int | None
    """None: the connection ended before an answer began."""
    body: bytes
    broke: str
    """The name of the error that ended it; empty where none did."""
    began: float
    ended: float


def ask(port: int, path: str, body: dict[str, Any] | None, limit_s: float = ASK_LIMIT_S) -> Reply:
    """Send a request on a connection of its own. Never raises for what the other side does."""
    began, status, parts, broke = time.monotonic(), None, [], ""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        connection.request("GET" if body is None else "POST", path, content, headers)
        response = connection.getresponse()
        status = response.status
        while part := response.read1(65_536):
            parts.append(part)
    except (OSError, http.client.HTTPException) as error:
        broke = type(error).__name__
    finally:
        connection.close()
    return Reply(status, b"".join(parts), broke, began, time.monotonic())


ANSWERED = "answered whole"
CUT = "cut: no last event, or half a document"
NO_ANSWER = "no answer began"


def outcome_of(reply: Reply, *, stream: bool) -> str:
    """In a few words: every reply has exactly one."""
    if reply.status is None:
        return NO_ANSWER
    if reply.status != 200 or not stream:
        return _outcome_of_document(reply)
    events = [e.removeprefix(b"data: ") for e in reply.body.splitlines() if e.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return CUT
    documents = []
    for event in events[:-1]:
        with contextlib.suppress(ValueError):  # the engine may have left in the middle of one
            documents.append(json.loads(event))
    if documents and "error" in documents[-1]:
        return f"stream ended with {documents[-1]['error']['code']}"
    choices = [choice for document in documents for choice in document["choices"]]
    return ANSWERED if any(choice["finish_reason"] for choice in choices) else CUT


def _outcome_of_document(reply: Reply) -> str:
    try:
        document = json.loads(reply.body)
    except ValueError:
        return CUT
    if reply.status == 200 and "choices" in document:
        return ANSWERED
    return f"error {reply.status} {document['error']['code']}"


class Installation:
    """The service, with its files in ``folder``.

    Args:
        real: the demo's checkpoint on the real vLLM, in place of the stand-in.
        script: how the stand-in behaves.
        engine: keys of the YAML's section ``engine``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        real: bool,
        script: Mapping[str, Any] | None = None,
        **engine: Any,
    ) -> None:
        self.real = real
        self.port = free_port()
        home = folder / "home"
        self.paths = Paths.from_environ({"STEP3VL_HOME": str(home)})
        self.supervisord = Supervisord(self.paths)
        self._environ = {**_without_settings(), "STEP3VL_HOME": str(home)}
        self._config = folder / "deploy.yaml"
        document = yaml.safe_load((ROOT / "deploy" / "demo.yaml").read_text())
        document["model"]["folder"] = str(ROOT / "deploy" / document["model"]["folder"])
        document["engine"] |= {"port": free_port(), "stop_timeout_s": 5, **engine}
        document["webui"] = {"port": self.port, "stop_timeout_s": 3}
        if not real:
            document["engine"] |= {
                "command": [sys.executable, str(STAND_IN)],
                "environment": {"FAKE_VLLM": json.dumps(script or SCRIPT)},
            }
        self._config.write_text(yaml.safe_dump(document))
        self.model = document["model"]["names"][0]
        self.paths.make_private_folders()  # a tag is that of a folder which is there
        self._tags = [tag_of(self.paths.run, name) for name in EVERY]

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of the launcher's commands, to its end."""
        command = [sys.executable, "-P", "-m", "launcher", *arguments]
        return subprocess.run(
            command,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=UP_LIMIT_S,
            check=False,
        )

    def up(self) -> float:
        """``launch up``; the seconds until it said that all is ready.

        Raises:
            MissedError: with its own words.
        """
        began = time.monotonic()
        result = self.launch("up", "--config", str(self._config))
        if result.returncode != 0:
            raise MissedError(f"`launch up`: {result.stderr.strip()}")
        return time.monotonic() - began

    def down(self) -> set[int]:
        """``launch down``; processes that it left, which are ended now."""
        self.launch("down")
        left = tagged(self._tags)
        for pid in left:
            send(pid, signal.SIGKILL)
        return left

    def pids(self) -> dict[str, list[int]]:
        """Process ids by what they are."""
        own = self.supervisord.process()
        found: dict[str, list[int]] = {SUPERVISORD: [own.pid]} if own else {}
        for pid in sorted(tagged(self._tags, under_supervisord=True)):
            if (name := role_of(_command_line(pid))) is not None:
                found.setdefault(name, []).append(pid)
        return found

    def only(self, name: str) -> int:
        """Raises:
        MissedError: there is none, or more than one.
        """
        found = self.pids().get(name, [])
        if len(found) != 1:
            raise MissedError(f"{len(found)} processes are the {name}: {found}")
        return found[0]

    def leftovers(self) -> set[int]:
        """Processes of the installation that no living supervisord stands over."""
        # Twice, because processes come and go while /proc is read.
        return self._leftovers() and self._leftovers()

    def _leftovers(self) -> set[int]:
        carriers = tagged(self._tags, under_supervisord=True)
        own = self.supervisord.process()
        return carriers - set(descendants(own.pid) if own else ())

    def chat(self, *, stream: bool = False, limit_s: float = ASK_LIMIT_S, **fields: Any) -> Reply:
        """A short question through the gateway."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "What is two and two?"}],
            "max_tokens": 32,
            "thinking": "off",
            "stream": stream,
            **fields,
        }
        return ask(self.port, "/api/v1/chat/completions", body, limit_s)

    def page(self) -> bytes:
        return ask(self.port, "/", None).body

    def is_ready(self) -> bool:
        return ask(self.port, "/readyz", None, 3).status == 200

    def answers(self) -> bool:
        """Whether it is ready and a chat is answered."""
        if not self.is_ready():
            return False
        return outcome_of(self.chat(max_tokens=2, limit_s=20), stream=False) == ANSWERED

    def wait_until_settled(self) -> None:
        """Until supervisord counts an end no longer as a failed start, which it does for a few
        seconds, and after three of those gives up.

        Raises:
            MissedError: it takes a minute.
        """

        def settled() -> bool:
            if not self.supervisord.is_running():
                return False
            return {state.state for state in self.supervisord.states()} == {RUNNING}

        wait_until(settled, SETTLED_LIMIT_S, "every program is RUNNING")

    def given_up(self) -> list[str]:
        """Programs that supervisord does not start again."""
        if not self.supervisord.is_running():
            return []
        return [state.name for state in self.supervisord.states() if state.state == FATAL]


def role_of(command_line: list[str]) -> str | None:
    """What a process of the installation is; None for one that is gone."""
    if not command_line:
        return None
    if "launcher.engine" in command_line:
        return PARENT
    if command_line[-1] == "webui":
        return WEB
    if "webui.chat" in command_line:
        return PAGE
    if "--served-model-name" in command_line:
        return API_SERVER
    # vLLM's processes name themselves: VLLM::EngineCore, VLLM::Worker_TP0.
    title = command_line[0]
    return next((name for name in REAL_ONLY if name in title), CHILD)


def send(pid: int, number: signal.Signals) -> bool:
    """False where there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def conditions(installation: Installation) -> str:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0))
    what = "the demo's checkpoint on vLLM" if installation.real else "the stand-in engine"
    load = os.getloadavg()[0]
    return f"{cores} CPU cores, {what}; load average at the end {load:.1f}."


def verdict(*, met: bool) -> str:
    return "met" if met else MISSED


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first are figures."""
    marks = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, marks, *rows])


def run(installation: Installation, work: Callable[[], str], out: Path | None) -> int:
    """Do the work, take the service down, print the tables; the exit code."""
    # Whoever ends this with `timeout` or `kill` is to find nothing left of the service either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        tables = work()
    except MissedError as error:
        tables = f"{MISSED}: {error}\n"
    finally:
        left = installation.down()
    tables += f"\nProcesses after `launch down`: {len(left)}, {verdict(met=not left)}.\n"
    print(tables, end="")
    if out:
        out.write_text(tables)
    return int(MISSED in tables)


def _command_line(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def _without_settings() -> dict[str, str]:
    """This shell's environment without settings of what is measured, and without proxies."""
    ours = ("STEP3VL_", "WEBUI_", "GRADIO_", "FAKE_", "SUPERVISOR_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    }
