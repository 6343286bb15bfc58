"""``python -m benchmarks.gateway``: the WebUI's gateway beside others, all in one run.

    python -m benchmarks.gateway --install            # once: an environment for each peer
    python -m benchmarks.gateway [--quick] [--out FILE]

Prints Markdown. The method is in docs/gateway-benchmark.md.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.gateway.measures import (
    FULL,
    QUICK,
    TICK_S,
    TOKENS,
    Effort,
    Figures,
    LoadError,
    Subject,
    Target,
    engine_program,
    measure_flatness,
    measure_memory,
    measure_round,
    target_of,
)
from benchmarks.gateway.peers import PEERS, WEBUI, MissingError, Peer, environments
from benchmarks.gateway.processes import NotStartedError, free_port
from benchmarks.gateway.report import DIRECT, OURS, OURS_OFF, Report

FILES = 20_000
# For memory: what 1,000 streams bring must be little, and they must not end meanwhile.
SLOW_TICK_S = 1.0
SLOW_TOKENS = 600
THINKING_OFF = {"thinking": "off"}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Run:
    """One run over all the peers that are there."""

    def __init__(self, effort: Effort, peers_folder: Path, scratch: Path) -> None:
        self._effort = effort
        self._peers_folder = peers_folder
        self._scratch = scratch
        self._figures: dict[str, Figures] = {}
        self._versions: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._there: list[Peer] = []

    def report(self, only: set[str]) -> str:
        self._look_for([peer for peer in PEERS if not only or peer.name in only])
        self._speed()
        for peer in self._there:
            self._memory(peer)
        return Report(self._figures, self._versions, self._missing).markdown(self._effort)

    def _look_for(self, peers: list[Peer]) -> None:
        for peer in peers:
            try:
                self._versions[peer.name] = peer.version(self._peers_folder)
                self._there.append(peer)
            except MissingError as missing:
                self._missing[peer.name] = str(missing)

    def _folder(self, *names: str) -> Path:
        folder = self._scratch.joinpath(*names)
        folder.mkdir(parents=True)
        return folder

    def _speed(self) -> None:
        """All gateways stand in front of one engine, and are asked in turn, round by round."""
        with contextlib.ExitStack() as stack:
            port = free_port()
            engine = engine_program(self._folder("speed"), port, tick_s=TICK_S, tokens=TOKENS)
            stack.callback(engine.end)
            targets = [Target(Subject(DIRECT, None), port, None)]
            for peer in [*self._there]:
                targets += self._started(peer, f"http://127.0.0.1:{port}", stack)
            for target in targets:
                self._figures[target.subject.name] = Figures()
            for number in range(self._effort.rounds):
                for target in targets:
                    say(f"round {number + 1}: {target.subject.name}")
                    self._try(target, measure_round)

    def _started(self, peer: Peer, engine: str, stack: contextlib.ExitStack) -> list[Target]:
        """A gateway, once for each way to ask it."""
        say(f"starting {peer.name}")
        try:
            gateway = peer.start(self._peers_folder, self._folder("speed", peer.name), engine)
        except NotStartedError as error:
            say(str(error))
            self._missing[peer.name] = "installed, but does not start"
            self._there.remove(peer)
            return []
        stack.callback(gateway.program.end)
        subjects = [Subject(peer.name, peer)]
        if peer is WEBUI:
            subjects = [Subject(OURS, peer), Subject(OURS_OFF, peer, THINKING_OFF)]
        return [target_of(subject, gateway) for subject in subjects]

    def _memory(self, peer: Peer) -> None:
        """A fresh gateway, in front of a slow engine of its own."""
        name = OURS if peer is WEBUI else peer.name
        say(f"memory: {name}")
        with contextlib.ExitStack() as stack:
            folder, port = self._folder("memory", peer.name), free_port()
            engine = engine_program(folder, port, tick_s=SLOW_TICK_S, tokens=SLOW_TOKENS)
            stack.callback(engine.end)
            gateway = peer.start(self._peers_folder, folder, f"http://127.0.0.1:{port}")
            stack.callback(gateway.program.end)
            target = target_of(Subject(name, peer), gateway)
            self._try(target, measure_memory)
            if peer is WEBUI:
                self._try(target, measure_flatness)

    def _try(self, target: Target, measure: Callable[[Target, Effort, Figures], None]) -> None:
        figures = self._figures[target.subject.name]
        try:
            measure(target, self._effort, figures)
        except LoadError as error:
            say(f"{target.subject.name}: {error}")
            figures.faults.append(str(error))


def install(folder: Path) -> int:
    """Make the environments that are missing; 1 where one could not be made."""
    failed = 0
    for peer in PEERS:
        try:
            peer.install(folder)
        except subprocess.CalledProcessError:
            say(f"{peer.name}: pip could not install it")
            failed = 1
    say(f"The peers' environments are in {folder}.")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway")
    parser.add_argument("--install", action="store_true", help="make the peers' environments, end")
    parser.add_argument("--quick", action="store_true", help="a few minutes; says little")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument("--peers", type=Path, default=environments(), metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[], choices=[peer.name for peer in PEERS])
    given = parser.parse_args()
    if given.install:
        return install(given.peers)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(QUICK if given.quick else FULL, given.peers, Path(scratch))
        tables = run.report(set(given.only))
    print(tables, end="")
    if given.out:
        given.out.write_text(tables)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
