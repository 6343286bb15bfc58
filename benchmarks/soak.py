"""Clients ask all the time while processes are killed, ended and stopped at random.

    python -m benchmarks.soak [--minutes 10] [--seed N] [--real] [--out FILE]

Starts the service in a temporary folder; a few clients send chats through the gateway, whole and
streamed, with a small picture and without. Every few seconds one process gets SIGKILL, SIGTERM or
SIGSTOP, and `launch up` follows where it was supervisord. Every request is counted as exactly one
of: answered, an error answer, a stream that ends with a typed error, refused while nobody listened,
lost with the WebUI that was killed, or lost. At the end the counts are those sent, nothing is lost,
a last chat is answered by the one engine there is, and nothing is left over. Prints Markdown; exit
code 1 if that does not hold. The same seed strikes in the same order.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import math
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.installation import (
    ANSWERED,
    API_SERVER,
    ASK_LIMIT_S,
    CHILD,
    CUT,
    ENGINE_CORE,
    NO_ANSWER,
    PAGE,
    PARENT,
    POLL_S,
    REAL_ONLY,
    SUPERVISORD,
    WEB,
    WORKER,
    Installation,
    MissedError,
    Reply,
    ask,
    conditions,
    outcome_of,
    run,
    say,
    send,
    table,
    verdict,
    wait_until,
)
from launcher.leftovers import state_of

CLIENTS = 4
BETWEEN_S = 0.1
AFTER_A_FAILURE_S = 0.5

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
VICTIMS = (API_SERVER, ENGINE_CORE, WORKER, CHILD, PARENT, WEB, PAGE, SUPERVISORD)

# Longer than the seconds in which supervisord counts an end as a failed start: after three of those
# in a row it gives up, as it should.
PAUSES_S = (6.0, 12.0)
# A real engine needs most of a minute to load, and is to be struck while it serves, too.
REAL_PAUSES_S = (30.0, 100.0)
# As short as they can be: only after these is a stopped engine noticed.
STALLED_S, HUNG_S = 20.0, 30.0
WAKE_LIMIT_S = 60.0
"""For a process that was stopped to be woken or replaced."""
STOP_LIMIT_S = 10.0
QUIET_LIMIT_S = 120.0

REFUSED = "refused or reset while nobody listened"
LOST_WITH_WEBUI = "lost with the WebUI that was killed"
LOST = "lost"


@dataclass
class Outage:
    """From a signal that ends the WebUI until another one listens; by the monotonic clock."""

    began: float
    killed: bool
    """Whether it could say no last word."""
    ended: float = math.inf

    def meets(self, reply: Reply) -> bool:
        return reply.began <= self.ended and reply.ended >= self.began


def count_as(reply: Reply, outages: Sequence[Outage], *, stream: bool) -> str:
    """What a request is counted as."""
    outcome = outcome_of(reply, stream=stream)
    if outcome not in {CUT, NO_ANSWER}:
        return outcome
    met = [outage for outage in outages if outage.meets(reply)]
    if reply.broke == "ConnectionRefusedError" and met:
        return REFUSED
    if any(outage.killed for outage in met):
        return LOST_WITH_WEBUI
    # It came as the last listener closed.
    return REFUSED if outcome == NO_ANSWER and met else LOST


class Clients:
    """A few that ask one question after the other, until they are told to stop."""

    def __init__(self, installation: Installation, outages: list[Outage]) -> None:
        self._installation = installation
        self._outages = outages
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]
        self.sent = 0
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each have its last answer. One that does not get it is missing in the counts."""
        self._over.set()
        for thread in self._threads:
            thread.join(ASK_LIMIT_S)

    def _work(self, number: int) -> None:
        # Each begins at another place, so that all kinds are under way at any time.
        for stream, picture in itertools.islice(_kinds(), number, None):
            if self._over.is_set():
                return
            with self._lock:
                self.sent += 1
            more: dict[str, Any] = {"messages": _picture_question()} if picture else {}
            reply = self._installation.chat(stream=stream, **more)
            counted = count_as(reply, tuple(self._outages), stream=stream)
            with self._lock:
                self.counts[counted] += 1
                if counted == LOST:
                    self.lost.append(_told(reply, stream=stream))
            self._over.wait(BETWEEN_S if counted == ANSWERED else AFTER_A_FAILURE_S)


