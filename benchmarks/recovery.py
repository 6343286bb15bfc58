"""How long the service is away after one of its processes was killed, and what is left behind.

    python -m benchmarks.recovery [--real] [--times N] [--processes NAME ...] [--stream]
        [--restarts N] [--idle] [--out FILE]

Starts the service in a temporary folder and sends SIGKILL to one process after the other, in turn,
N times each, and waits until the service is ready and a chat is answered: by itself, or after
`launch up` where supervisord was killed. --idle: what the engine's parent costs in a minute without
requests. --restarts: whether memory, open files and processes after the last restart of the engine
are as after the first. Prints Markdown; exit code 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.installation import (
    API_SERVER,
    CUT,
    ENGINE_CORE,
    OF_THE_ENGINE,
    PARENT,
    REAL_ONLY,
    SUPERVISORD,
    WEB,
    WORKER,
    Installation,
    MissedError,
    Reply,
    conditions,
    outcome_of,
    run,
    say,
    send,
    table,
    verdict,
    wait_until,
)

PROCESSES = (API_SERVER, ENGINE_CORE, WORKER, PARENT, WEB, SUPERVISORD)
KEPT = (PARENT, WEB, SUPERVISORD)

ENGINE_MARGIN_S = 5.0
"""Beyond a cold start."""
WEBUI_LIMIT_S = 5.0
GIVE_UP_S = 300.0

PAGE_LIMIT_S = 60.0
IDLE_S = 60.0
PARENT_CPU_PERCENT = 0.2
PARENT_MB = 30.0
# What allocators and pools of connections make of the same state.
MORE_MB, MORE_FILES = 10.0, 3

STREAM_BEGINS_S = 0.3


@dataclass
class Row:
    """What came of killing one process again and again."""

    name: str
    limit_s: float
    times: int = 0
    seconds: list[float] = field(default_factory=list)
    leftovers: int = 0
    streams: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def is_met(self) -> bool:
        """Whether it came back every time, in time, and with nothing left over."""
        in_time = max(self.seconds, default=0.0) <= self.limit_s
        cut = self.streams[CUT] if self.name != WEB else 0  # a killed one says nothing more
        every_time = len(self.seconds) == self.times and not self.faults
        return every_time and in_time and not (self.leftovers or cut)

    def cells(self) -> list[str]:
        middle = f"{statistics.median(self.seconds):.1f}" if self.seconds else "-"
        worst = f"{max(self.seconds):.1f}" if self.seconds else "-"
        return [
            *(self.name, str(self.times), str(len(self.seconds)), str(self.leftovers)),
            *(middle, worst, f"{self.limit_s:.1f}", verdict(met=self.is_met)),
        ]


@dataclass(frozen=True)
class Snapshot:
    """Memory in MB of a million bytes, and open files, by process; and how many there are."""

    memory_mb: dict[str, float]
    files: dict[str, int]
    processes: int

    @classmethod
    def of(cls, installation: Installation) -> Snapshot:
        pids = installation.pids()
        kept = {name: psutil.Process(installation.only(name)) for name in KEPT}
        return cls(
            {name: process.memory_info().rss / 1e6 for name, process in kept.items()},
            {name: process.num_fds() for name, process in kept.items()},
            sum(map(len, pids.values())),
        )


class Kills:
    """Kills processes of one installation, in turn."""

    def __init__(self, installation: Installation, cold_s: float, *, stream: bool) -> None:
        self._installation = installation
        self._cold_s = cold_s
        self._stream = stream

    def run(self, names: Sequence[str], times: int) -> list[Row]:
        """In turn, because each needs a few seconds until it may be killed again."""
        limits = dict.fromkeys(names, self._cold_s + ENGINE_MARGIN_S) | {WEB: WEBUI_LIMIT_S}
        rows = [Row(name, limits[name]) for name in names]
        for number in range(times):
            for row in rows:
                if not self._once(row):
                    return rows
            seconds = ", ".join(map(_last, rows))
            # On a machine that others use too, a late round is to be told from a slow service.
            say(f"round {number + 1} of {times}, load {os.getloadavg()[0]:.1f}: {seconds}")
        return rows

    def _once(self, row: Row) -> bool:
        """False where the service is down for good; what was measured until then still counts."""
        row.times += 1
        try:
            self._installation.wait_until_settled()
            row.seconds.append(self._kill(row))
            self._look_around(row)
        except MissedError as error:
            self._note(row, str(error))
            return self._mend(row)
        return True

    def _mend(self, row: Row) -> bool:
        """The others are to be measured all the same."""
        try:
            self._installation.up()
        except MissedError as error:
            self._note(row, f"nor with {error}")
            return False
        return True

    @staticmethod
    def _note(row: Row, fault: str) -> None:
        row.faults.append(f"{row.name}, time {row.times}: {fault}")
        say(row.faults[-1])

    def _kill(self, row: Row) -> float:
        """Seconds until all serve again."""
        installation, name = self._installation, row.name
        # An end of the engine's is one of its parent's too; a new parent runs a new engine.
        successor = PARENT if name in OF_THE_ENGINE else name
        victim, old = installation.only(name), installation.only(successor)
        with ThreadPoolExecutor(1) as pool:
            stream = self._open_stream(pool) if self._stream else None
            began = time.monotonic()
            send(victim, signal.SIGKILL)
            if name == SUPERVISORD:
                began = time.monotonic()
                installation.up()
            wait_until(
                lambda: (
                    old not in installation.pids().get(successor, [old]) and installation.answers()
                ),
                GIVE_UP_S,
                f"serving again after {name} (process {victim}) was killed",
            )
            seconds = time.monotonic() - began
            if stream is not None:
                row.streams[outcome_of(stream.result(), stream=True)] += 1
        return seconds

    def _open_stream(self, pool: ThreadPoolExecutor) -> Future[Reply]:
        asked = pool.submit(self._installation.chat, stream=True)
        time.sleep(STREAM_BEGINS_S)  # in the middle of it, as far as anybody can tell
        return asked

    def _look_around(self, row: Row) -> None:
        if left := self._installation.leftovers():
            row.leftovers += len(left)
            self._note(row, f"processes {sorted(left)} left over")
        self._installation.only(PARENT)
        self._installation.only(API_SERVER)


def _last(row: Row) -> str:
    return f"{row.name} {row.seconds[-1]:.1f} s" if row.seconds else f"{row.name} -"


def restart_again_and_again(installation: Installation, times: int) -> list[list[str]]:
    """Rows of what may not grow from the first restart to the last."""
    wait_until(lambda: _shows_page(installation), PAGE_LIMIT_S, "the page is built")
    snapshots = []
    for number in range(times):
        result = installation.launch("restart", "vllm")
        if result.returncode != 0 or not installation.answers():
            raise MissedError(f"`launch restart vllm`, time {number + 1}: {result.stderr.strip()}")
        if number in {0, times - 1}:
            installation.wait_until_settled()
            snapshots.append(Snapshot.of(installation))
        say(f"restart {number + 1} of {times}")
    first, last = snapshots[0], snapshots[-1]
    rows = []
    for name in KEPT:
        memory = (first.memory_mb[name], last.memory_mb[name])
        rows.append(_growth(f"{name}: memory, MB", *memory, MORE_MB))
        rows.append(_growth(f"{name}: open files", first.files[name], last.files[name], MORE_FILES))
    return [*rows, _growth("processes", first.processes, last.processes, 0)]


def _growth(what: str, first: float, last: float, most: float) -> list[str]:
    met = verdict(met=last - first <= most)
    return [what, f"{first:.0f}", f"{last:.0f}", f"+{most:.0f}", met]


def _shows_page(installation: Installation) -> bool:
    return b"gradio" in installation.page()


def idle_parent(installation: Installation) -> list[list[str]]:
    """Rows of what the engine's parent costs while nobody asks anything."""
    installation.wait_until_settled()
    process = psutil.Process(installation.only(PARENT))
    before, began = process.cpu_times(), time.monotonic()
    say(f"the engine's parent, idle for {IDLE_S:.0f} s")
    time.sleep(IDLE_S)
    after, memory = process.cpu_times(), process.memory_info().rss / 1e6
    used = after.user + after.system - before.user - before.system
    percent = 100 * used / (time.monotonic() - began)
    return [
        ["CPU, % of a core", f"{percent:.2f}", f"{PARENT_CPU_PERCENT}",
         verdict(met=percent <= PARENT_CPU_PERCENT)],
        ["memory, MB", f"{memory:.0f}", f"{PARENT_MB:.0f}", verdict(met=memory <= PARENT_MB)],
    ]  # fmt: skip


