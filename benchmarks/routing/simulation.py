"""A day: conversations come, the router chooses, replicas answer; one of them may be killed."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.routing.conversations import Conversation
from benchmarks.routing.model import Assumptions, ImageKind
from benchmarks.routing.outcome import Outcome
from benchmarks.routing.policies import PolicyKind
from benchmarks.routing.replica import Replica, Request

SAMPLE_S = 5.0


@dataclass(frozen=True)
class Outage:
    """Of one replica, which comes back with empty caches."""

    begins: float
    ends: float
    replica: int = 0


class Simulation:
    """Events in the order of their times; those of the same time in the order they were made."""

    def __init__(
        self,
        given: Assumptions,
        policy: PolicyKind,
        replicas: int,
        conversations: Iterable[Conversation],
        day_s: float,
        outage: Outage | None = None,
    ) -> None:
        self._given = given
        self._policy = policy.make(replicas, given)
        self._replicas = [Replica(number, given) for number in range(replicas)]
        self._wakes = [math.inf] * replicas
        self._in_flight = [0] * replicas
        self._present = replicas
        self._homeless: list[Request] = []
        self._conversations: Iterator[Conversation] = iter(conversations)
        self._day_s = day_s
        self._events: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._order = 0
        self.outcome = Outcome(day_s, replicas)
        self._next_conversation()
        self._at(0.0, self._sample, None)
        if outage:
            self._at(outage.begins, self._kill, outage.replica)
            self._at(outage.ends, self._return, outage.replica)

    def run(self, until: float = math.inf) -> Outcome:
        """To the last answer, or to a time; no question is asked after the day."""
        events = self._events
        while events and events[0][0] <= until:
            now, _, action, subject = heapq.heappop(events)
            action(now, subject)
        self.outcome.in_flight = sum(self._in_flight) + len(self._homeless)
        return self.outcome

    def _at(self, when: float, action: Callable[[float, Any], None], subject: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, action, subject))

    def _next_conversation(self) -> None:
        conversation = next(self._conversations, None)
        if conversation:
            first = conversation.turns[0]
            images = placed(0, first.question_tokens, first.images)
            request = Request(conversation, 0, 0, first.new_tokens, images, conversation.starts_at)
            self._at(conversation.starts_at, self._come, request)

    def _come(self, now: float, request: Request) -> None:
        """A first question; the next conversation is drawn only now, as a day has millions."""
        self._next_conversation()
        self._ask(now, request)

    def _ask(self, now: float, request: Request) -> None:
        if now < self._day_s:
            self.outcome.asked += 1
            self._route(now, request)

    def _route(self, now: float, request: Request) -> None:
        if not self._present:
            self._homeless.append(request)
            return
        number = self._policy.choose(request.conversation.number, now)
        self._policy.sent(number)
        self._in_flight[number] += 1
        replica = self._replicas[number]
        loading_s = replica.loading_s(request)
        if loading_s:
            self._at(now + loading_s, self._loaded, (replica, request))
        else:
            self._deliver(now, replica, request)

    def _loaded(self, now: float, subject: tuple[Replica, Request]) -> None:
        replica, request = subject
        if self._replicas[replica.number] is replica:
            self._deliver(now, replica, request)
        else:  # it was killed meanwhile
            self._resend(now, replica.number, request)

    def _deliver(self, now: float, replica: Replica, request: Request) -> None:
        replica.accept(request, now)
        self._schedule(replica)

    def _schedule(self, replica: Replica) -> None:
        when = replica.next_event
        if when != self._wakes[replica.number]:
            self._wakes[replica.number] = when
            if when < math.inf:
                self._at(when, self._wake, replica)

    def _wake(self, now: float, replica: Replica) -> None:
        number = replica.number
        if self._replicas[number] is not replica or self._wakes[number] != now:
            return  # something else came before
        self._wakes[number] = math.inf
        ended = replica.event(now)
        if ended:
            self._in_flight[number] -= 1
            self._policy.done(number)
            self.outcome.answered(ended)
            self._go_on(now, ended)
        self._schedule(replica)

    def _go_on(self, now: float, ended: Request) -> None:
        """Some time after an answer comes the next question."""
        turns, place = ended.conversation.turns, ended.place + 1
        if place == len(turns):
            return
        turn = turns[place]
        history = ended.prompt_tokens + ended.turn.answer_tokens
        images = ended.images + placed(history, turn.question_tokens, turn.images)
        prompt = history + turn.new_tokens
        when = now + turn.think_s
        request = Request(ended.conversation, place, ended.prompt_tokens, prompt, images, when)
        self._at(when, self._ask, request)

    def _kill(self, now: float, number: int) -> None:
        """Its requests are sent anew at once, and begin again."""
        replica = self._replicas[number]
        self._replicas[number] = Replica(number, self._given)
        self._wakes[number] = math.inf
        self._present -= 1
        self._policy.gone(number)
        for request in replica.evicted():
            self._resend(now, number, request)

    def _resend(self, now: float, number: int, request: Request) -> None:
        self._in_flight[number] -= 1
        self._policy.done(number)
        request.restarts += 1
        self._route(now, request)

    def _return(self, now: float, number: int) -> None:
        self._present += 1
        self._policy.back(number)
        homeless, self._homeless = self._homeless, []
        for request in homeless:
            self._route(now, request)

    def _sample(self, now: float, _: None) -> None:
        self.outcome.sample(self._in_flight)
        if now + SAMPLE_S < self._day_s:
            self._at(now + SAMPLE_S, self._sample, None)


def placed(
    begins: int, question_tokens: int, kinds: tuple[ImageKind, ...]
) -> tuple[tuple[int, ImageKind], ...]:
    """Images with their places in the prompt; they stand after the question's words."""
    found = []
    at = begins + question_tokens
    for kind in kinds:
        found.append((at, kind))
        at += kind.tokens
    return tuple(found)
