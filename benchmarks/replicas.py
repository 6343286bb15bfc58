"""What several engines behind the router give, what the router costs, and what a lost one costs.

    python -m benchmarks.replicas [--seconds N] [--kills N] [--requests N]

Everything is real but the engines: stand-ins that take a fixed time for a request and so many
requests at once, so that they hardly need a core and two of them could give twice what one gives.
Prints Markdown; exit code 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.installation import (
    ANSWERED,
    CUT,
    NO_ANSWER,
    Installation,
    Reply,
    ask,
    outcome_of,
    say,
    table,
    verdict,
    wait_until,
)

# A request takes a tenth of a second, and four are answered at once.
SLOW = {"slots": 4, "words": 1, "delay_s": 0.1}
QUICK: Mapping[str, Any] = {"words": 1}
SPEAKERS = 16
WARM = 50
ALONE = 500

LEAST_GAIN = 1.8
MOST_ADDED_MS = 3.0
OUT_LIMIT_S = 10.0
BACK_LIMIT_S = 60.0

_numbers = itertools.count()


def new_talk(installation: Installation, **fields: Any) -> Reply:
    """A question that nobody has asked before, so that any engine may get it."""
    content = f"Question {next(_numbers)}"
    return installation.chat(messages=[{"role": "user", "content": content}], **fields)


@contextmanager
def asking(installation: Installation, outcomes: Counter[str], **fields: Any) -> Iterator[None]:
    """So many who ask, each as soon as it has its answer."""
    over = threading.Event()

    def speak(_: int) -> Counter[str]:
        found: Counter[str] = Counter()
        while not over.is_set():
            reply = new_talk(installation, **fields)
            found[outcome_of(reply, stream=bool(fields.get("stream")))] += 1
        return found

    with ThreadPoolExecutor(SPEAKERS) as pool:
        speaking = [pool.submit(speak, number) for number in range(SPEAKERS)]
        try:
            yield
        finally:
            over.set()
        for one in speaking:
            outcomes.update(one.result())


@contextmanager
def started(count: int, script: Mapping[str, Any]) -> Iterator[Installation]:
    with tempfile.TemporaryDirectory() as folder:
        # A kill every few seconds is no crash loop here.
        patience = {"good_run_s": 1, "crash_limit": 1000}
        installation = Installation(
            Path(folder), real=False, script=script, replicas=count, **patience
        )
        try:
            installation.up()
            if count > 1:
                wait_until(lambda: len(routed(installation)) == count, 30, "all get requests")
            yield installation
        finally:
            installation.down()


def routed(installation: Installation) -> set[str]:
    document = json.loads(installation.paths.replicas.read_text())
    return {row["name"] for row in document["replicas"] if row["phase"] == "ready"}


def throughput(count: int, seconds: float) -> float:
    """Answers a second."""
    with started(count, SLOW) as installation:
        outcomes: Counter[str] = Counter()
        began = time.monotonic()
        with asking(installation, outcomes):
            time.sleep(seconds)
        took = time.monotonic() - began
    say(f"{count} engine(s): {outcomes}")
    return outcomes[ANSWERED] / took


def added_ms() -> tuple[float, float]:
    """Milliseconds that an answer takes, from an engine itself and through gateway and router, in
    turn; medians."""
    with started(2, QUICK) as installation:
        row = json.loads(installation.paths.replicas.read_text())["replicas"][0]
        engine = int(row["url"].rpartition(":")[2])
        body = {"model": installation.model, "messages": [{"role": "user", "content": "hi"}]}
        direct, through = [], []
        for number in range(WARM + ALONE):
            one = ask(engine, "/v1/chat/completions", body)
            other = ask(installation.port, "/api/v1/chat/completions", body)
            if number >= WARM:
                direct.append(one.ended - one.began)
                through.append(other.ended - other.began)
    return 1000 * statistics.median(direct), 1000 * statistics.median(through)


def kills(times: int, *, stream: bool) -> tuple[Counter[str], list[float]]:
    """What became of requests while one engine after the other was killed; and the seconds until
    each got no more of them."""
    outcomes: Counter[str] = Counter()
    seconds = []
    with (
        started(2, {"words": 10, "delay_s": 0.02}) as installation,
        asking(installation, outcomes, stream=stream),
    ):
        for number in range(times):
            name = f"vllm-{number % 2}"
            installation.wait_until_settled()
            [parent] = [s.pid for s in installation.supervisord.states() if s.name == name]
            [engine] = psutil.Process(parent).children()
            began = time.monotonic()
            engine.send_signal(signal.SIGKILL)
            wait_until(lambda name=name: name not in routed(installation), 30, "taken out")
            seconds.append(time.monotonic() - began)
            wait_until(lambda: len(routed(installation)) == 2, BACK_LIMIT_S, "back")
    return outcomes, seconds


def rolling(requests: int) -> Counter[str]:
    """What became of requests during rolling restarts."""
    outcomes: Counter[str] = Counter()
    with started(2, {"words": 10, "delay_s": 0.02}) as installation:
        while outcomes.total() < requests:
            with asking(installation, outcomes):
                installation.launch("restart", "--rolling")
            say(f"rolling: {outcomes}")
    return outcomes


def report(arguments: argparse.Namespace) -> bool:
    one, two = throughput(1, arguments.seconds), throughput(2, arguments.seconds)
    direct, through = added_ms()
    whole, out = kills(arguments.kills, stream=False)
    streams, _ = kills(arguments.kills, stream=True)
    restarted = rolling(arguments.requests)
    failed = whole.total() - whole[ANSWERED]
    untyped = streams[CUT] + streams[NO_ANSWER]
    missed = restarted.total() - restarted[ANSWERED]
    rows = [
        (
            "two engines beside one, answers a second",
            f"{two / one:.2f} x ({two:.1f} beside {one:.1f})",
            f"{LEAST_GAIN} x",
            two / one >= LEAST_GAIN,
        ),
        (
            "gateway and router, added to an answer, median",
            f"{through - direct:.1f} ms ({through:.1f} beside {direct:.1f})",
            f"{MOST_ADDED_MS:g} ms",
            through - direct <= MOST_ADDED_MS,
        ),
        (
            f"whole answers lost in {len(out)} kills of an engine",
            f"{failed} of {whole.total()}",
            "0",
            failed == 0,
        ),
        (
            "seconds until a killed one gets no more requests, worst",
            f"{max(out):.1f}",
            f"{OUT_LIMIT_S:g}",
            max(out) <= OUT_LIMIT_S,
        ),
        (
            f"streams that ended without an event in {arguments.kills} kills",
            f"{untyped} of {streams.total()}",
            "0",
            untyped == 0,
        ),
        (
            "requests lost in rolling restarts",
            f"{missed} of {restarted.total()}",
            "0",
            missed == 0,
        ),
    ]
    cells = [[what, seen, goal, verdict(met=met)] for what, seen, goal, met in rows]
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(table(["", "measured", "wanted", ""], cells))
    print(f"\n{cores} CPU cores, stand-in engines; load average at the end {load:.1f}.")
    return all(met for *_, met in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of each throughput (20)")
    parser.add_argument("--kills", type=int, default=10, help="of an engine (10)")
    parser.add_argument("--requests", type=int, default=1000, help="in rolling restarts (1000)")
    arguments = parser.parse_args()
    return 0 if report(arguments) else 1


if __name__ == "__main__":
    raise SystemExit(main())
