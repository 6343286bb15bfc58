"""HTTP to the engine: what servers may answer, connections that are kept, and ends of all kinds."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import TypeVar

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from support import free_port

from webui.gateway.engine_client import EngineClient, EngineGoneError, EngineRefusedError

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: Text/Event-Stream; a=b\r\n\r\n"
)
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Result = TypeVar("Result")


class Server:
    """Answers every request with the same bytes, in these pieces."""

    def __init__(self, *pieces: bytes, close: bool = False, pause_s: float = 0.001) -> None:
        self.pieces = pieces
        self.close = close
        self.pause_s = pause_s
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.sent = 0
        self.gone = asyncio.Event()
        """A client has broken a connection off, or has closed it."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.bodies.append(await reader.readexactly(int(length or 0)))
                for piece in self.pieces:
                    writer.write(piece)
                    await writer.drain()
                    self.sent += len(piece)
                    await asyncio.sleep(self.pause_s)
                if self.close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


class Reader:
    """Takes a stream's pieces, until it has ``enough`` of them."""

    def __init__(self, enough: int | None = None) -> None:
        self.got: list[bytes] = []
        self._enough = enough

    def take(self, part: bytes) -> bool:
        self.got.append(part)
        return len(self.got) == self._enough


def run(
    server: Callable[[], Server],
    work: Callable[[EngineClient, Server], Awaitable[Result]],
    silence_s: float = 5,
) -> Result:
    """What ``work`` gives with a client of that server."""

    async def serve_and_work() -> Result:
        serving = server()
        listening = await asyncio.start_server(serving.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        engine = EngineClient(f"http://127.0.0.1:{port}/under", connect_s=1, silence_s=silence_s)
        async with asyncio.timeout(10):
            with closing(engine):
                result = await work(engine, serving)
        listening.close()
        return result

    return uvloop.run(serve_and_work())


async def body(engine: EngineClient, _: Server) -> bytes:
    async with await engine.request("GET", "/x") as answer:
        return await answer.read()


def test_a_request_as_it_is_sent() -> None:
    """One path under the server's own, a length, JSON."""

    async def ask(engine: EngineClient, server: Server) -> tuple[bytes, bytes]:
        async with await engine.request("POST", "/v1/x", b"{}") as answer:
            await answer.read()
        return server.heads[0], server.bodies[0]

    head, sent = run(lambda: Server(EMPTY), ask)
    assert head.startswith(b"POST /under/v1/x HTTP/1.1\r\n")
    assert b"\r\nhost: 127.0.0.1:" in head
    assert b"\r\ncontent-type: application/json\r\ncontent-length: 2\r\n" in head
    assert sent == b"{}"


def test_a_large_body_arrives_whole() -> None:
    """Beyond what the kernel takes at once."""
    large = bytes(range(256)) * 40_000

    async def ask(engine: EngineClient, server: Server) -> bool:
        async with await engine.request("POST", "/", large) as answer:
            await answer.read()
        return server.bodies == [large]

    assert run(lambda: Server(EMPTY), ask)


def test_status_and_headers() -> None:
    """Names and the content type are in lower case, without parameters."""

    async def ask(engine: EngineClient, _: Server) -> tuple[int, bytes, bytes]:
        async with await engine.request("GET", "/") as answer:
            return answer.status, answer.content_type, answer.headers[b"transfer-encoding"]

    assert run(lambda: Server(CHUNKED), ask) == (200, b"text/event-stream", b"chunked")


WHOLE = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n",
    "a status before": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE.keys())
