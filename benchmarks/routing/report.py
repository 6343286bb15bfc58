"""docs/routing.md: what stands in the gaps of page.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from benchmarks.routing import head, tables
from benchmarks.routing.capacity import capacity
from benchmarks.routing.experiments import LOAD, Findings, Laboratory
from benchmarks.routing.outcome import Outcome
from benchmarks.routing.policies import LEAST_LOADED, ROUND_ROBIN, STICKY, STICKY_BY_REQUESTS
from benchmarks.routing.ranking import CLEARLY, best, p99s, reversals
from benchmarks.routing.tables import length, seconds, share

TEMPLATE = Path(__file__).with_name("page.md")
SHOWN_REPLICAS = 32


def report(laboratory: Laboratory, findings: Findings, command: str) -> str:
    gaps = {
        "command": command,
        "seed": f"{laboratory.seed}",
        "load": f"{LOAD:g}",
        **_conditions(laboratory),
        **_conclusions(laboratory, findings),
        **_tables(laboratory, findings),
        **_head(laboratory),
    }
    return Template(TEMPLATE.read_text()).substitute(gaps)


def _conditions(laboratory: Laboratory) -> dict[str, str]:
    given, effort = laboratory.given, laboratory.effort
    can = capacity(given)
    return {
        "ttl": length(given.session_ttl_s),
        "cold": f"{can.requests_per_s:.2f}",
        "cold_tokens": f"{can.requests_per_s * can.generated_tokens:,.0f}",
        "warm": f"{can.warm_requests_per_s:.2f}",
        "peak": f"{1 + given.daily_swing:g}",
        "full": f"{1 / (1 + given.daily_swing):.2f}",
        "loads_replicas": f"{effort.loads_at[0]}",
        "loads_day": length(effort.loads_at[1]),
        "restart": f"{given.restart_s:.0f} s",
        "events_day": length(effort.outage_day_s),
        "varied_replicas": f"{effort.varied_at[0]}",
        "varied_day": length(effort.varied_at[1]),
        "clearly": share(CLEARLY - 1),
    }


def _conclusions(laboratory: Laboratory, findings: Findings) -> dict[str, str]:
    outcomes = next(row[2] for row in findings.by_replicas if row[0] == SHOWN_REPLICAS)
    robin, sticky = outcomes[ROUND_ROBIN.name], outcomes[STICKY.name]
    replicas, event, joined = findings.events[-1]
    _, begins, ends = event.windows[1]
    (least, calm), *_, (most, busy) = findings.by_load
    return {
        "shown": f"{SHOWN_REPLICAS}",
        "sticky_hits": share(sticky.prefix_hit_rate()),
        "robin_hits": share(robin.prefix_hit_rate()),
        "sticky_p50": seconds(sticky.ttft(0.5)),
        "robin_p50": seconds(robin.ttft(0.5)),
        "saved": share(_saved(laboratory, robin, sticky)),
        "least": f"{least:g}",
        "sticky_least": seconds(calm[STICKY.name].ttft(0.99)),
        "most": f"{most:g}",
        "sticky_most": seconds(busy[STICKY.name].ttft(0.99)),
        "joined_replicas": f"{replicas}",
        "joined": seconds(joined[STICKY.name].ttft(0.99, begins, ends)),
        "joined_by_requests": seconds(joined[STICKY_BY_REQUESTS.name].ttft(0.99, begins, ends)),
        "ceiling": share(sticky.prefix_ceiling),
    }


def _saved(laboratory: Laboratory, dear: Outcome, cheap: Outcome) -> float:
    """Of a card's time for a request, whose answer is one of a full batch."""
    answer_s = capacity(laboratory.given).answer_s
    return 1 - (answer_s + cheap.prompt_s_per_request) / (answer_s + dear.prompt_s_per_request)


def _tables(laboratory: Laboratory, findings: Findings) -> dict[str, str]:
    return {
        "by_replicas": tables.by_replicas(findings),
        "by_load": tables.by_load(findings),
        "killed": tables.events(findings, "killed"),
        "joins": tables.events(findings, "joins"),
        "varied": tables.varied(findings),
        "verdict": _verdict(findings),
        "assumptions": tables.assumptions(laboratory.given),
    }


def _verdict(findings: Findings) -> str:
    _, base = findings.varied[0]
    rows = {name: p99s(outcomes) for name, outcomes in findings.varied[1:]}
    turned = [name for name, now in rows.items() if reversals(p99s(base), now)]
    blind = {ROUND_ROBIN.name, LEAST_LOADED.name}
    without = [name for name, now in rows.items() if blind & {*best(now)}]
    slower = [
        name
        for name, outcomes in findings.varied[1:]
        if outcomes[STICKY.name].ttft(0.5) > min(outcomes[each].ttft(0.5) for each in blind)
    ]
    return (
        f"The order is reversed in {len(turned)} of {len(rows)} rows{_listed(turned)}."
        f" A policy that ignores sessions is among the best in {len(without)}{_listed(without)}."
        f" By the median, sticky is behind one of these in {len(slower)}{_listed(slower)}."
    )


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _head(laboratory: Laboratory) -> dict[str, str]:
    given = laboratory.given
    busy = head.traffic(given, LOAD)
    gateway, *_, whole = head.parts(given)
    return {
        "head_room": tables.head_room(given),
        "busy_requests": f"{busy.requests_per_s:.2f}",
        "busy_tokens": f"{busy.tokens_per_s:,.0f}",
        "core_share": share(given.core_share),
        "core_part": f"{given.core_share:g}",
        "head_cores": f"{given.head_cores}",
        "gateway_replicas": f"{head.replicas_streaming(gateway, given, LOAD):.0f}",
        "head_replicas": f"{head.replicas_streaming(whole, given, LOAD):.0f}",
        "image_rate": f"{busy.image_bytes_per_s / 1e6:.1f}",
        "image_gbit": f"{1000 * 8 * busy.image_bytes_per_s / 1e9:.1f}",
    }
