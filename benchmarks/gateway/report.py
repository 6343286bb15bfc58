"""Figures as Markdown: what each gateway costs, and how ours stands against its goals."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.gateway.measures import CONNECTIONS, STREAM_S, TICK_S, TOKENS, Effort, Figures

DIRECT, OURS, OURS_OFF, ROUTER, LITELLM = (
    "no gateway",
    "WebUI",
    "WebUI, thinking off",
    "vllm-router",
    "litellm",
)
FIRST_BYTE_GOAL_MS, FIRST_BYTE_PART = 5.0, 1 / 20
HELD_GOAL_MB = 200.0
# Growth of an allocator's pools; a leak of a hundred bytes a request would be 9 MB.
FLAT_GOAL_MB = 5.0
UNKNOWN = "-"


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that ``part`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


# What is compared with the router, and how it may stand beside it.
Cost = Callable[[Figures], float | None]
COMPARED: tuple[tuple[str, Cost, float], ...] = (
    ("CPU per stream chunk", lambda f: middle(f.chunk_us), 1.0),
    ("CPU per stream chunk, in step", lambda f: middle(f.step_us), 1.0),
    ("CPU per JSON request", lambda f: middle(f.json_us), 2.0),
    ("CPU per JSON request, back to back", lambda f: middle(f.busy_us), 2.0),
)


class Report:
    """Of one run. ``missing`` are peers that are not there, and why."""

    def __init__(
        self,
        figures: Mapping[str, Figures],
        versions: Mapping[str, str],
        missing: Mapping[str, str],
    ) -> None:
        self._figures = figures
        self._versions = versions
        self._missing = missing

    def markdown(self, effort: Effort) -> str:
        parts = [_conditions(effort), self._gateways(), self._goals(effort), self._faults()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _gateways(self) -> str:
        rows = [
            "| gateway | CPU per JSON request | the same, back to back | CPU per stream chunk"
            " | the same, in step | first byte p50 / p99 | the same, in step | idle memory"
            " | with the streams open |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, figures in self._figures.items():
            cells = [
                self._named(name),
                self._cost(name, lambda f: middle(f.json_us)),
                self._cost(name, lambda f: middle(f.busy_us)),
                self._cost(name, lambda f: middle(f.chunk_us)),
                self._cost(name, lambda f: middle(f.step_us)),
                _spread(figures.spread_ms),
                _spread(figures.burst_ms),
                _number(figures.idle_mb, "MB"),
                _number(figures.held_mb, "MB", sign="+"),
            ]
            rows.append(f"| {' | '.join(cells)} |")
        rows += [f"| {name} | {why} | | | | | | | |" for name, why in self._missing.items()]
        return "\n".join(rows)

    def _named(self, name: str) -> str:
        return f"{name} {self._versions.get(name, '')}".strip()

    def _cost(self, name: str, of: Cost) -> str:
        """With the ratio to the router."""
        value, base = of(self._figures[name]), self._of(ROUTER, of)
        if name == DIRECT or value is None:
            return UNKNOWN
        ratio = f" ({value / base:.2f} x)" if base else ""
        return f"{value:.0f} us{ratio}"

    def _of(self, name: str, of: Cost) -> float | None:
        figures = self._figures.get(name)
        return of(figures) if figures else None

    def _goals(self, effort: Effort) -> str:
        held = f"memory with {effort.held} open streams"
        flat = f"memory from {effort.flat_requests // 10} to {effort.flat_requests} requests"
        rows = ["| measure | goal | measured | |", "| --- | --- | --- | --- |"]
        for name in (OURS, OURS_OFF):
            rows += [
                *(self._ratio(name, *compared) for compared in COMPARED),
                *self._first_bytes(name, "first byte", lambda f: f.spread_ms),
                *self._first_bytes(name, "first byte, in step", lambda f: f.burst_ms),
            ]
        ours = self._figures.get(OURS, Figures())
        growth = ours.flat_mb[-1] - ours.flat_mb[0] if ours.flat_mb else None
        rows += [
            _row(f"WebUI: {held}", f"<= +{HELD_GOAL_MB:.0f} MB", ours.held_mb, HELD_GOAL_MB, "MB"),
            _row(f"WebUI: {flat}", f"flat: <= +{FLAT_GOAL_MB:.0f} MB", growth, FLAT_GOAL_MB, "MB"),
        ]
        return "\n".join(rows)

    def _ratio(self, name: str, what: str, of: Cost, goal: float) -> str:
        ours, base = self._of(name, of), self._of(ROUTER, of)
        ratio = ours / base if ours and base else None
        return _row(f"{name}: {what}", f"<= {goal:.1f} x {ROUTER}", ratio, goal, "x")

    def _first_bytes(self, name: str, what: str, of: Callable[[Figures], list[float]]) -> list[str]:
        added, litellm = self._added(name, of), self._added(LITELLM, of)
        part = added / litellm if added is not None and litellm else None
        return [
            _row(
                f"{name}: p99 added to the {what}",
                f"<= {FIRST_BYTE_GOAL_MS:.0f} ms",
                added,
                FIRST_BYTE_GOAL_MS,
                "ms",
            ),
            _row(
                f"{name}: the same, beside {LITELLM}",
                f"<= {FIRST_BYTE_PART:.2f} x",
                part,
                FIRST_BYTE_PART,
                "x",
            ),
        ]

    def _added(self, name: str, of: Callable[[Figures], list[float]]) -> float | None:
        """p99 beyond that of the engine alone, in milliseconds."""
        ours = of(self._figures.get(name, Figures()))
        base = of(self._figures.get(DIRECT, Figures()))
        return percentile(ours, 0.99) - percentile(base, 0.99) if ours and base else None

    def _faults(self) -> str:
        faults = [
            f"- {name}: {fault}"
            for name, figures in self._figures.items()
            for fault in figures.faults
        ]
        return "\n".join(["What could not be measured:", "", *faults]) if faults else ""


def _conditions(effort: Effort) -> str:
    model = "processor unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} CPU cores ({model}), Python {platform.python_version()}. Mock engine: {TOKENS}"
        f" tokens, one every {1000 * TICK_S:.0f} ms, so {STREAM_S:.2f} s a stream."
        f" {CONNECTIONS} connections; {effort.rounds} rounds, medians; {effort.held} streams for"
        " the memory."
    )


def _spread(values: list[float]) -> str:
    if not values:
        return UNKNOWN
    return f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f} ms"


def _number(value: float | None, unit: str, sign: str = "") -> str:
    return UNKNOWN if value is None else f"{value:{sign}.0f} {unit}"


def _row(what: str, goal: str, value: float | None, most: float, unit: str) -> str:
    if value is None:
        return f"| {what} | {goal} | {UNKNOWN} | not measured |"
    shown = f"{value:.3f}" if most < 1 else f"{value:.2f}" if unit == "x" else f"{value:.1f}"
    return f"| {what} | {goal} | {shown} {unit} | {'met' if value <= most else '**missed**'} |"
