"""What vLLM's log lines mean for a start: how far it is. Standard library only."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from launcher.engine_causes import Cause, cause_of
from launcher.engine_state import STARTING

LOADING = "loading"
WARMING = "warming up"
SERVING = "opening the port"

# vLLM's, and those of Ray Serve.
OF_THE_SERVER = ("(APIServer", "(ServeReplica", "(ProxyActor")

_SHARDS = re.compile(r"checkpoint shards:\s*\d+% Completed \| (\d+)/(\d+)")

# The first match decides. Lines that match nothing change nothing.
_PHASES: tuple[tuple[str, str, str], ...] = (
    ("Resolved architecture", STARTING, "starting vLLM: read the model's configuration"),
    ("Initializing a V1 LLM engine", STARTING, "starting vLLM: engine process"),
    ("Starting to load model", LOADING, "loading the model"),
    ("Loading weights took", WARMING, "warming up"),
    ("torch.compile took", WARMING, "warming up: compiled"),
    ("Capturing CUDA graphs", WARMING, "warming up: capturing CUDA graphs"),
    ("init engine (profile, create kv cache, warmup model) took", SERVING, "opening the port"),
    ("Application startup complete", SERVING, "opening the port"),
)


@dataclass(frozen=True)
class Phase:
    """How far a start is: a name, the words for people, and how many parts of the weights."""

    name: str
    message: str
    shards: tuple[int, int] | None = None
    """Those that are loaded, and all."""


class EngineLog:
    """Reads vLLM's output line by line, and remembers enough to name the cause of a failure."""

    def __init__(self, title: str = "vLLM", keep: int = 400) -> None:
        self.phase = Phase(STARTING, f"starting {title}")
        self._tail: deque[str] = deque(maxlen=keep)
        self._serving = False

    def feed(self, line: str) -> bool:
        """Take a line; True if the phase changed."""
        if self._serving and line.startswith(OF_THE_SERVER):
            return False
        self._tail.append(line.rstrip())
        if (phase := phase_of(line)) is None or phase == self.phase:
            return False
        self.phase = phase
        return True

    def serve(self) -> None:
        """It is ready. What was said before explains no later end, nor does what the API's server
        says from now on: words of requests are in it."""
        self._tail.clear()
        self._serving = True

    def cause(self) -> Cause | None:
        """Why it ended, as far as the log tells."""
        return cause_of(self._tail)


def phase_of(line: str) -> Phase | None:
    """The phase that a line announces, if any."""
    if match := _SHARDS.search(line):
        done, total = map(int, match.groups())
        return Phase(LOADING, f"loading the model: part {done} of {total}", (done, total))
    for text, name, message in _PHASES:
        if text in line:
            return Phase(name, message)
    return None
