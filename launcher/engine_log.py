"""What vLLM's log lines mean: how far a start is, and why one failed. Standard library only."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

STARTING = "starting"
LOADING = "loading"
WARMING = "warming up"
SERVING = "opening the port"

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

# A pattern in the log, and what to tell the person: cause and fix.
_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"CUDA out of memory|OutOfMemoryError|Free memory on device .* is less than desired",
        "out of GPU memory: lower gpu-memory-utilization or max-model-len in engine.options,"
        " or end what else uses the card (nvidia-smi)",
    ),
    (
        r"No available memory for the cache blocks|larger than the maximum number of tokens"
        r"|KV cache is needed.*larger than the available KV cache memory",
        "no memory left for the KV cache: lower max-model-len in engine.options",
    ),
    (
        r"Address already in use|\[Errno 98\]",
        "its port is taken: write another engine.port, or end the program that holds it",
    ),
    (
        r"unrecognized arguments?: (?P<what>.*)",
        "vLLM does not know {what}; correct engine.options",
    ),
    (
        r"error: argument (?P<what>-.*)",
        "vLLM refused an option, {what}; correct engine.options",
    ),
    (r"No space left on device", "the disk is full: free some space"),
    (
        r"LocalEntryNotFoundError|Failed to resolve|couldn't connect to|offline mode is enabled",
        "the model could not be downloaded: check the network, or set HF_ENDPOINT to a mirror"
        " under engine.environment",
    ),
    (
        r"GatedRepoError|RepositoryNotFoundError|is not a valid model identifier",
        "the hub does not have this model: check model.hub_id",
    ),
    (
        r"SafetensorError|Error while deserializing header",
        "a weights file is damaged: fetch it again",
    ),
    (r"MemoryError|Cannot allocate memory", "out of memory: lower VLLM_CPU_KVCACHE_SPACE"),
)

_CAUSE_PATTERNS = tuple((re.compile(pattern), text) for pattern, text in _CAUSES)
_ERROR_LINE = re.compile(r"(?:^|\s)(?:[A-Za-z_.]*(?:Error|Exception)|ERROR|error)\b[: ]")
_ROUTINE = re.compile(r"^(?:\([^)]*\)\s*)?(?:DEBUG|INFO|WARNING)[: ]")
_PREFIX = re.compile(r"^(?:\([^)]*\)\s*)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s*)?")


@dataclass(frozen=True)
class Phase:
    """How far a start is: a name, and the words for people."""

    name: str
    message: str


@dataclass(frozen=True)
class Cause:
    """Why a run ended: words with the fix, and the log's own line."""

    message: str
    evidence: str
    known: bool = False

    @property
    def permanent(self) -> bool:
        """Whether starting again, with nothing changed, would end the same way for certain."""
        return "correct engine.options" in self.message


class EngineLog:
    """Reads vLLM's output line by line, and remembers enough to name the cause of a failure."""

    def __init__(self, keep: int = 400) -> None:
        self.phase = Phase(STARTING, "starting vLLM")
        self._tail: deque[str] = deque(maxlen=keep)

    def feed(self, line: str) -> bool:
        """Take a line; True if the phase changed."""
        self._tail.append(line.rstrip())
        if (phase := phase_of(line)) is None or phase == self.phase:
            return False
        self.phase = phase
        return True

    def forget(self) -> None:
        """Let go of the lines so far."""
        self._tail.clear()

    def cause(self) -> Cause | None:
        """Why it ended, as far as the log tells."""
        return cause_of(self._tail)


def phase_of(line: str) -> Phase | None:
    """The phase that a line announces, if any."""
    if match := _SHARDS.search(line):
        done, total = match.groups()
        return Phase(LOADING, f"loading the model: part {done} of {total}")
    for text, name, message in _PHASES:
        if text in line:
            return Phase(name, message)
    return None


def cause_of(lines: Iterable[str]) -> Cause | None:
    """A known cause with its fix, else the last line that looks like an error, else None."""
    # Routine lines hold anything, the words of requests included; none of them is a cause.
    lines = [line for line in lines if not _ROUTINE.match(line)]
    for line in lines:
        for pattern, text in _CAUSE_PATTERNS:
            if match := pattern.search(line):
                what = (match.groupdict().get("what") or "").strip()
                return Cause(text.format(what=what), _bare(line), known=True)
    errors = [line for line in lines if _ERROR_LINE.search(line) and "Traceback" not in line]
    return Cause(_bare(errors[-1]), _bare(errors[-1])) if errors else None


def _bare(line: str) -> str:
    """A log line without process, time and source."""
    return _PREFIX.sub("", line).strip()[:500]
