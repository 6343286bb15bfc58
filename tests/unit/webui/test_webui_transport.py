"""webui.chat.transport: the page's requests to the API of its own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from webui.chat.transport import InProcess

LIMIT_S = 20.0


def talking_to(app: ASGIApp, work: Callable[[httpx2.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
    """What ``work`` returns, with a client of this application."""

    async def run() -> Any:
        transport = InProcess(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await asyncio.wait_for(work(client), LIMIT_S)

    return asyncio.run(run())


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell what came."""
    message = await receive()
    headers = [(b"x-path", scope["raw_path"]), (b"x-query", scope["query_string"])]
    await send({"type": "http.response.start", "status": 207, "headers": headers})
    await send({"type": "http.response.body", "body": message["body"]})


def test_a_request_arrives_whole() -> None:
    """Path, query, body and headers there; status, headers and body back."""

    async def work(client: httpx2.AsyncClient) -> httpx2.Response:
        return await client.post("/a%2Fb?c=%20d", content=b"x" * 100_000)

    answer = talking_to(echo, work)
    assert (answer.status_code, answer.content) == (207, b"x" * 100_000)
    assert (answer.headers["x-path"], answer.headers["x-query"]) == ("/a%2Fb", "c=%20d")


def test_pieces_come_as_they_are_sent() -> None:
    """The next is sent only after the one before was read: nothing waits for the whole answer."""
    read = asyncio.Queue[bytes]()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            assert await read.get() == b"%d" % number
        await send({"type": "http.response.body"})

    async def work(client: httpx2.AsyncClient) -> list[bytes]:
        pieces = []
        async with client.stream("GET", "/") as answer:
            async for piece in answer.aiter_raw():
                pieces.append(piece)
                read.put_nowait(piece)
        return pieces

    assert talking_to(app, work) == [b"0", b"1", b"2"]


def test_the_application_learns_that_nobody_reads_on() -> None:
    """Leaving an answer early returns when its work has ended."""
    seen: list[str] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        seen.append((await receive())["type"])
        await asyncio.sleep(0)
        seen.append("ended")

    async def work(client: httpx2.AsyncClient) -> list[str]:
        async with client.stream("GET", "/") as answer:
            pieces: AsyncIterator[bytes] = answer.aiter_raw()
            assert await anext(pieces) == b"a"
        return [*seen]

    assert talking_to(app, work) == ["http.disconnect", "ended"]


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    return


async def _breaks_at_once(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError


async def _half(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})


@pytest.mark.parametrize("app", [_nothing, _breaks_at_once, _half])
def test_an_answer_that_is_not_whole_is_an_error(app: ASGIApp) -> None:
    """As it would be over a connection that breaks off, and not a wait for ever."""

    async def work(client: httpx2.AsyncClient) -> httpx2.Response:
        return await client.get("/")

    with pytest.raises(httpx2.RemoteProtocolError):
        talking_to(app, work)


def test_closing_breaks_off_what_is_answered() -> None:
    """Who reads is told, and so is the application."""
    told: list[str] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        told.append((await receive())["type"])

    async def work(client: httpx2.AsyncClient) -> list[bytes]:
        async with client.stream("GET", "/") as answer:
            pieces = answer.aiter_raw()
            read = [await anext(pieces)]
            await client.aclose()
            with pytest.raises(httpx2.RemoteProtocolError):
                await anext(pieces)
        return read

    assert talking_to(app, work) == [b"half"]
    assert told == ["http.disconnect"]
