"""Why vLLM ended, read from its own last lines: the cause, and what to change.

The patterns are vLLM 0.32's and PyTorch's own words. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# A number that vLLM prints, in GiB.
_GIB = r"(?P<{}>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)"
_HALF_GIB = 0.5
# To lower a share by so much leaves nothing of it.
_WHOLE_SHARE = 0.9

UNKNOWN = "unknown"
OUT_OF_MEMORY = "out_of_memory"
OPTIONS = "options"


@dataclass(frozen=True)
class Cause:
    """Why a run ended.

    ``code`` is for programs; ``what`` and ``fix`` are in words that may be shown to anyone;
    ``evidence`` is the log's own line, for this machine's own commands only.
    """

    code: str
    what: str
    fix: str = ""
    evidence: str = ""

    @property
    def message(self) -> str:
        """What happened and what to do, in one sentence."""
        return f"{self.what}: {self.fix}" if self.fix else self.what

    @property
    def permanent(self) -> bool:
        """Whether starting again, with nothing changed, would end the same way for certain."""
        return self.code == OPTIONS


def _share_that_is_free(found: dict[str, str]) -> str:
    free, total = float(found["free"]), float(found["total"])
    share = math.floor(100 * (free - _HALF_GIB) / max(total, free, 1)) / 100
    figures = f"({free:g} of {total:g} GiB are free, {found['wanted']} were asked for)"
    if share <= 0:
        return f"end what else uses the memory {figures}"
    return (
        f"write gpu-memory-utilization: {share:g} or less in engine.options {figures}, or end what"
        " else uses the memory"
    )


def _share_to_leave(found: dict[str, str]) -> str:
    tried = float(found["tried"]) / (1 if found["unit"] == "GiB" else 1024)
    part = math.ceil(100 * (tried + _HALF_GIB) / max(tried, float(found["total"]), 1)) / 100
    if part >= _WHOLE_SHARE:
        return (
            "lower max-model-len or max-num-seqs in engine.options, or end what else uses the card"
            " (nvidia-smi)"
        )
    return (
        f"lower gpu-memory-utilization in engine.options by {part:g}, or max-num-seqs, or end what"
        " else uses the card (nvidia-smi)"
    )


def _length_that_fits(found: dict[str, str]) -> str:
    return (
        f"write max-model-len: {found['length']} in engine.options ({found['needed']} GiB are"
        f" needed, {found['free']} are there)"
    )


def _cache_that_fits(found: dict[str, str]) -> str:
    space = math.floor(float(found["free"]) - _HALF_GIB)
    figures = f"({found['free']} GiB are free, {found['wanted']} were asked for)"
    if space < 1:  # vLLM takes whole GiB only
        return f"end what else uses the memory {figures}"
    return f"write VLLM_CPU_KVCACHE_SPACE: '{space}' or less under engine.environment {figures}"


# A pattern in the log, and what to tell the person: code, cause and fix. The first match decides.
Fix = str | Callable[[dict[str, str]], str]
_CAUSES: tuple[tuple[str, str, str, Fix], ...] = (
    (
        r"on kv cache allocation is less than requested memory for kv \((?:-|0(?:\.0+)?/)",
        OUT_OF_MEMORY,
        "gpu-memory-utilization leaves nothing for the KV cache",
        "raise it in engine.options, or write VLLM_CPU_KVCACHE_SPACE: '1' or more under"
        " engine.environment",
    ),
    (
        rf"memory on node [^(]*\({_GIB.format('free')}/[0-9.]+ GiB\) on kv cache allocation is less"
        rf" than requested memory for kv \({_GIB.format('wanted')}",
        OUT_OF_MEMORY,
        "no memory left for the KV cache",
        _cache_that_fits,
    ),
    (
        rf"(?:Free|Available) memory on (?:device|node) [^(]*\({_GIB.format('free')}/"
        rf"{_GIB.format('total')} GiB\) on startup is less than desired [GC]PU memory utilization"
        rf" \([0-9.]+, {_GIB.format('wanted')} GiB\)",
        OUT_OF_MEMORY,
        "too little memory is free",
        _share_that_is_free,
    ),
    (
        rf"CUDA out of memory\. Tried to allocate {_GIB.format('tried')} (?P<unit>[MG]iB).*total"
        rf" capacity of {_GIB.format('total')} GiB",
        OUT_OF_MEMORY,
        "out of GPU memory",
        _share_to_leave,
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|Free memory on device .* is less than desired",
        OUT_OF_MEMORY,
        "out of GPU memory",
        "lower gpu-memory-utilization or max-model-len in engine.options, or end what else uses the"
        " card (nvidia-smi)",
    ),
    (
        rf"\({_GIB.format('needed')} GiB KV cache is needed.*larger than the available KV cache"
        rf" memory \({_GIB.format('free')} GiB\).*maximum model length is (?P<length>\d+)",
        OUT_OF_MEMORY,
        "no memory left for the KV cache",
        _length_that_fits,
    ),
    (
        r"No available memory for the cache blocks|larger than the maximum number of tokens"
        r"|KV cache is needed.*larger than the available KV cache memory",
        OUT_OF_MEMORY,
        "no memory left for the KV cache",
        "lower max-model-len in engine.options",
    ),
    (
        r"Address already in use|\[Errno 98\]",
        "port",
        "its port is taken",
        "write another engine.port, or end the program that holds it",
    ),
    (
        r"unrecognized arguments?: (?P<what>--?[A-Za-z0-9-]+)",
        OPTIONS,
        "vLLM does not know {what}",
        "correct engine.options",
    ),
    (
        r"error: argument (?P<what>-[A-Za-z0-9/-]+)",
        OPTIONS,
        "vLLM refused an option, {what}",
        "correct engine.options",
    ),
    (
        r"Unknown engine argument: (?P<what>\w+)",
        OPTIONS,
        "vLLM does not know {what}",
        "correct engine.options",
    ),
    (
        r"the Ray of RAY_ADDRESS, .*, does not answer",
        "ray",
        "the Ray of RAY_ADDRESS does not answer",
        "start it, or correct that address",
    ),
    (
        r"Serve runs in this Ray already",
        "ray",
        "Serve runs in this Ray already, with an address of its own",
        "end it with `serve shutdown`, or join another Ray",
    ),
    (r"No space left on device", "disk", "the disk is full", "free some space"),
    (
        r"LocalEntryNotFoundError|Failed to resolve|couldn't connect to|offline mode is enabled",
        "download",
        "the model could not be downloaded",
        "check the network, or set HF_ENDPOINT to a mirror under engine.environment",
    ),
    (
        r"GatedRepoError|RepositoryNotFoundError|is not a valid model identifier",
        "download",
        "the hub does not have this model",
        "check model.hub_id",
    ),
    (
        r"SafetensorError|Error while deserializing header",
        "weights",
        "a weights file is damaged",
        "fetch it again",
    ),
    (
        r"MemoryError|Cannot allocate memory",
        OUT_OF_MEMORY,
        "out of memory",
        "lower VLLM_CPU_KVCACHE_SPACE",
    ),
)

_ERROR_LINE = re.compile(r"(?:^|\s)(?:[A-Za-z_.]*(?:Error|Exception)|ERROR|error)\b[: ]")
# Of the process, and with Ray, of the process that it runs in.
_PROCESSES = r"^(?:\([^)]*\)\s*){0,2}"
_ROUTINE = re.compile(_PROCESSES + r"(?:DEBUG|INFO|WARNING)[: ]")
_PREFIX = re.compile(_PROCESSES + r"(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s*)?")


def cause_of(lines: Iterable[str]) -> Cause | None:
    """A known cause with its fix, else the last line that looks like an error, else None."""
    # Routine lines hold anything, the words of requests included; none of them is a cause. A
    # traceback's lines of code name what is raised, without its reason.
    lines = [
        line for line in lines if not _ROUTINE.match(line) and not _bare(line).startswith("raise ")
    ]
    for line in lines:
        for pattern, code, what, fix in _CAUSES:
            if match := re.search(pattern, line):
                found = {name: text.strip() for name, text in match.groupdict(default="").items()}
                words = fix if isinstance(fix, str) else fix(found)
                return Cause(code, what.format_map(found), words, _bare(line))
    errors = [line for line in lines if _ERROR_LINE.search(line) and "Traceback" not in line]
    return Cause(UNKNOWN, _bare(errors[-1]), "", _bare(errors[-1])) if errors else None


def _bare(line: str) -> str:
    """A log line without process, time and source."""
    return _PREFIX.sub("", line).strip()[:500]
