"""The page asks the API of its own process, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from starlette.types import ASGIApp, Message, Scope

END = b""


class InProcess(httpx2.AsyncBaseTransport):
    """Requests of an httpx2 client to an ASGI application; answers come as they are sent.

    (httpx2 has one of its own, which waits for the whole answer.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._answers: set[_Answer] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises:
        httpx2.RemoteProtocolError: the application ended without an answer.
        """
        answer = _Answer(await request.aread())
        task = asyncio.create_task(_run(self._app, _scope_of(request), answer))
        answer.task = task
        self._answers.add(answer)
        task.add_done_callback(lambda _: self._answers.discard(answer))
        try:
            status, headers = await answer.head
        except BaseException:
            await answer.aclose()
            raise
        return httpx2.Response(status, headers=headers, stream=answer)

    async def aclose(self) -> None:
        """Break off what is still being answered."""
        for answer in [*self._answers]:
            await answer.break_off()


class _Answer(httpx2.AsyncByteStream):
    """What the application sends, and how it learns that nobody reads on."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._whole = False
        self.head: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        """The application's."""

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self.head.done():
                self.head.set_result((message["status"], message.get("headers", [])))
            return
        if chunk := message.get("body", b""):
            self._chunks.put_nowait(chunk)
        if not message.get("more_body"):
            self._whole = True
            self._chunks.put_nowait(END)

    def broken(self) -> None:
        """The application has ended; what it did not say will not come."""
        if not self.head.done():
            self.head.set_exception(httpx2.RemoteProtocolError("no answer"))
        self._chunks.put_nowait(END)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) != END:
            yield chunk
        if not self._whole:
            raise httpx2.RemoteProtocolError("the answer broke off")

    async def break_off(self) -> None:
        """Whoever reads is told, and so is the application."""
        self.broken()
        await self.aclose()

    async def aclose(self) -> None:
        self._gone.set()
        for ended in (self.task, self.head):
            if ended is not None:
                # Whatever ended it was logged where it happened.
                await asyncio.gather(ended, return_exceptions=True)


async def _run(app: ASGIApp, scope: Scope, answer: _Answer) -> None:
    try:
        await app(scope, answer.receive, answer.send)
    finally:
        answer.broken()


def _scope_of(request: httpx2.Request) -> Scope:
    raw_path, _, query = request.url.raw_path.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.url.path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
