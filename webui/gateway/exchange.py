"""One request and its answer: what is known of it, for the log and the figures."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.types import Message, Scope, Send

from webui.gateway.errors import ApiError
from webui.gateway.sessions import session_of

JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def address_of(scope: Scope) -> str:
    """The client's, or ``-``: a proxy on this machine may pass on whatever it was sent."""
    return _address((scope.get("client") or ("", 0))[0])


@functools.lru_cache(maxsize=1024)
def _address(given: str) -> str:
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        return "-"


class Exchange:
    """Begins when a request's headers are there. ``send`` is how it is answered."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self.method: str = scope["method"]
        self.path: str = ""
        """A route of ours, or empty."""
        self.client = address_of(scope)
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        self.id = given if REQUEST_ID.fullmatch(given) else os.urandom(16).hex().encode()
        self.headers: list[tuple[bytes, bytes]] = [(b"x-request-id", self.id)]
        """Added to the answer's own."""
        self.foreign = False
        """Whether a page of another, configured origin asks."""
        self.key = "-"
        """The name of the caller's key."""
        self.error_body: Callable[[ApiError], bytes] = ApiError.body
        """An error in the form of the API that was asked."""
        self.status = 0
        self.code = ""
        """Of the error, if it is one."""
        self.padded = False
        """Whether white space is all that has gone out of the body."""
        self.session: bytes | None = None
        """The client's name for its conversation, or empty; None where nobody needs to know."""
        self.images = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.cache = ""
        """``hit`` or ``miss`` where a kept answer was looked for."""
        self._began = time.perf_counter()
        self.first_byte_s = 0.0
        self.bytes_in = 0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._began

    def session_for(self, document: dict[str, Any]) -> str:
        """A name for the conversation that a request belongs to; empty where none is needed."""
        if self.session is None:
            return ""
        return session_of(f"{self.key} {self.client}", self.session, document)

    def count(self, usage: Any) -> None:
        """Tokens, as the engine counts them."""
        if isinstance(usage, Mapping):
            self.prompt_tokens = usage.get("prompt_tokens") or 0
            self.completion_tokens = usage.get("completion_tokens") or 0

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.first_byte_s = self.seconds
            message["headers"] = [*message["headers"], *self.headers]
        try:
            await self._send(message)
        except asyncio.CancelledError:
            # It waited for its client to read on; nothing of it has gone out. It is not lost, so
            # that what follows it makes sense. Who is gone takes it at once.
            await self._send(message)
            raise

    async def send_json(self, body: bytes, status: int = 200) -> None:
        """Answer with a whole document."""
        if not self.status:  # nothing has gone out to keep the connection alive
            length = (b"content-length", str(len(body)).encode())
            await self._start(status, JSON, length)
        self.padded = False
        await self.send({"type": "http.response.body", "body": body})

    async def send_empty(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        """Answer without a body."""
        await self._start(status, *headers)
        await self.send({"type": "http.response.body", "body": b""})

    async def send_error(self, error: ApiError, *headers: tuple[bytes, bytes]) -> None:
        """Answer with an error, also where the status has gone out already."""
        body = await self.begin_error(error, *headers)
        await self.send({"type": "http.response.body", "body": body})

    async def begin_error(self, error: ApiError, *headers: tuple[bytes, bytes]) -> bytes:
        """Send an error's head, and return its body."""
        self.code = error.code
        body = self.error_body(error)
        if not self.status:
            await self._start(error.status, *error.headers_of(body), *headers)
        return body

    async def _start(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers]})

    @contextlib.asynccontextmanager
    async def kept_alive(self, every_s: float) -> AsyncIterator[None]:
        """While the block runs, begin the JSON answer with white space that proxies see."""
        breathing = asyncio.create_task(self._breathe(every_s))
        try:
            yield
        finally:
            breathing.cancel()
            await asyncio.gather(breathing, return_exceptions=True)

    async def _breathe(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            if not self.status:
                await self._start(200, JSON)
                self.padded = True
            await self.send({"type": "http.response.body", "body": b" ", "more_body": True})

    def __str__(self) -> str:
        """For the log: no key, no text, no address of an image."""
        return (
            f"{self.client} {self.key} {self.method} {self.path or '?'} {self.status}"
            f" {self.code or '-'} {1000 * self.seconds:.0f}ms"
            f" first={1000 * self.first_byte_s:.0f}ms"
            f" in={self.bytes_in} images={self.images} tokens={self.prompt_tokens}"
            f"+{self.completion_tokens} id={self.id.decode()}"
        )


def this_task() -> asyncio.Task[Any]:
    """The one in which the caller, a coroutine, runs."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (a coroutine runs in a task)
    return task


class Running:
    """The exchanges that are being answered, and how they end when the process must. Each is a
    ``with`` block, in a task of its own; one that comes too late does not count.

    Those that run when it stops may finish. What takes too long is cancelled, wherever it waits:
    for the rest of a body, an image, the engine, a client that reads slowly.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._enough = asyncio.Event()
        self.closed = False
        """No more are taken."""
        self.ended = False
        """Those that were left have been cancelled."""

    def __enter__(self) -> None:
        if not self.closed:
            self._tasks.add(this_task())

    def __exit__(self, *_: object) -> None:
        self._tasks.discard(this_task())
        if self.closed and not self._tasks:
            self._enough.set()

    async def close(self, patience_s: float) -> None:
        """Take no more, and wait until none is left, at most so many seconds."""
        self.closed = True
        if self._tasks:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), patience_s)

    def hurry(self) -> None:
        """End the wait of :meth:`close`."""
        self._enough.set()

    def end(self) -> None:
        """Cancel those that are left."""
        self.ended = True
        for task in self._tasks:
            task.cancel()
