"""Which policies are better than which, where small differences are none."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from benchmarks.routing.experiments import Outcomes

# Below this ratio, two policies are called equal.
CLEARLY = 1.15


def p99s(outcomes: Outcomes) -> dict[str, float]:
    return {name: outcome.ttft(0.99) for name, outcome in outcomes.items()}


def reversals(base: Mapping[str, float], other: Mapping[str, float]) -> list[tuple[str, str]]:
    """Pairs of which the first was clearly better, and now the second is."""
    found = []
    for one, two in combinations(base, 2):
        for better, worse in ((one, two), (two, one)):
            was = base[worse] > CLEARLY * base[better]
            if was and other[better] > CLEARLY * other[worse]:
                found.append((better, worse))
    return found


def best(values: Mapping[str, float]) -> list[str]:
    """All that are not clearly worse than the least."""
    least = min(values.values())
    return [name for name, value in values.items() if value <= CLEARLY * least]
