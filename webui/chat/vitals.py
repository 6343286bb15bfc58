"""How the service does: figures of the last minutes, from the metrics of gateway and engine."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

LOOK_AGAIN_S = 2.0
KEPT = 150  # five minutes, while somebody looks

# The gateway's names and vLLM's, and what their figures are called that this reads.
NAMES = {
    b"step3vl_requests_running": "answering",
    b"vllm:num_requests_running": "running",
    b"vllm:num_requests_waiting": "waiting",
    b"vllm:kv_cache_usage_perc": "kv_used",
    b"vllm:generation_tokens_total": "tokens",
    b"vllm:time_to_first_token_seconds_sum": "first_s",
    b"vllm:time_to_first_token_seconds_count": "firsts",
}
_LINE = re.compile(rb"^(" + b"|".join(NAMES) + rb")(?:\{[^\n]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Vitals:
    """At one moment; what is not known is None. Rates are since the moment before."""

    answering: float | None = None
    """Requests that the gateway is answering."""
    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None
    """Of the engine's KV cache: 0 to 1."""
    tokens_per_s: float | None = None
    first_token_s: float | None = None
    gpu_used: float | None = None
    """Of all cards' memory: 0 to 1."""


def read_metrics(text: bytes) -> dict[str, float]:
    """The figures that are wanted here, each summed up over what labels tell apart."""
    found: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        known = NAMES[name]
        found[known] = found.get(known, 0.0) + float(value)
    return found


class Monitor:
    """Looks while somebody asks, however many do: every two seconds at most.

    Args:
        fetch: the gateway's metrics and the engine's, in Prometheus's format.
        gpu: how full the cards are; None where there is none.
        now: seconds of a steady clock.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes | None]],
        gpu: Callable[[], float | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._gpu = gpu
        self._now = now
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._before: Mapping[str, float] = {}
        self._kept: deque[Vitals] = deque(maxlen=KEPT)

    async def look(self) -> Sequence[Vitals]:
        """The last minutes, oldest first."""
        async with self._looking:
            now = self._now()
            if now - self._looked_at >= LOOK_AGAIN_S:
                text = await self._fetch()
                figures = read_metrics(text) if text is not None else {}
                gpu = await asyncio.to_thread(self._gpu)
                self._kept.append(self._vitals(figures, now - self._looked_at, gpu))
                self._before, self._looked_at = figures, now
            return [*self._kept]

    def _vitals(self, figures: Mapping[str, float], seconds: float, gpu: float | None) -> Vitals:
        more = {
            name: figures[name] - self._before[name] for name in figures if name in self._before
        }
        # After a restart of the engine its counters begin anew.
        is_new = any(more.get(name, 0.0) < 0 for name in ("tokens", "firsts"))
        tokens, firsts = more.get("tokens"), more.get("firsts", 0.0)
        return Vitals(
            figures.get("answering"),
            figures.get("running"),
            figures.get("waiting"),
            figures.get("kv_used"),
            tokens / seconds if tokens is not None and not is_new else None,
            more["first_s"] / firsts if firsts > 0 and not is_new and "first_s" in more else None,
            gpu,
        )


def gpu_used() -> float | None:
    """How full the NVIDIA cards' memory is, all together: 0 to 1; None where there is none."""
    try:
        import pynvml  # nvidia-ml-py, of the extra "gpu"
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        cards = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    total = sum(card.total for card in cards)
    return sum(card.used for card in cards) / total if total else None
