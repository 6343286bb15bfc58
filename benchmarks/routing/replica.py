"""One engine: requests wait, are computed one prompt at a time, and are answered together."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass

from benchmarks.routing.caches import ImageCache, KvCache
from benchmarks.routing.conversations import Conversation, Turn
from benchmarks.routing.model import Assumptions, ImageKind


@dataclass(slots=True, eq=False)
class Request:
    """A turn on its way. It may be sent anew, to another replica."""

    conversation: Conversation
    place: int
    """Of the turn in its conversation."""
    known_tokens: int
    """The prompt of the turn before, with which this one begins: the most that can be found."""
    prompt_tokens: int
    images: tuple[tuple[int, ImageKind], ...]
    """Where in the prompt each begins."""
    arrived: float
    first_token: float = math.nan
    finished: float = math.nan
    hit_tokens: int = 0
    image_hits: int = 0
    prompt_s: float = 0.0
    restarts: int = 0

    @property
    def turn(self) -> Turn:
        return self.conversation.turns[self.place]

    @property
    def held_tokens(self) -> int:
        """Of KV cache, at its end. vLLM takes them as they come; here they are taken at once."""
        return self.prompt_tokens + self.turn.generated_tokens

    @property
    def ttft_s(self) -> float:
        return self.first_token - self.arrived


class Replica:
    """Between two of its events nothing changes its speed, so only these are computed.

    While a prompt is computed, the answers of others stand still.
    """

    def __init__(self, number: int, given: Assumptions) -> None:
        self.number = number
        self._given = given
        self._kv = KvCache(given.kv_tokens)
        self._images = ImageCache(given.image_cache_bytes)
        self._waiting: deque[Request] = deque()
        self._computing: Request | None = None
        self._computed_at = math.inf
        # A heap by the step at which each ends; those of the same step in the order they began.
        self._answering: list[tuple[float, int, Request]] = []
        self._begun = 0
        # By so many steps each running answer has gone on since the replica began, until _seen.
        self._steps = 0.0
        self._seen = 0.0
        self._step_s = given.base_step_s
        # Of history, which each step reads; of an answer, half of its length.
        self._read_tokens = 0.0

    @property
    def next_event(self) -> float:
        """When a prompt or an answer will be complete, if nothing else comes before."""
        if self._computing:
            return self._computed_at
        if self._answering:
            return self._seen + max(0.0, self._answering[0][0] - self._steps) * self._step_s
        return math.inf

    def loading_s(self, request: Request) -> float:
        """Before it can wait here: for images that this replica has not. Now it has them."""
        found, load_s = 0, 0.0
        for index, (_, kind) in enumerate(request.images):
            name = (request.conversation.number, index)
            if self._images.has(name, kind.cached_bytes):
                found += 1
            else:
                load_s += self._given.image_load_s(kind)
        request.image_hits = found
        return load_s + (self._given.image_retry_s if load_s else 0.0)

    def accept(self, request: Request, now: float) -> None:
        """It waits, and is computed at once if it is alone."""
        self._waiting.append(request)
        if not self._computing:
            self._answer_until(now)
            self._compute_next(now)

    def event(self, now: float) -> Request | None:
        """At ``next_event``: who has an answer, if it is not a prompt that was computed."""
        self._answer_until(now)
        request = self._computing
        if request:
            self._begin_answer(request, now)
            ended = None
        else:
            ended = self._end_answer(now)
        self._compute_next(now)
        return ended

    def evicted(self) -> list[Request]:
        """All that was here, at the replica's end."""
        computing = [self._computing] if self._computing else []
        return [*computing, *(request for *_, request in self._answering), *self._waiting]

    def _answer_until(self, now: float) -> None:
        if self._computing is None and self._answering:
            self._steps += (now - self._seen) / self._step_s
        self._seen = now

    def _compute_next(self, now: float) -> None:
        self._computing = None
        running = len(self._answering)
        if not self._waiting or running >= self._given.max_num_seqs:
            return
        if not self._kv.fits(self._waiting[0].held_tokens):
            return
        request = self._waiting.popleft()
        hit = self._kv.take(request.conversation.number)
        patches = sum(kind.patches for begins, kind in request.images if begins + kind.tokens > hit)
        request.hit_tokens = hit
        request.prompt_s = self._given.prompt_s(request.prompt_tokens - hit, patches)
        self._kv.hold(request.held_tokens)
        self._computing = request
        self._computed_at = now + request.prompt_s

    def _begin_answer(self, request: Request, now: float) -> None:
        generated = request.turn.generated_tokens
        self._read(request.prompt_tokens + generated / 2)
        if math.isnan(request.first_token):
            request.first_token = now + self._step_s
        self._begun += 1
        heapq.heappush(self._answering, (self._steps + generated, self._begun, request))

    def _end_answer(self, now: float) -> Request:
        _, _, request = heapq.heappop(self._answering)
        self._read(-request.prompt_tokens - request.turn.generated_tokens / 2)
        number, held = request.conversation.number, request.held_tokens
        self._kv.keep(number, held, request.prompt_tokens)
        request.finished = now
        return request

    def _read(self, tokens: float) -> None:
        self._read_tokens += tokens
        self._step_s = self._given.base_step_s + self._given.step_s_per_token * self._read_tokens
