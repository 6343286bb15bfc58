"""The runs of which the tables are made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.routing.capacity import capacity
from benchmarks.routing.conversations import People
from benchmarks.routing.model import Assumptions
from benchmarks.routing.outcome import Outcome
from benchmarks.routing.policies import FORGETFUL_STICKY, POLICIES, PolicyKind
from benchmarks.routing.simulation import Outage, Simulation

HOUR_S = 3600.0
LOAD = 0.7
FACTORS = (0.5, 2.0)
Outcomes = Mapping[str, Outcome]


@dataclass(frozen=True)
class Effort:
    """How much is simulated. A day of the simulation is shorter than one of the world, so that
    many replicas do not take for ever."""

    days: Sequence[tuple[int, float]]
    """Replicas, and the length of a day."""
    loads: Sequence[float]
    loads_at: tuple[int, float]
    varied_at: tuple[int, float]
    outages_at: Sequence[int]
    warm_s: float = 600.0
    """Before the day begins; at most half a day."""
    outage_day_s: float = HOUR_S


FULL = Effort(
    days=(
        (1, 12 * HOUR_S),
        (2, 12 * HOUR_S),
        (4, 8 * HOUR_S),
        (8, 4 * HOUR_S),
        (32, 1.5 * HOUR_S),
        (100, HOUR_S),
        (100, HOUR_S / 6),
        (1000, HOUR_S / 6),
    ),
    loads=(0.5, 0.6, 0.7, 0.8, 0.85),
    loads_at=(32, HOUR_S),
    varied_at=(8, HOUR_S),
    outages_at=(8, 32),
)
QUICK = Effort(
    days=((1, HOUR_S / 2), (2, HOUR_S / 2), (8, HOUR_S / 4), (32, HOUR_S / 12)),
    loads=(0.5, 0.7, 0.85),
    loads_at=(8, HOUR_S / 6),
    varied_at=(4, HOUR_S / 12),
    outages_at=(8,),
    warm_s=200.0,
    outage_day_s=HOUR_S / 3,
)


@dataclass(frozen=True)
class Varied:
    """An assumption that may well be wrong, and how it is made larger."""

    name: str
    scaled: Callable[[Assumptions, float], Assumptions]


@dataclass(frozen=True)
class Event:
    """A replica that goes or comes, and when."""

    name: str
    outage: Outage
    windows: Sequence[tuple[str, float, float]]
    """Of the day, with names."""


def _field(field: str) -> Callable[[Assumptions, float], Assumptions]:
    def scaled(given: Assumptions, factor: float) -> Assumptions:
        changes: dict[str, Any] = {field: _times(getattr(given, field), factor)}
        return replace(given, **changes)

    return scaled


def _times(value: Any, factor: float) -> Any:
    """A number, or the median of a log-normal variable."""
    if isinstance(value, tuple):
        return (value[0] * factor, *value[1:])
    return type(value)(value * factor)


VARIED = (
    Varied("speed of prompts", _field("prompt_efficiency")),
    Varied("speed of the image encoder", _field("encoder_efficiency")),
    Varied("speed of answers", _field("answer_efficiency")),
    Varied("size of the KV cache", _field("kv_tokens")),
    Varied("requests at once", _field("max_num_seqs")),
    Varied("size of the image cache", _field("image_cache_bytes")),
    Varied("loading of an image", _field("image_load_s_per_megapixel")),
    Varied("turns of a conversation", _field("mean_turns")),
    Varied("time between turns", _field("think_s")),
    Varied("length of thoughts", _field("thought_tokens")),
    Varied("images of a first question", _field("mean_images")),
    Varied("daily swing", _field("daily_swing")),
)


@dataclass(frozen=True)
class Findings:
    """Of all experiments."""

    by_replicas: Sequence[tuple[int, float, Outcomes]]
    """With the length of the day."""
    by_load: Sequence[tuple[float, Outcomes]]
    varied: Sequence[tuple[str, Outcomes]]
    """The first is as assumed."""
    events: Sequence[tuple[int, Event, Outcomes]]


class Laboratory:
    """Runs with one seed: each policy meets the same people."""

    def __init__(self, effort: Effort, seed: int, given: Assumptions | None = None) -> None:
        self.effort = effort
        self.seed = seed
        self.given = given or Assumptions()

    def findings(self) -> Findings:
        return Findings(self.by_replicas(), self.by_load(), self.varied(), self.events())

    def by_replicas(self) -> list[tuple[int, float, Outcomes]]:
        """At the usual load."""
        return [(n, day_s, self._all(n, day_s)) for n, day_s in self.effort.days]

    def by_load(self) -> list[tuple[float, Outcomes]]:
        replicas, day_s = self.effort.loads_at
        return [(load, self._all(replicas, day_s, load=load)) for load in self.effort.loads]

    def varied(self) -> list[tuple[str, Outcomes]]:
        """As assumed, and then each assumption alone, halved and doubled. The load stays the same
        part of what a replica can do, so that fewer or more people come."""
        found = [("as assumed", self._all(*self.effort.varied_at))]
        for each in VARIED:
            for factor in FACTORS:
                given = each.scaled(self.given, factor)
                outcomes = self._all(*self.effort.varied_at, given)
                found.append((f"{each.name} x {factor:g}", outcomes))
        return found

    def events(self) -> list[tuple[int, Event, Outcomes]]:
        """A replica is killed in the busiest minute; one joins, that was not there before."""
        found: list[tuple[int, Event, Outcomes]] = []
        for replicas in self.effort.outages_at:
            for event in self._events():
                outcomes = self._all(
                    replicas,
                    self.effort.outage_day_s,
                    kinds=(*POLICIES, FORGETFUL_STICKY),
                    outage=event.outage,
                )
                found.append((replicas, event, outcomes))
        return found

    def _all(
        self,
        replicas: int,
        day_s: float,
        given: Assumptions | None = None,
        *,
        load: float = LOAD,
        kinds: Sequence[PolicyKind] = POLICIES,
        outage: Outage | None = None,
    ) -> Outcomes:
        """A day with each policy, at a load that is a part of what replicas without caches can."""
        given = given or self.given
        can = capacity(given)
        per_s = load * replicas * can.requests_per_s / can.turns
        warm_s = min(self.effort.warm_s, day_s / 2)
        people = [*People(given, self.seed).arrivals(per_s, -warm_s, day_s)]
        found = {}
        for kind in kinds:
            began = time.monotonic()
            outcome = Simulation(given, kind, replicas, people, day_s, outage).run()
            found[kind.name] = outcome
            took = f"{outcome.asked} requests, {time.monotonic() - began:.1f} s"
            print(f"{replicas} replicas, {kind.name}, load {load}: {took}", file=sys.stderr)
        return found

    def _events(self) -> list[Event]:
        noon, day_s = self.effort.outage_day_s / 2, self.effort.outage_day_s
        back = noon + self.given.restart_s
        killed = Event(
            "killed",
            Outage(noon, back),
            (
                ("5 min before", noon - 300, noon),
                ("while it is away", noon, back),
                ("2 min after its return", back, back + 120),
                ("5 min after that", back + 120, back + 420),
            ),
        )
        joins = Event(
            "joins",
            Outage(-min(self.effort.warm_s, noon), noon),
            (
                ("5 min before", noon - 300, noon),
                ("2 min after", noon, noon + 120),
                ("5 min after that", noon + 120, noon + 420),
                ("the rest of the day", noon + 420, day_s),
            ),
        )
        return [killed, joins]
