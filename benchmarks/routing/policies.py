"""Which replica a request goes to."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from benchmarks.routing.model import Assumptions
from benchmarks.routing.tally import Tally

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


class Policy(Protocol):
    """Asked for every request, and told of what becomes of it."""

    def choose(self, session: int, now: float) -> int:
        """A replica that is there; one is."""

    def sent(self, replica: int) -> None:
        """A request is on its way there."""

    def done(self, replica: int) -> None:
        """A request is no longer there."""

    def gone(self, replica: int) -> None:
        """It no longer answers."""

    def back(self, replica: int) -> None:
        """It answers again."""


class _Present:
    """What all policies know: which replicas are there."""

    def __init__(self, replicas: int) -> None:
        self._absent: set[int] = set()
        self._replicas = replicas

    def sent(self, replica: int) -> None:
        """Nothing is counted."""

    def done(self, replica: int) -> None:
        """Nothing is counted."""

    def gone(self, replica: int) -> None:
        self._absent.add(replica)

    def back(self, replica: int) -> None:
        self._absent.discard(replica)


class RoundRobin(_Present):
    """One after the other."""

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas)
        self._last = -1

    def choose(self, session: int, now: float) -> int:  # noqa: ARG002
        while True:
            self._last = (self._last + 1) % self._replicas
            if self._last not in self._absent:
                return self._last


class LeastLoaded:
    """Where the fewest requests are, waiting or running."""

    def __init__(self, replicas: int) -> None:
        self._requests = Tally(replicas)

    def choose(self, session: int, now: float) -> int:  # noqa: ARG002
        return self._requests.least()

    def sent(self, replica: int) -> None:
        self._requests.add(replica, 1)

    def done(self, replica: int) -> None:
        self._requests.add(replica, -1)

    def gone(self, replica: int) -> None:
        self._requests.remove(replica)

    def back(self, replica: int) -> None:
        self._requests.restore(replica)


class Sticky(_Present):
    """vllm-router's sticky_least_loaded.

    A session's first request goes where the fewest *sessions* are: all those that asked within the
    time to live, also such as have long ended. Later ones follow it, unless that replica is gone.
    """

    def __init__(self, replicas: int, session_ttl_s: float) -> None:
        super().__init__(replicas)
        self._ttl_s = session_ttl_s
        self._sessions: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._counts = Tally(replicas)

    def choose(self, session: int, now: float) -> int:
        self._forget(now)
        replica = self._home(session)
        if replica is None:
            replica = self._counts.least()
            self._counts.add(replica, 1)
        self._sessions[session] = replica, now
        return replica

    def gone(self, replica: int) -> None:
        super().gone(replica)
        self._counts.remove(replica)

    def back(self, replica: int) -> None:
        super().back(replica)
        self._counts.restore(replica)

    def _home(self, session: int) -> int | None:
        found = self._sessions.pop(session, None)
        if found is None:
            return None
        if found[0] not in self._absent:
            return found[0]
        self._counts.add(found[0], -1)
        return None

    def _forget(self, now: float) -> None:
        """The sessions lie in the order of their last requests."""
        while self._sessions:
            session, (replica, last) = next(iter(self._sessions.items()))
            if now - last < self._ttl_s:
                return
            del self._sessions[session]
            self._counts.add(replica, -1)


class StickyByRequests(LeastLoaded):
    """A session's first request goes where the fewest *requests* are; later ones follow it."""

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas)
        self._homes: dict[int, int] = {}
        self._absent: set[int] = set()

    def choose(self, session: int, now: float) -> int:
        home = self._homes.get(session)
        if home is None or home in self._absent:
            home = self._homes[session] = super().choose(session, now)
        return home

    def gone(self, replica: int) -> None:
        super().gone(replica)
        self._absent.add(replica)

    def back(self, replica: int) -> None:
        super().back(replica)
        self._absent.discard(replica)


class ConsistentHash(_Present):
    """By the session's name alone: on a ring of many points for each replica, the next one."""

    def __init__(self, replicas: int, points: int) -> None:
        super().__init__(replicas)
        ring = sorted(
            (mixed(replica * points + point + (1 << 40)), replica)
            for replica in range(replicas)
            for point in range(points)
        )
        self._places = [place for place, _ in ring]
        self._owners = [owner for _, owner in ring]

    def choose(self, session: int, now: float) -> int:  # noqa: ARG002
        at = bisect.bisect(self._places, mixed(session))
        while True:
            owner = self._owners[at % len(self._owners)]
            if owner not in self._absent:
                return owner
            at += 1


def mixed(number: int) -> int:
    """A hash of 64 bits that is the same in every process (splitmix64)."""
    number = (number + GOLDEN) * GOLDEN & MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


@dataclass(frozen=True)
class PolicyKind:
    """How it is called in the tables, and how it is made for so many replicas."""

    name: str
    make: Callable[[int, Assumptions], Policy]


ROUND_ROBIN = PolicyKind("round robin", lambda n, _: RoundRobin(n))
LEAST_LOADED = PolicyKind("least loaded", lambda n, _: LeastLoaded(n))
STICKY = PolicyKind("sticky", lambda n, given: Sticky(n, given.session_ttl_s))
FORGETFUL_STICKY = PolicyKind(
    "sticky, 10 min", lambda n, given: Sticky(n, given.short_session_ttl_s)
)
STICKY_BY_REQUESTS = PolicyKind("sticky by requests", lambda n, _: StickyByRequests(n))
CONSISTENT_HASH = PolicyKind(
    "consistent hash", lambda n, given: ConsistentHash(n, given.ring_points)
)
POLICIES = (ROUND_ROBIN, LEAST_LOADED, STICKY, STICKY_BY_REQUESTS, CONSISTENT_HASH)