def _kinds() -> Iterator[tuple[bool, bool]]:
    return itertools.cycle(itertools.product((True, False), (False, True)))


def _told(reply: Reply, *, stream: bool) -> str:
    kind = "stream" if stream else "whole"
    end = reply.body[-200:].decode(errors="replace")
    seconds = reply.ended - reply.began
    return f"{kind}, status {reply.status}, {reply.broke or 'closed'} after {seconds:.1f} s: {end}"


def _picture_question() -> list[dict[str, Any]]:
    stream = io.BytesIO()
    # Another picture each time, so that it is looked at and not remembered.
    colour = tuple(random.randrange(256) for _ in range(3))
    Image.new("RGB", (64, 64), colour).save(stream, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Which colour is it?"},
    ]
    return [{"role": "user", "content": content}]


@dataclass
class Stopped:
    """A process that got SIGSTOP, and when, by the monotonic clock."""

    name: str
    pid: int
    since: float

    def wait_until_it_is(self) -> None:
        """The kernel takes a moment; until then it looks as if it had been woken already."""
        there = {"T", "Z", ""}  # or gone, by an earlier strike
        wait_until(lambda: state_of(self.pid) in there, STOP_LIMIT_S, f"{self.name} is stopped")

    @property
    def is_over(self) -> bool:
        return state_of(self.pid) != "T"


