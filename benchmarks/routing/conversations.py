"""People: what they ask, how long they wait, and when in the day they come."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from benchmarks.routing.model import Assumptions, ImageKind


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, and what comes back."""

    question_tokens: int
    images: tuple[ImageKind, ...]
    thought_tokens: int
    answer_tokens: int
    think_s: float = 0.0
    """Between the answer before and this question."""

    @property
    def new_tokens(self) -> int:
        return self.question_tokens + sum(kind.tokens for kind in self.images)

    @property
    def generated_tokens(self) -> int:
        return self.thought_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True)
class Conversation:
    """Its number is also the session's name."""

    number: int
    starts_at: float
    turns: tuple[Turn, ...]


class People:
    """Draws conversations; the same seed gives the same ones."""

    def __init__(self, assumptions: Assumptions, seed: int) -> None:
        self._assumptions = assumptions
        self._random = random.Random(seed)
        self._kinds, self._shares = zip(*assumptions.image_kinds, strict=True)

    def turns(self) -> tuple[Turn, ...]:
        """Of one conversation."""
        given = self._assumptions
        wanted = min(given.max_turns, self._geometric(given.mean_turns))
        found: list[Turn] = []
        history = 0
        while len(found) < wanted:
            turn = self._turn(is_first=not found)
            history += turn.new_tokens
            if found and history > given.most_prompt_tokens:
                break
            found.append(turn)
            history += turn.answer_tokens
        return tuple(found)

    def arrivals(self, per_s: float, begins: float, day_s: float) -> Iterator[Conversation]:
        """From ``begins`` to the end of the day at ``day_s``; it is quietest at 0.

        A Poisson process whose rate follows the day: of one at the highest rate, each arrival is
        kept with the share that the moment has of it.
        """
        swing = self._assumptions.daily_swing
        now = begins
        numbers = count()
        while True:
            now += self._random.expovariate(per_s * (1 + swing))
            if now >= day_s:
                return
            share = (1 - swing * math.cos(2 * math.pi * now / day_s)) / (1 + swing)
            if self._random.random() < share:
                yield Conversation(next(numbers), now, self.turns())

    def _turn(self, *, is_first: bool) -> Turn:
        given = self._assumptions
        thought, answer = self._whole(given.thought_tokens), self._whole(given.answer_tokens)
        thought = min(thought, given.most_generated_tokens // 2)
        answer = min(answer, given.most_generated_tokens // 2)
        think_s = 0.0 if is_first else self._lognormal(given.think_s)
        images = self._images(is_first=is_first)
        return Turn(self._whole(given.question_tokens), images, thought, answer, think_s)

    def _images(self, *, is_first: bool) -> tuple[ImageKind, ...]:
        given = self._assumptions
        if self._random.random() >= (given.with_images if is_first else given.later_image):
            return ()
        number = self._geometric(given.mean_images) if is_first else 1
        return tuple(self._random.choices(self._kinds, self._shares, k=number))

    def _geometric(self, mean: float) -> int:
        """At least 1."""
        if mean <= 1:
            return 1
        return 1 + int(math.log(1 - self._random.random()) / math.log(1 - 1 / mean))

    def _lognormal(self, shape: tuple[float, float]) -> float:
        median, sigma = shape
        return self._random.lognormvariate(math.log(median), sigma)

    def _whole(self, shape: tuple[float, float]) -> int:
        return max(1, round(self._lognormal(shape)))