@given(cuts=st.sets(st.integers(1, 90), max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_body_however_it_is_cut(answer: bytes, cuts: set[int]) -> None:
    """Into segments of the network."""
    places = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(places)]
    assert run(lambda: Server(*pieces), body) == b"hello"


def test_a_body_can_be_read_again() -> None:
    """As by who looks whether an answer is an error, and who passes it on."""

    async def ask(engine: EngineClient, _: Server) -> list[bytes]:
        async with await engine.request("GET", "/") as answer:
            return [await answer.read(), await answer.read()]

    assert run(lambda: Server(WHOLE["chunks"]), ask) == [b"hello", b"hello"]


def test_a_body_that_ends_with_its_connection() -> None:
    """As HTTP/1.0 has it."""
    answer = b"HTTP/1.1 200 OK\r\n\r\nhello"
    assert run(lambda: Server(answer, close=True), body) == b"hello"


BROKEN = {
    "before the head": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no HTTP": b"hello\r\n\r\n",
    "short of its length": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
    "in a chunk": CHUNKED + b"5\r\nhel",
    "before the last chunk": CHUNKED + b"5\r\nhello\r\n",
    "a chunk of no length": CHUNKED + b"5\r\nhello\r\nzzz\r\n",
    "another protocol": b"HTTP/1.1 101 OK\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_off_is_told(answer: bytes) -> None:
    """It never looks whole."""
    with pytest.raises(EngineGoneError):
        run(lambda: Server(answer, close=True), body)


def test_what_came_before_the_break_is_handed_on() -> None:
    """A stream's readers have it already."""

    async def ask(engine: EngineClient, _: Server) -> list[bytes]:
        reader = Reader()
        async with await engine.request("GET", "/") as answer:
            with pytest.raises(EngineGoneError):
                await answer.stream(reader.take)
        return reader.got

    one_piece = CHUNKED + b"5\r\nhello\r\nzzz\r\n"
    assert run(lambda: Server(one_piece), ask) == [b"hello"]


def test_nobody_listens() -> None:
    """That is told apart from an engine that is lost."""

    async def ask() -> None:
        engine = EngineClient(f"http://127.0.0.1:{free_port()}", connect_s=1, silence_s=1)
        with pytest.raises(EngineRefusedError):
            await engine.request("GET", "/")

    asyncio.run(ask())


@pytest.mark.parametrize("sent", [b"", CHUNKED, CHUNKED + b"1\r\na\r\n"])
def test_silence_ends_it(sent: bytes) -> None:
    """Before the head and after it."""
    with pytest.raises(TimeoutError):
        run(lambda: Server(sent, pause_s=60), body, silence_s=0.2)


def test_a_slow_answer_is_no_silence() -> None:
    """Ten pieces in three times the time that may pass without one."""
    pieces = [CHUNKED, *[b"1\r\na\r\n"] * 10, b"0\r\n\r\n"]
    got = run(lambda: Server(*pieces, pause_s=0.15), body, silence_s=0.5)
    assert got == b"a" * 10


def test_connections_are_kept() -> None:
    """One is enough for those that come one after the other; two at once need two."""

    async def ask(engine: EngineClient, server: Server) -> tuple[int, int]:
        for _ in range(3):
            await body(engine, server)
        after_three = server.connections
        await asyncio.gather(body(engine, server), body(engine, server))
        return after_three, server.connections

    assert run(lambda: Server(WHOLE["chunks"], pause_s=0.02), ask) == (1, 2)


NOT_KEPT = {
    "its own word": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "bytes behind the answer": EMPTY + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
}


@pytest.mark.parametrize("answer", NOT_KEPT.values(), ids=NOT_KEPT.keys())
def test_connections_that_are_not_kept(answer: bytes) -> None:
    """Above all those on which more came than was asked for."""

    async def ask(engine: EngineClient, server: Server) -> tuple[bytes, bytes, int]:
        first = await body(engine, server)
        return first, await body(engine, server), server.connections

    assert run(lambda: Server(answer), ask) == (b"", b"", 2)


def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    """The server ends it right behind its answer."""

    async def ask(engine: EngineClient, server: Server) -> int:
        for _ in range(3):
            await body(engine, server)
            await asyncio.sleep(0.05)
        return server.connections

    assert run(lambda: Server(EMPTY, close=True), ask) == 3


@pytest.mark.parametrize("heard", [b"", b"HTTP/1.1 2"], ids=["nothing", "a little"])
def test_a_kept_connection_that_closes_when_it_is_used(heard: bytes) -> None:
    """A server may close one just then. The request goes out once more, over a new one; but not
    where the server had begun to answer it."""

    class Closing(Server):
        """Closes a connection at its second request."""

        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(EMPTY)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(heard)
            writer.close()

    async def work(client: EngineClient, server: Server) -> tuple[int, bool]:
        async with await client.request("GET", "/") as first:
            await first.read()
        try:
            async with await client.request("GET", "/") as second:
                return server.connections, second.status == 200
        except EngineGoneError:
            return server.connections, False

    assert run(Closing, work) == ((1, False) if heard else (2, True))


@pytest.mark.parametrize("taken", [0, 1])
def test_leaving_early_breaks_the_connection_off(taken: int) -> None:
    """So that the engine stops: unread, and in the midst of a stream."""

    async def ask(engine: EngineClient, server: Server) -> list[bytes]:
        reader = Reader(enough=1)
        async with await engine.request("GET", "/") as answer:
            if taken:
                await answer.stream(reader.take)
        await server.gone.wait()
        return reader.got

    endless = [CHUNKED, *[b"1\r\na\r\n"] * 1000]
    assert len(run(lambda: Server(*endless, pause_s=0.01), ask)) == taken


def test_a_cancelled_request_breaks_off() -> None:
    """While it waits for the head."""

    async def ask(engine: EngineClient, server: Server) -> bool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await engine.request("GET", "/")
        await server.gone.wait()
        return True

    assert run(Server, ask)


def test_a_paused_answer_holds_up_the_server() -> None:
    """What nobody reads is not collected here; silence is no fault meanwhile."""
    piece = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    pieces = [CHUNKED, *[piece] * 640, b"0\r\n\r\n"]

    async def ask(engine: EngineClient, server: Server) -> tuple[int, int]:
        async with await engine.request("GET", "/") as answer:
            await asyncio.sleep(1.0)
            unread = server.sent
            return unread, len(await answer.read())

    unread, size = run(lambda: Server(*pieces, pause_s=0), ask, silence_s=0.4)
    assert size == 640 * 0x10000
    assert unread < size / 2


@pytest.mark.parametrize("late", [True, False])
def test_a_reader_may_pause_at_its_first_piece(late: bool) -> None:
    """Also where that came before the reader did. Nothing more is handed on until it resumes."""
    pieces = [CHUNKED + b"1\r\na\r\n", *[b"1\r\na\r\n"] * 9, b"0\r\n\r\n"]

    async def ask(engine: EngineClient, _: Server) -> tuple[int, int]:
        reader = Reader()
        async with await engine.request("GET", "/") as answer:

            def take(part: bytes) -> bool:
                if not reader.got:
                    answer.pause()
                return reader.take(part)

            await asyncio.sleep(0.05 if late else 0)
            reading = asyncio.create_task(answer.stream(take))
            await asyncio.sleep(0.3)
            while_paused = len(reader.got)
            answer.resume()
            await reading
        return while_paused, sum(map(len, reader.got))

    assert run(lambda: Server(*pieces, pause_s=0.02), ask) == (1, 10)