@dataclass
class Strikes:
    """Strikes processes of one installation, and looks after what only a person can mend."""

    installation: Installation
    chance: random.Random
    victims: Sequence[str]
    outages: list[Outage]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    stopped: Stopped | None = None
    webui: int = 0
    """The one that the open outage began with."""

    def run(self, seconds: float, pauses_s: tuple[float, float]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._watch_for(self.chance.uniform(*pauses_s))
            self._strike()

    def wait_until_quiet(self, limit_s: float) -> None:
        """After the last strike all must come back by itself."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            self._watch_for(POLL_S)
            over = self.stopped is None and all(o.ended < math.inf for o in self.outages)
            if over and self.installation.answers():
                return
        self._mend(f"after the last strike it did not serve within {limit_s:.0f} s")

    def _watch_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._end_outages()
            self._look_at_stopped()
            time.sleep(POLL_S)

    def _strike(self) -> None:
        if given_up := self.installation.given_up():
            self._mend(f"supervisord has given up {', '.join(given_up)}")
        name, number = self.chance.choice(self.victims), self.chance.choice(SIGNALS)
        if number == signal.SIGSTOP and self.stopped is not None:
            # The WebUI and the engine's parent wake each other; of both at once, neither does.
            number = signal.SIGTERM
        pids = self.installation.pids().get(name)
        if not pids:  # on its way back from the strike before
            return
        self.counts[name, number.name] += 1
        say(f"{time.monotonic() - self.began:6.1f} s  {number.name} to {name} ({pids[-1]})")
        if name in {WEB, SUPERVISORD} and number != signal.SIGSTOP:
            self._begin_outage(name, number)  # before anybody can notice it
        if send(pids[-1], number) and number == signal.SIGSTOP:
            self.stopped = Stopped(name, pids[-1], time.monotonic())
            self.stopped.wait_until_it_is()
        if name == SUPERVISORD:
            self._up()

    def _begin_outage(self, name: str, number: signal.Signals) -> None:
        # One that outlives its supervisord ends its answers, and `up` waits for it. One that is
        # stopped cannot.
        was_stopped = self.stopped is not None and self.stopped.name == WEB
        killed = (name == WEB and number == signal.SIGKILL) or was_stopped
        self.webui = next(iter(self.installation.pids().get(WEB, [])), self.webui)
        self.outages.append(Outage(time.monotonic(), killed))

    def _end_outages(self) -> None:
        if not self.outages or self.outages[-1].ended < math.inf:
            return
        pids = self.installation.pids().get(WEB, [])
        lives = ask(self.installation.port, "/livez", None, 1).status == 200
        if lives and pids and self.webui not in pids:
            for outage in self.outages:
                outage.ended = min(outage.ended, time.monotonic())

    def _look_at_stopped(self) -> None:
        if self.stopped is None:
            return
        seconds = time.monotonic() - self.stopped.since
        if self.stopped.is_over:
            say(f"         {self.stopped.name} was woken or replaced after {seconds:.0f} s")
            self.stopped = None
        elif seconds > WAKE_LIMIT_S:
            self._mend(f"{self.stopped.name} was stopped, and not woken in {WAKE_LIMIT_S:.0f} s")
            self.stopped = None

    def _mend(self, fault: str) -> None:
        say(f"         {fault}: `launch up`")
        self.faults.append(fault)
        self._up()

    def _up(self) -> None:
        """It may end badly because of an earlier strike, and the service come up all the same."""
        try:
            self.installation.up()
        except MissedError as error:
            say(f"         {error}")
            if not self.installation.supervisord.is_running():
                self.faults.append(str(error))
                self.installation.up()


def soak(installation: Installation, given: argparse.Namespace) -> str:
    """All of it, as Markdown."""
    cold_s = installation.up()
    outages: list[Outage] = []
    victims = [name for name in VICTIMS if given.real or name not in REAL_ONLY]
    clients = Clients(installation, outages)
    strikes = Strikes(installation, random.Random(given.seed), victims, outages)
    clients.start()
    try:
        strikes.run(60 * given.minutes, REAL_PAUSES_S if given.real else PAUSES_S)
        strikes.wait_until_quiet(QUIET_LIMIT_S + cold_s)
    finally:
        clients.stop()
    parts = [
        conditions(installation),
        f"Seed {given.seed}, {given.minutes:g} minutes, {CLIENTS} clients.",
        table(["struck", *(number.name for number in SIGNALS)], _struck(strikes)),
        table(["requests", "times"], _counted(clients)),
        table(["at the end", "", ""], _goals(installation, clients, strikes)),
        *_listed("Only `launch up` could mend:", strikes.faults),
        *_listed("Lost:", clients.lost),
    ]
    return "\n\n".join(parts) + "\n"


def _struck(strikes: Strikes) -> list[list[str]]:
    counts = strikes.counts
    return [
        [name, *(str(counts[name, number.name]) for number in SIGNALS)] for name in strikes.victims
    ]


def _counted(clients: Clients) -> list[list[str]]:
    rows = [[what, str(times)] for what, times in sorted(clients.counts.items())]
    return [["sent", str(clients.sent)], *rows]


def _goals(installation: Installation, clients: Clients, strikes: Strikes) -> list[list[str]]:
    """What must hold after all."""
    pids, counted = installation.pids(), clients.counts.total()
    engines = f"{len(pids.get(PARENT, []))} and {len(pids.get(API_SERVER, []))}"
    left, answers = installation.leftovers(), installation.answers()
    rows = [
        ("counted, of those sent", f"{counted} of {clients.sent}", counted == clients.sent),
        ("lost", str(clients.counts[LOST]), not clients.counts[LOST]),
        ("a last chat", "answered" if answers else "not answered", answers),
        ("engine's parents and API servers", engines, engines == "1 and 1"),
        ("leftovers", str(len(left)), not left),
        ("did not come back by itself", str(len(strikes.faults)), not strikes.faults),
    ]
    return [[what, seen, verdict(met=met)] for what, seen, met in rows]


def _listed(head: str, items: Sequence[str]) -> list[str]:
    return ["\n".join([head, "", *(f"- {item}" for item in items)])] if items else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to strike (10)")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of the strikes")
    parser.add_argument("--real", action="store_true", help="the real vLLM, not the stand-in")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there too")
    given = parser.parse_args()
    say(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(
            Path(folder),
            real=given.real,
            good_run_s=1,
            crash_limit=1000,
            stalled_after_s=STALLED_S,
            hung_after_s=HUNG_S,
        )
        return run(installation, lambda: soak(installation, given), given.out)


if __name__ == "__main__":
    raise SystemExit(main())
