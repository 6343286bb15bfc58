"""The figures of one gateway, each from clients and marks of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gateway.peers import KEY, MODEL, WEBUI, Gateway, Peer
from benchmarks.gateway.processes import Program

TOKENS = 64
TICK_S = 0.01
CONNECTIONS = 16
# The engine's events for an ordinary streamed request: one with the role, one a token, one with the
# reason for the end. A gateway that asks for more of them gets no credit for it.
EVENTS = TOKENS + 2
STREAM_S = TICK_S * TOKENS
# Between two streams of a client, so that all are soon in different places.
STREAM_PAUSE_S = 2 * TICK_S
# With this pause 16 clients ask about 400 times a second, as much as a fast engine can answer.
JSON_PAUSE_S = 0.08
SETTLE_S = 1.0
QUESTION = "Name three uses of a paper clip, and say which one is the oldest."


class LoadError(Exception):
    """The clients did not get what they asked for; the message says what came instead."""


@dataclass(frozen=True)
class Effort:
    """How long, how often and how many; times in seconds."""

    rounds: int
    json_s: float
    stream_s: float
    burst_s: float
    held: int
    hold_s: float
    flat_requests: int


FULL = Effort(3, json_s=8, stream_s=15, burst_s=8, held=1000, hold_s=15, flat_requests=100_000)
QUICK = Effort(1, json_s=2, stream_s=3, burst_s=2, held=200, hold_s=4, flat_requests=5_000)


@dataclass
class Figures:
    """What was measured, a value a round; first bytes are pooled.

    Processor time in microseconds, first bytes in milliseconds, memory in MB.
    """

    json_us: list[float] = field(default_factory=list)
    """At a rate that an engine could bear."""
    busy_us: list[float] = field(default_factory=list)
    """Back to back, so that a gateway works without pause."""
    chunk_us: list[float] = field(default_factory=list)
    """Of streams that began at different moments."""
    step_us: list[float] = field(default_factory=list)
    """Of streams that began together, so that their chunks come together."""
    spread_ms: list[float] = field(default_factory=list)
    burst_ms: list[float] = field(default_factory=list)
    idle_mb: float | None = None
    held_mb: float | None = None
    """Above idle, with all streams open."""
    flat_mb: list[float] = field(default_factory=list)
    """After each tenth of many requests."""
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """What is measured under one name: a gateway and a way to ask it. No peer: the engine."""

    name: str
    peer: Peer | None
    more: dict[str, Any] = field(default_factory=dict)

    def body(self, *, stream: bool, max_tokens: int = TOKENS) -> str:
        message = {"role": "user", "content": QUESTION}
        document = {"model": MODEL, "messages": [message], "max_tokens": max_tokens, **self.more}
        return json.dumps(document | ({"stream": True} if stream else {}))

    @property
    def api_key(self) -> str:
        return KEY if self.peer is WEBUI else ""


@dataclass(frozen=True)
class Target:
    """A subject that runs."""

    subject: Subject
    port: int
    program: Program | None


def load_command(target: Target, kind: str, body: str, **options: float) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gateway.load", kind, "--body", body]
    command += ["--port", str(target.port), "--api-key", target.subject.api_key]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return command


def load(target: Target, kind: str, *, stream: bool, **options: float) -> dict[str, Any]:
    """What the clients saw.

    Raises:
        LoadError: a request failed, or none was made.
    """
    command = load_command(target, kind, target.subject.body(stream=stream), **options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(done.stderr.strip()[-300:])
    seen: dict[str, Any] = json.loads(done.stdout)
    if seen["failed"] or not seen["answers"]:
        raise LoadError(f"{seen['failed']} of {seen['failed'] + seen['answers']}: {seen['faults']}")
    return seen


def _with_cpu(
    target: Target, measure: Callable[[], dict[str, Any]]
) -> tuple[float, dict[str, Any]]:
    """Processor seconds that the gateway used meanwhile."""
    before = target.program.cpu_s() if target.program else 0.0
    seen = measure()
    after = target.program.cpu_s() if target.program else 0.0
    return after - before, seen


def measure_round(target: Target, effort: Effort, figures: Figures) -> None:
    """One round: whole answers, and streams that begin one after the other, or all at once."""
    load(target, "each", stream=False, requests=CONNECTIONS)  # what is made on first use
    load(target, "each", stream=True, requests=CONNECTIONS)
    time.sleep(SETTLE_S)
    used, seen = _with_cpu(
        target,
        lambda: load(target, "spread", stream=False, seconds=effort.json_s, pause_s=JSON_PAUSE_S),
    )
    figures.json_us.append(1e6 * used / seen["answers"])
    time.sleep(SETTLE_S)
    used, seen = _with_cpu(
        target, lambda: load(target, "each", stream=False, seconds=effort.json_s / 2)
    )
    figures.busy_us.append(1e6 * used / seen["answers"])
    time.sleep(SETTLE_S)
    used, seen = _with_cpu(
        target,
        lambda: load(
            target,
            "spread",
            stream=True,
            seconds=effort.stream_s,
            over_s=STREAM_S,
            pause_s=STREAM_PAUSE_S,
        ),
    )
    figures.chunk_us.append(1e6 * used / (seen["answers"] * EVENTS))
    figures.spread_ms += [1e3 * seconds for seconds in seen["first_byte_s"]]
    time.sleep(SETTLE_S)
    used, seen = _with_cpu(
        target, lambda: load(target, "burst", stream=True, seconds=effort.burst_s)
    )
    figures.step_us.append(1e6 * used / (seen["answers"] * EVENTS))
    figures.burst_ms += [1e3 * seconds for seconds in seen["first_byte_s"]]


def measure_memory(target: Target, effort: Effort, figures: Figures) -> None:
    """Idle, and with many streams open. The engine should be slow, or nobody can follow it."""
    assert target.program is not None
    load(target, "each", stream=False, requests=500)
    time.sleep(SETTLE_S)
    figures.idle_mb = target.program.memory_mb()
    most = 0.0
    body = target.subject.body(stream=True, max_tokens=2000)
    command = load_command(target, "hold", body, connections=effort.held, seconds=60)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holding:
        try:
            assert holding.stdout is not None
            if holding.stdout.readline() != b"open\n":
                raise LoadError(f"{effort.held} streams are not open within 60 s")
            until = time.monotonic() + effort.hold_s
            while time.monotonic() < until:
                most = max(most, target.program.memory_mb())
                time.sleep(0.25)
            if holding.poll() is not None:
                raise LoadError("the open streams ended too early")
        finally:
            holding.kill()
    figures.held_mb = most - figures.idle_mb


def measure_flatness(target: Target, effort: Effort, figures: Figures) -> None:
    """Memory after each tenth of many requests."""
    assert target.program is not None
    for _ in range(10):
        load(target, "each", stream=False, requests=effort.flat_requests // 10)
        figures.flat_mb.append(target.program.memory_mb())


def engine_program(folder: Any, port: int, *, tick_s: float, tokens: int) -> Program:
    """A mock engine; see :mod:`benchmarks.gateway.mock_engine`."""
    command = [sys.executable, "-m", "benchmarks.gateway.mock_engine", "--port", str(port)]
    command += ["--model", MODEL, "--tick", str(tick_s), "--tokens", str(tokens)]
    program = Program("engine", command, folder, {})
    program.wait_for(f"http://127.0.0.1:{port}/health")
    return program


def target_of(subject: Subject, gateway: Gateway) -> Target:
    return Target(subject, gateway.port, gateway.program)
