"""The tables of docs/routing.md."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence

from benchmarks.routing import head
from benchmarks.routing.experiments import LOAD, Event, Findings, Outcomes
from benchmarks.routing.model import Assumptions
from benchmarks.routing.ranking import best, p99s, reversals

STREAM_INTERVALS = (1, 4, 10)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Markdown; the first columns are text, the others numbers."""
    marks = ["---" if place < text_columns else "---:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows))


def seconds(value: float) -> str:
    """Three digits are more than the model knows."""
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def share(value: float) -> str:
    return f"{value:.0%}"


def length(day_s: float) -> str:
    return f"{day_s / 3600:g} h" if day_s >= 3600 else f"{day_s / 60:g} min"


def by_replicas(findings: Findings) -> str:
    rows = []
    for replicas, day_s, outcomes in findings.by_replicas:
        for name, outcome in outcomes.items():
            rows.append(
                [
                    f"{replicas:,}",
                    name,
                    share(outcome.prefix_hit_rate()),
                    share(outcome.image_hit_rate),
                    seconds(outcome.ttft(0.5)),
                    seconds(outcome.ttft(0.99)),
                    f"{outcome.imbalance:.2f}",
                    f"{1000 * outcome.prompt_s_per_request:.0f} ms",
                    length(day_s),
                    f"{outcome.measured:,}",
                ]
            )
    heads = [
        "replicas",
        "policy",
        "prefix hits",
        "image hits",
        "TTFT p50",
        "TTFT p99",
        "imbalance",
        "prompt work",
        "day",
        "requests",
    ]
    return table(heads, rows, 2)


def by_load(findings: Findings) -> str:
    rows = [
        [
            f"{load:g}",
            *(f"{share(o.prefix_hit_rate())}, {seconds(o.ttft(0.99))}" for o in outcomes.values()),
        ]
        for load, outcomes in findings.by_load
    ]
    return table(["load", *findings.by_load[0][1]], rows)


def varied(findings: Findings) -> str:
    base = p99s(findings.varied[0][1])
    rows = []
    for name, outcomes in findings.varied:
        now = p99s(outcomes)
        turned = "; ".join(f"{b} beats {a}" for a, b in reversals(base, now)) or "no"
        best_ones = best(now)
        cells = [
            f"**{seconds(p99)}**" if n in best_ones else seconds(p99) for n, p99 in now.items()
        ]
        rows.append([name, *cells, turned])
    return table(["varied", *base, "order reversed"], rows)


def events(findings: Findings, name: str) -> str:
    parts = []
    for replicas, event, outcomes in findings.events:
        if event.name == name:
            parts.append(_event(replicas, event, outcomes))
    return "\n\n".join(parts)


def _event(replicas: int, event: Event, outcomes: Outcomes) -> str:
    rows = []
    for name, outcome in outcomes.items():
        cells = [
            f"{share(outcome.prefix_hit_rate(begins, ends))},"
            f" {seconds(outcome.ttft(0.99, begins, ends))}"
            for _, begins, ends in event.windows
        ]
        rows.append([name, *([f"{outcome.restarts}"] if event.name == "killed" else []), *cells])
    sent_anew = ["sent anew"] if event.name == "killed" else []
    return table([f"{replicas} replicas", *sent_anew, *(w for w, _, _ in event.windows)], rows)


def head_room(given: Assumptions) -> str:
    rows = [
        [
            part.name,
            f"{1e6 * part.chunk_s:.0f} us",
            f"{head.chunks_per_s(part, given):,.0f}",
            *(
                f"{head.replicas_streaming(part, given, LOAD, interval):,.0f}"
                for interval in STREAM_INTERVALS
            ),
            f"{head.replicas_json(part, given, LOAD):,.0f}",
        ]
        for part in head.parts(given)
    ]
    streamed = [f"replicas, {n} token{'s' * (n > 1)} a chunk" for n in STREAM_INTERVALS]
    heads = ["", "CPU a chunk", "chunks/s", *streamed, "replicas, nothing streamed"]
    return table(heads, rows)


def assumptions(given: Assumptions) -> str:
    """Each field with its value and the words that stand below it in model.py."""
    source = inspect.getsource(Assumptions)
    words = dict(
        re.findall(r'^    (\w+): [^\n]*(?:\n[^\n"]*?)*?\n    """(.*?)"""', source, re.S | re.M)
    )
    rows = [
        [f"`{field.name}`", _value(getattr(given, field.name)), " ".join(words[field.name].split())]
        for field in dataclasses.fields(given)
    ]
    return table(["", "value", "source"], rows, 3)


def _value(value: object) -> str:
    if isinstance(value, float) and value >= 1e6:
        return f"{value:.4g}"
    if isinstance(value, int | float):
        return f"{value:,g}" if value < 1e6 else f"{value:,}"
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return ", ".join(f"{kind.width}x{kind.height}: {part:g}" for kind, part in value)
    return ", ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
