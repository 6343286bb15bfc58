"""Clients of a gateway, in a process of their own. Prints what they saw as one line of JSON.

    python -m benchmarks.gateway.load KIND --port 7860 --body '{"model": ...}' [--seconds 8] ...

Kinds: ``each`` asks again as soon as it has its answer; ``spread`` pauses for a moment before that,
and its clients begin one after the other; ``burst`` has all clients ask at the same
moment; ``hold`` opens its streams, prints a line, and reads them until it is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import asdict, dataclass, field
from typing import cast

import httptools
import uvloop

HOST = "127.0.0.1"
# Streams are opened at most so fast: the backlog of some gateways is small.
OPENED_A_SECOND = 500
AFTER_A_FAULT_S = 0.02
MAX_FAULTS = 3


class FaultError(Exception):
    """An answer that is none."""


@dataclass
class Answer:
    """``first_byte_s`` is of the body, counted from the question."""

    status: int
    first_byte_s: float
    body: bytes


class Connection(asyncio.Protocol):
    """Asks one thing after the other on one connection."""

    def __init__(self) -> None:
        self.closed = False
        self.began = asyncio.Event()
        """The first byte of an answer's body is there."""
        self._answered: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    async def ask(self, request: bytes) -> Answer:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._first = 0.0
        self._answered = asyncio.get_running_loop().create_future()
        self._asked = time.perf_counter()
        self._transport.write(request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._body:
            self._first = time.perf_counter() - self._asked
            self.began.set()
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answered and not self._answered.done():
            status = self._parser.get_status_code()
            self._answered.set_result(Answer(status, self._first, b"".join(self._body)))
        if not self._parser.should_keep_alive():
            self._transport.close()
            self.closed = True

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed = True
        if self._answered and not self._answered.done():
            self._answered.set_exception(FaultError("the connection was closed"))


@dataclass
class Seen:
    """What clients saw together; ``events`` are of streams, without the last one."""

    answers: int = 0
    events: int = 0
    first_byte_s: list[float] = field(default_factory=list)
    failed: int = 0
    faults: list[str] = field(default_factory=list)

    def note(self, answer: Answer, *, stream: bool) -> None:
        """Raises FaultError where it is not a whole answer."""
        whole = answer.body.endswith(b"[DONE]\n\n") if stream else b'"choices"' in answer.body
        if answer.status != 200 or not whole:
            raise FaultError(f"status {answer.status}: {answer.body[-200:].decode()}")
        self.answers += 1
        self.events += answer.body.count(b"data: ") - 1 if stream else 0
        self.first_byte_s.append(answer.first_byte_s)

    def fail(self, error: Exception) -> None:
        self.failed += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(str(error) or type(error).__name__)


class Clients:
    def __init__(self, given: argparse.Namespace) -> None:
        self._port: int = given.port
        self._number: int = given.connections
        self._body: bytes = given.body.encode()
        self._stream = bool(json.loads(self._body).get("stream"))
        self._request = self._as_http(given.api_key)
        self._left: int = given.requests
        self._until: float = time.monotonic() + given.seconds
        self.seen = Seen()

    def _as_http(self, api_key: str) -> bytes:
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            f"host: {HOST}:{self._port}",
            "content-type: application/json",
            f"content-length: {len(self._body)}",
            *([f"authorization: Bearer {api_key}"] if api_key else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + self._body

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, HOST, self._port))[1]

    async def _ask(self, connection: Connection | None) -> Connection | None:
        """Ask once, on this connection while it lasts; the one to ask on next."""
        try:
            if connection is None or connection.closed:
                connection = await self._connect()
            self.seen.note(await connection.ask(self._request), stream=self._stream)
        except (FaultError, OSError) as error:
            self.seen.fail(error)
            await asyncio.sleep(AFTER_A_FAULT_S)
        return connection

    def _goes_on(self) -> bool:
        self._left -= 1
        return self._left >= 0 and time.monotonic() < self._until

    async def _repeat(self, delay_s: float, pause_s: float) -> None:
        await asyncio.sleep(delay_s)
        connection: Connection | None = None
        while self._goes_on():
            connection = await self._ask(connection)
            if pause_s:
                await asyncio.sleep(random.uniform(0, pause_s))

    async def each(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._number):
                group.create_task(self._repeat(0, 0))

    async def spread(self, over_s: float, pause_s: float) -> None:
        """Args:
        over_s: the last client begins so much later than the first.
        pause_s: the longest pause; half of it is the usual one.
        """
        random.seed(1)
        async with asyncio.TaskGroup() as group:
            for number in range(self._number):
                group.create_task(self._repeat(over_s * number / self._number, pause_s))

    async def burst(self) -> None:
        connections: list[Connection | None] = [None] * self._number
        while self._goes_on():
            connections = await asyncio.gather(*map(self._ask, connections))

    async def hold(self) -> None:
        """Says when all streams have begun; then reads on."""
        connections, readers = [], []
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._remaining()):
            for _ in range(self._number):
                connection = await self._connect()
                connections.append(connection)
                readers.append(asyncio.ensure_future(connection.ask(self._request)))
                await asyncio.sleep(1 / OPENED_A_SECOND)
            for connection in connections:
                await connection.began.wait()
        print("open", flush=True)
        await asyncio.gather(*readers)

    def _remaining(self) -> float:
        return max(0.0, self._until - time.monotonic())


async def run(given: argparse.Namespace) -> None:
    clients = Clients(given)
    if given.kind == "spread":
        await clients.spread(given.over_s, given.pause_s)
    else:
        await getattr(clients, given.kind)()
    print(json.dumps(asdict(clients.seen)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("each", "spread", "burst", "hold"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--body", required=True)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--requests", type=int, default=10**9)
    parser.add_argument("--over-s", type=float, default=1.0)
    parser.add_argument("--pause-s", type=float, default=0.02)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