def measure(given: argparse.Namespace, installation: Installation) -> str:
    """All of it, as Markdown."""
    cold_s = installation.up()
    say(f"cold start: {cold_s:.1f} s")
    parts = [f"Cold start, from `launch up` to ready: {cold_s:.1f} s."]
    if given.times:
        rows = Kills(installation, cold_s, stream=given.stream).run(given.processes, given.times)
        heads = ["killed", "times", "came back", "leftovers", "median s", "worst s", "limit s", ""]
        parts += [table(heads, [row.cells() for row in rows]), *_streams(rows), *_faults(rows)]
    if given.idle:
        heads = [f"{PARENT}, idle", "measured", "limit", ""]
        parts.append(table(heads, idle_parent(installation)))
    if given.restarts:
        heads = ["", "after the first restart", f"after {given.restarts}", "limit", ""]
        parts.append(table(heads, restart_again_and_again(installation, given.restarts)))
    return "\n\n".join([conditions(installation), *parts]) + "\n"


def _streams(rows: list[Row]) -> list[str]:
    ends = [[row.name, how, str(count)] for row in rows for how, count in row.streams.items()]
    return [table(["killed", "the open stream", "times"], ends)] if ends else []


def _faults(rows: list[Row]) -> list[str]:
    faults = [f"- {fault}" for row in rows for fault in row.faults]
    return ["\n".join(faults)] if faults else []


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery")
    parser.add_argument("--real", action="store_true", help="the real vLLM, not the stand-in")
    parser.add_argument("--times", type=int, default=20, help="kill each so often (20)")
    parser.add_argument("--processes", nargs="+", choices=PROCESSES, metavar="NAME", default=[])
    parser.add_argument("--stream", action="store_true", help="with a stream open at each kill")
    parser.add_argument("--restarts", type=int, default=0, help="restart the engine so often")
    parser.add_argument("--idle", action="store_true", help="what the engine's parent costs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there too")
    given = parser.parse_args()
    there = [name for name in PROCESSES if given.real or name not in REAL_ONLY]
    given.processes = given.processes or there
    if wrong := set(given.processes) - set(there):
        parser.error(f"only vLLM itself has {' and '.join(sorted(wrong))}: add --real")
    return given


def main() -> int:
    given = parse()
    with tempfile.TemporaryDirectory() as folder:
        # A kill every few seconds is no crash loop here.
        patience = {"good_run_s": 1, "crash_limit": 1000}
        installation = Installation(Path(folder), real=given.real, **patience)
        return run(installation, lambda: measure(given, installation), given.out)


if __name__ == "__main__":
    raise SystemExit(main())
