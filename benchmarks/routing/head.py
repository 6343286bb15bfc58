"""When one head node (WebUI with page and gateway, router) is full: arithmetic, no simulation."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.routing.capacity import capacity
from benchmarks.routing.model import Assumptions


@dataclass(frozen=True)
class Part:
    """What needs processor time for each chunk of a stream, or for each whole answer."""

    name: str
    chunk_s: float
    json_s: float
    cores: int


@dataclass(frozen=True)
class Traffic:
    """Of one replica in the busiest minute."""

    requests_per_s: float
    tokens_per_s: float
    image_bytes_per_s: float


def traffic(given: Assumptions, load: float) -> Traffic:
    """At a mean load of the day."""
    can = capacity(given)
    requests = load * (1 + given.daily_swing) * can.requests_per_s
    return Traffic(requests, requests * can.generated_tokens, requests * can.image_bytes)


def parts(given: Assumptions) -> list[Part]:
    """The gateway is one process that uses one core; the router has threads for all of them."""
    both_chunk, both_json = (
        given.gateway_chunk_s + given.router_chunk_s,
        given.gateway_json_s + given.router_json_s,
    )
    return [
        Part("one gateway process", given.gateway_chunk_s, given.gateway_json_s, 1),
        Part("router, one core", given.router_chunk_s, given.router_json_s, 1),
        Part("gateway and router, one core", both_chunk, both_json, 1),
        Part(
            f"head of {given.head_cores} cores, as many gateway processes as it takes",
            both_chunk,
            both_json,
            given.head_cores,
        ),
    ]


def chunks_per_s(part: Part, given: Assumptions) -> float:
    """That it passes on before it is full."""
    return part.cores * given.core_share / part.chunk_s


def replicas_streaming(part: Part, given: Assumptions, load: float, interval: int = 1) -> float:
    """That it can serve if every answer is streamed, so many tokens in a chunk."""
    return chunks_per_s(part, given) * interval / traffic(given, load).tokens_per_s


def replicas_json(part: Part, given: Assumptions, load: float) -> float:
    """That it can serve if no answer is streamed."""
    return part.cores * given.core_share / part.json_s / traffic(given, load).requests_per_s
