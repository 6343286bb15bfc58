"""HTTP to the engine: requests over kept connections, and answers as they come.

A general client costs more than all else that the gateway does with a request, and a task that is
woken for each piece of a stream more than all else that it does with the piece (ADR 0019). This one
speaks to one server, in HTTP/1.1, and hands pieces on in the moment in which they are read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import httptools

# Shorter than uvicorn keeps a connection (5 s), so that no request meets one that is being closed.
KEEP_CONNECTION_S = 4.0
# A server that closes a kept connection just when it is used has not read the request. Later than
# this after sending, it more likely ended over it.
STALE_S = 1.0
# Of an answer that nobody reads yet.
MAX_UNREAD_BYTES = 262_144
# A body up to this size goes out together with its head; a larger one is not copied for that.
JOINED_BYTES = 65_536
# Answers with a lower status come before the one that was asked for.
FINAL_STATUS = 200
# Without these an answer ends with its connection.
FRAMING = {b"content-length", b"transfer-encoding"}

Take = Callable[[bytes], bool]


class EngineRefusedError(Exception):
    """No connection can be made."""


class EngineGoneError(Exception):
    """The connection ended before the answer was whole, or what came is no HTTP."""


class EngineClient:
    """A pool of connections to one server, as many as are needed.

    Args:
        url: as ``http://127.0.0.1:8000``; a path in it comes before all others.
        connect_s: the longest that a connection may take.
        silence_s: the longest time without a byte of an answer.
        authorization: the header that the server wants, or empty.
    """

    def __init__(
        self, url: str, *, connect_s: float, silence_s: float, authorization: str = ""
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/")
        own = f"authorization: {authorization}\r\n" if authorization else ""
        self._own_headers = f"host: {parts.netloc}\r\n{own}accept: */*\r\n"
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._idle: deque[_Connection] = deque()
        self._loop = asyncio.get_running_loop()

    async def request(
        self, method: str, path: str, body: bytes | None = None, session: str = ""
    ) -> EngineAnswer:
        """Send a request, and wait for the head of its answer. Cancelled, it breaks off.

        Args:
            session: tells a router which engine it belongs to.

        Raises:
            EngineRefusedError: no connection can be made.
            EngineGoneError: it was lost before the head came.
            TimeoutError: the head does not come.
        """
        head = self._head(method, path, body, session)
        if (connection := self._kept()) is not None:
            latest = self._loop.time() + STALE_S
            try:
                return await connection.asked(head, body)
            except EngineGoneError:
                if connection.heard or self._loop.time() > latest:
                    raise
        return await (await self._connect()).asked(head, body)

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.popleft().abort()

    def _head(self, method: str, path: str, body: bytes | None, session: str) -> bytes:
        more = f"x-session-id: {session}\r\n" if session else ""
        if body is not None:
            more += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        first = f"{method} {self._path}{path} HTTP/1.1\r\n"
        return f"{first}{self._own_headers}{more}\r\n".encode()

    def _kept(self) -> _Connection | None:
        """The one that was used last, unless it was too long ago; the oldest one goes then."""
        too_old = self._loop.time() - KEEP_CONNECTION_S
        while self._idle and (self._idle[0].unusable or self._idle[0].used_at < too_old):
            self._idle.popleft().abort()
        while self._idle:
            if not (connection := self._idle.pop()).unusable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._loop, self._silence_s, self._idle.append),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                )
        except OSError as error:  # of which TimeoutError is one
            raise EngineRefusedError from error
        return connection


class EngineAnswer:
    """One answer. Left as a context before its end, it breaks the connection off, and with it the
    engine stops working on it.

    Its body is either read whole or streamed.
    """

    def __init__(self, connection: _Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._parts: list[bytes] = []
        self._unread = 0
        self._body: bytes | None = None
        self._error: Exception | None = None
        self._over: asyncio.Future[None] | None = None
        self.begun: asyncio.Future[None] = loop.create_future()
        """Done when the head is there."""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """With names in lower case."""
        self.whole = False
        """All of it has come."""
        self.take: Take | None = None
        """Who reads it, piece by piece."""

    @property
    def content_type(self) -> bytes:
        """In lower case, without parameters."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    async def read(self) -> bytes:
        """The whole body, the second time too.

        Raises:
            EngineGoneError: it broke off.
            TimeoutError: nothing came for too long.
        """
        if self._body is not None:
            return self._body
        parts: list[bytes] = []

        def keep(part: bytes) -> bool:
            parts.append(part)
            return False

        await self.stream(keep)
        self._body = b"".join(parts)
        return self._body

    async def stream(self, take: Take) -> None:
        """Hand on the body, piece by piece as it is read, up to its end or until ``take`` gives
        true. ``take`` is called from where the bytes are read: it must not wait, and not raise.

        Raises:
            EngineGoneError: it broke off.
            TimeoutError: nothing came for too long.
        """
        self.resume()  # first, for `take` may pause it
        so_far = b"".join(self._parts)
        self._parts.clear()
        if so_far and take(so_far):
            return
        if self.whole:
            return
        if self._error is not None:
            raise self._error
        self.take = take
        self._over = self._loop.create_future()
        try:
            await self._over
        finally:
            self.take = None

    def pause(self) -> None:
        """Read no more for now; silence is no fault meanwhile."""
        self._connection.pause()

    def resume(self) -> None:
        self._connection.resume()

    def release(self) -> None:
        """Give the connection back, or break it off."""
        self._connection.release(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    # What the connection calls.

    def keep(self, part: bytes) -> None:
        """For the reader who is still to come."""
        self._parts.append(part)
        self._unread += len(part)
        if self._unread > MAX_UNREAD_BYTES:
            self.pause()

    def fail(self, error: Exception) -> None:
        if not self.begun.done():
            self.begun.set_exception(error)
        elif self._over is not None and not self._over.done():
            self._over.set_exception(error)
        self._error = error

    def end(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


class _Connection(asyncio.Protocol):
    """One at a time is asked and answered on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        silence_s: float,
        keep: Callable[[_Connection], None],
    ) -> None:
        self._loop = loop
        self._silence_s = silence_s
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: EngineAnswer | None = None
        self._parts: list[bytes] = []
        self._paused = False
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._reusable = False
        self._until_closed = False
        self.heard = False
        """Something has come since it was asked."""
        self.used_at = 0.0
        """When it was given back."""

    @property
    def unusable(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    async def asked(self, head: bytes, body: bytes | None) -> EngineAnswer:
        """The answer, as soon as its head is there."""
        answer = self._ask(head, body)
        try:
            await answer.begun
        except BaseException:
            self.abort()
            raise
        return answer

    def _ask(self, head: bytes, body: bytes | None) -> EngineAnswer:
        assert self._transport is not None  # noqa: S101  (it is connected)
        self._answer = answer = EngineAnswer(self, self._loop)
        self._parser = httptools.HttpResponseParser(self)
        self._reusable = self._until_closed = self.heard = False
        if body is not None and len(body) <= JOINED_BYTES:
            head, body = head + body, None
        self._transport.write(head)
        if body is not None:
            self._transport.write(body)
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(self._silence_s, self._is_silent)
        return answer

    def release(self, answer: EngineAnswer) -> None:
        if answer is not self._answer:
            return
        if self._reusable and not self.unusable:
            self._forget()
            self.used_at = self._loop.time()
            self.resume()
            self._keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and not (self._paused or self.unusable):
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused and not self.unusable:
            self._paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    def _forget(self) -> None:
        self._answer = self._parser = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_silent(self) -> None:
        left = self._heard_at + self._silence_s - self._loop.time()
        if self._paused or left > 0:
            self._timer = self._loop.call_later(max(left, 1.0), self._is_silent)
        else:
            self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        if (answer := self._answer) is not None and not answer.whole:
            self.abort()
            answer.fail(error)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if error is None and self._until_closed and (answer := self._answer) is not None:
            answer.whole = True
            answer.end()
        self._fail(EngineGoneError())

    def data_received(self, data: bytes) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None:
            self.abort()  # nothing was asked
            return
        self._heard_at = self._loop.time()
        self.heard = True
        error: Exception | None = None
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            error = EngineGoneError()
        if parts := self._parts:
            part = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if answer.take is None:
                answer.keep(part)
            elif answer.take(part):
                answer.end()
        if answer.whole:
            answer.end()
        elif error is not None:
            self._fail(error)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._answer is not None and self._answer.whole:
            self._reusable = False  # this is more than was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None and not self._answer.whole:
            self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None or answer.whole:
            return
        answer.status = parser.get_status_code()
        if answer.status < FINAL_STATUS:
            return
        self._until_closed = answer.headers.keys().isdisjoint(FRAMING)
        if not answer.begun.done():
            answer.begun.set_result(None)

    def on_body(self, part: bytes) -> None:
        if self._answer is not None and not self._answer.whole:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None or answer.whole:
            return
        if answer.status < FINAL_STATUS:
            answer.headers.clear()
            return
        self._reusable = parser.should_keep_alive()
        answer.whole = True
