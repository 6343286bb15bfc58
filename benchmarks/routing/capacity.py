"""What one replica can answer at most, by which a load is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import fmean

from benchmarks.routing.conversations import People, Turn
from benchmarks.routing.model import Assumptions

SAMPLED = 4000
SAMPLE_SEED = 1


@dataclass(frozen=True)
class Capacity:
    """Of one replica whose batch is full, without a wish for short waits."""

    requests_per_s: float
    """Where no cache ever has anything. The load of a simulation is a part of this."""
    warm_requests_per_s: float
    """Where the caches never forget."""
    answer_s: float
    """Of the card, for the tokens of one request in a full batch."""
    turns: float
    """Of a conversation."""
    prompt_tokens: float
    """Of a request, its history included."""
    generated_tokens: float
    image_bytes: float
    """Of a request as a client sends it, with those of earlier turns."""


class _Means:
    """Of the requests of many conversations."""

    def __init__(self, given: Assumptions) -> None:
        self._given = given
        self.conversations = 0
        self.cold_s: list[float] = []
        self.warm_s: list[float] = []
        self.prompts: list[int] = []
        self.generated: list[int] = []
        self.megapixels: list[float] = []

    def add(self, turns: tuple[Turn, ...]) -> None:
        history = answered = patches = 0
        megapixels = 0.0
        self.conversations += 1
        for turn in turns:
            new = turn.new_tokens
            added = sum(kind.patches for kind in turn.images)
            patches += added
            megapixels += sum(kind.megapixels for kind in turn.images)
            self.prompts.append(history + new)
            self.generated.append(turn.generated_tokens)
            self.megapixels.append(megapixels)
            self.cold_s.append(self._given.prompt_s(history + new, patches))
            self.warm_s.append(self._given.prompt_s(answered + new, added))
            history += new + turn.answer_tokens
            answered = turn.answer_tokens


@cache
def capacity(given: Assumptions) -> Capacity:
    """From the means of many conversations, the same ones each time."""
    people, means = People(given, SAMPLE_SEED), _Means(given)
    for _ in range(SAMPLED):
        means.add(people.turns())
    prompt, generated = fmean(means.prompts), fmean(means.generated)
    batch = min(given.max_num_seqs, given.kv_tokens / (prompt + generated))
    step_s = given.base_step_s + given.step_s_per_token * batch * (prompt + generated / 2)
    answer_s = generated * step_s / batch
    return Capacity(
        requests_per_s=1 / (fmean(means.cold_s) + answer_s),
        warm_requests_per_s=1 / (fmean(means.warm_s) + answer_s),
        answer_s=answer_s,
        turns=len(means.prompts) / means.conversations,
        prompt_tokens=prompt,
        generated_tokens=generated,
        image_bytes=fmean(means.megapixels) * given.image_bytes_per_megapixel,
    )
