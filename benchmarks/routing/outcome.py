"""What is counted in a simulated day, and the figures that come of it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from benchmarks.routing.replica import Request


class Outcome:
    """Of one run. Figures are of the requests that came within the day, from 0 to its end; what
    came before warms the caches."""

    def __init__(self, day_s: float, replicas: int) -> None:
        self.day_s = day_s
        self.replicas = replicas
        self.asked = self.ended = self.in_flight = self.restarts = 0
        self._ttft_s = array("d")
        self._arrived = array("d")
        self._prompt_tokens = array("l")
        self._hit_tokens = array("l")
        self._known_tokens = 0
        self.images = self.image_hits = 0
        self.prompt_s = 0.0
        self._imbalance: list[float] = []

    def answered(self, request: Request) -> None:
        self.ended += 1
        self.restarts += request.restarts
        if request.arrived < 0:
            return
        self._ttft_s.append(request.ttft_s)
        self._arrived.append(request.arrived)
        self._prompt_tokens.append(request.prompt_tokens)
        self._hit_tokens.append(request.hit_tokens)
        self._known_tokens += request.known_tokens
        self.images += len(request.images)
        self.image_hits += request.image_hits
        self.prompt_s += request.prompt_s

    def sample(self, in_flight: Sequence[int]) -> None:
        """Called at even intervals."""
        total = sum(in_flight)
        if total:
            self._imbalance.append(max(in_flight) * len(in_flight) / total)

    @property
    def measured(self) -> int:
        return len(self._ttft_s)

    @property
    def mean_ttft_s(self) -> float:
        return sum(self._ttft_s) / max(1, len(self._ttft_s))

    @property
    def imbalance(self) -> float:
        """Requests at the fullest replica, beside the mean; the mean over the day."""
        return sum(self._imbalance) / max(1, len(self._imbalance))

    @property
    def prefix_ceiling(self) -> float:
        """The hit rate if nothing were ever forgotten or sent elsewhere."""
        return self._known_tokens / max(1, sum(self._prompt_tokens))

    @property
    def image_hit_rate(self) -> float:
        return self.image_hits / max(1, self.images)

    @property
    def prompt_s_per_request(self) -> float:
        """Of the card, for prompts and images."""
        return self.prompt_s / max(1, self.measured)

    def prefix_hit_rate(self, begins: float = 0.0, ends: float = math.inf) -> float:
        """Of all prompt tokens, as vLLM counts."""
        hits = prompts = 0
        rows = zip(self._arrived, self._hit_tokens, self._prompt_tokens, strict=True)
        for arrived, hit, prompt in rows:
            if begins <= arrived < ends:
                hits, prompts = hits + hit, prompts + prompt
        return hits / max(1, prompts)

    def ttft(self, part: float, begins: float = 0.0, ends: float = math.inf) -> float:
        """The smallest time that ``part`` of those who came within these times did not exceed."""
        pairs = zip(self._arrived, self._ttft_s, strict=True)
        found = sorted(ttft for arrived, ttft in pairs if begins <= arrived < ends)
        if not found:
            return math.nan
        return found[max(0, math.ceil(part * len(found)) - 1)]
