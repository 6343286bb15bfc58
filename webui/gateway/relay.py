"""Pass a request to the engine and its answer back, as bytes and as they come."""

from __future__ import annotations

import asyncio
import contextlib
import time
import types
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Protocol

import orjson
from starlette.types import Message, Receive, Scope, Send

from webui.gateway.answers import AnswerEvents
from webui.gateway.engine_client import (
    EngineAnswer,
    EngineClient,
    EngineGoneError,
    EngineRefusedError,
)
from webui.gateway.errors import (
    ApiError,
    engine_lost,
    engine_stalled,
    shutting_down,
    too_large,
)
from webui.gateway.exchange import this_task
from webui.gateway.ray_errors import as_vllm_says
from webui.gateway.router_words import NoAnswerError, is_the_routers, told_by

MEGABYTE = 1_000_000

# How long, and how much, to read of a refused body.
LINGER_S = 1.0
LINGER_MB = 16

# A comment in a stream of events; clients skip it.
KEEP_ALIVE = b": keep-alive\n\n"
END_OF_EVENT = b"\n\n"

# What ends a stream before its end.
BREAKS = (TimeoutError, EngineGoneError, ApiError, asyncio.CancelledError)

UNAUTHORIZED = 401
RETRY_FOR_S = 3.0
RETRY_PAUSE_S = 0.1
# An engine that is there takes longer to fail.
REFUSED_WITHIN_S = 0.25
EVENT_STREAM = b"text/event-stream"
# What of an answer's headers belongs to the answer and not to the connection it came over.
KEPT_HEADERS = (b"content-type", b"content-length")


class ClientGoneError(Exception):
    """The client has closed its connection; nobody is left to answer."""


class UnfinishedAnswerError(Exception):
    """An answer broke off after its headers had gone out; the connection must not look complete."""


async def read_body(receive: Receive, scope: Scope, limit_mb: int) -> bytes:
    """A request's whole body.

    Raises:
        ApiError: it is, or says it is, larger than ``limit_mb``.
        ClientGoneError: it never came whole.
    """
    limit = limit_mb * MEGABYTE
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise too_large(limit_mb)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit_mb)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def linger(receive: Receive) -> None:
    """Read on a little of a body that is not wanted.

    Closing at once would reset the connection while the client still writes, and it would never
    see the answer.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            left = LINGER_MB * MEGABYTE
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    break


async def until_gone(receive: Receive) -> None:
    """Return when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless(end: Callable[[], Awaitable[object]], work: Awaitable[None]) -> None:
    """Do ``work``, and cancel it the moment ``end`` comes."""
    doing = this_task()

    async def watch() -> None:
        await end()
        doing.cancel()

    watching = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        # Ours, or that of somebody who wants this task itself to end?
        if not watching.done() or doing.uncancel() > 0:
            raise
    finally:
        watching.cancel()


class Events(Protocol):
    """A stream on its way to the client."""

    over: bool
    """What comes from now on is not wanted. Else it is read to the engine's own end: then the
    connection can be used again."""

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets of the stream so far and has not got yet."""


class Relay:
    """The way to the engine."""

    def __init__(
        self,
        engine: EngineClient,
        unavailable: Callable[[], ApiError],
        unfit: Callable[[], ApiError | None],
        keep_alive_s: float,
    ) -> None:
        """
        Args:
            unavailable: why an engine that refuses the connection does so.
            unfit: why one that does not refuse should be asked nothing now.
        """
        self._engine = engine
        self._unavailable = unavailable
        self._unfit = unfit
        self._keep_alive_s = keep_alive_s
        self._stopped = False

    def stop(self) -> None:
        """Ask the engine nothing more. A task that is cancelled from now on, while it relays a
        stream, ends this as a stop does: told, and in the shape of its API.
        """
        self._stopped = True

    async def open(
        self, method: str, path: str, body: bytes | None, session: str = ""
    ) -> EngineAnswer:
        """Send a request and wait for the answer's headers.

        Args:
            session: the conversation, where there are several engines.

        Raises:
            ApiError: the engine is not there, or left without an answer; or nothing is asked
                any more.
        """
        retries = Retries()
        while True:
            if self._stopped:
                raise shutting_down()
            if method == "POST" and (error := self._unfit()) is not None:
                raise error
            try:
                return await self._open(method, path, body, session)
            except EngineRefusedError:
                raise self._unavailable() from None
            except TimeoutError:
                raise engine_stalled() from None
            except EngineGoneError:
                raise engine_lost() from None
            except NoAnswerError:
                if not await retries.may_try_again():
                    raise engine_lost() from None

    async def _open(self, method: str, path: str, body: bytes | None, session: str) -> EngineAnswer:
        response = await self._engine.request(method, path, body, session)
        if response.status == UNAUTHORIZED:
            # Its clients have keys of ours; this one is between the machines.
            response.release()
            raise self._unavailable()
        if is_the_routers(response):
            async with response:
                raise await told_by(response, self._unavailable())
        return response

    async def fetch_json(self, path: str) -> dict[str, Any]:
        """An object that the engine answers with.

        Raises:
            ApiError: the engine is not there, or gave no such answer.
        """
        async with await self.open("GET", path, None) as response:
            document = await self.read_json(response)
            if response.status != 200:
                raise engine_lost()
            return document

    async def fetch_text(self, path: str) -> bytes:
        """What the engine answers with.

        Raises:
            ApiError: the engine is not there, or gave no such answer.
        """
        async with await self.open("GET", path, None) as response:
            try:
                return await response.read() if response.status == 200 else b""
            except (TimeoutError, EngineGoneError):
                raise engine_lost() from None

    @staticmethod
    async def read_json(response: EngineAnswer) -> dict[str, Any]:
        """The object in an answer, whatever its status.

        Raises:
            ApiError: it never came whole, or is no object.
        """
        try:
            document = orjson.loads(await response.read())
        except TimeoutError:
            raise engine_stalled() from None
        except (EngineGoneError, ValueError):
            raise engine_lost() from None
        if not isinstance(document, dict):
            raise engine_lost()
        return as_vllm_says(document, response.status) if response.status >= 400 else document

    async def forward(
        self, path: str, body: bytes, session: str, send: Send, events: Events
    ) -> ApiError | None:
        """Relay one exchange, of a stream its ``events``; why it broke off, if it did."""
        response = await self.open("POST", path, body, session)
        # Leaving this block before the end of the answer closes the engine's connection, and
        # with it the engine stops generating.
        async with response:
            if response.status != 200:
                await _send_refusal(response, send)
                return None
            await send(_start(response))
            error: ApiError | None = None
            try:
                if is_event_stream(response):
                    await self._forward_events(response, send, events, events.feed)
                else:
                    body = await response.read()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            except BREAKS as broke:
                error = self._reason(broke, whole=response.whole)
            last = _early_end(response, error) if error else b""
            await send({"type": "http.response.body", "body": last})
            return error

    async def forward_answer(
        self,
        response: EngineAnswer,
        events: AnswerEvents,
        translated: Callable[[bytes], bytes] | None,
        again: Callable[[], Awaitable[EngineAnswer]],
        send: Send,
    ) -> ApiError | None:
        """Relay a chat stream in the shape that ``events`` gives it; why it broke off, if it did.

        Args:
            translated: events in the form in which they go out, where that is another API's.
            again: asks for an answer to the same question where only a thought has come.
        """

        feed = events.feed
        if translated is not None:

            def feed(chunk: bytes) -> bytes:
                shaped = events.feed(chunk)
                return translated(shaped) if shaped else b""

        await send(_start(response))
        error: ApiError | None = None
        try:
            await self._forward_events(response, send, events, feed)
            if events.unanswered:
                events.resume()
                async with await again() as second:
                    await self._forward_events(second, send, events, feed)
            error = None if events.complete else engine_lost()
        except BREAKS as broke:
            error = self._reason(broke, whole=events.complete)
        last = error.as_event() if error else b""
        if last and translated is not None:
            last = translated(last)
        await send({"type": "http.response.body", "body": last})
        return error

    def _reason(self, broke: BaseException, *, whole: bool) -> ApiError | None:
        """What a client is told of a stream that broke off; None where it has it whole.

        Raises:
            CancelledError: not because of a stop.
        """
        if isinstance(broke, ApiError):
            return broke
        if isinstance(broke, asyncio.CancelledError):
            if not self._stopped:
                raise broke
            return None if whole else shutting_down()
        return engine_stalled() if isinstance(broke, TimeoutError) else engine_lost()

    async def _forward_events(
        self,
        response: EngineAnswer,
        send: Send,
        events: Events,
        feed: Callable[[bytes], bytes],
    ) -> None:
        """Relay what ``feed`` makes of a stream until that is over, with a comment wherever it is
        silent for long.

        Proxies cut connections on which nothing comes, often after 100 s; a model may think longer.
        """
        outlet = Outlet(send, self._keep_alive_s, response)
        error: ApiError | None = None

        def take(chunk: bytes) -> bool:
            nonlocal error
            try:
                out = feed(chunk)
            except ApiError as raised:
                error = raised
                return True
            if out:
                outlet.pass_on(out)
            return events.over

        try:
            await response.stream(take)
        finally:
            await outlet.close()
        if error is not None:
            raise error


class Outlet:
    """Passes a stream on, and sends a comment after ``seconds`` without anything else.

    What comes goes out in the same moment, without a task that would have to be woken. Only where
    the client does not keep up is there one, and the engine's answer is read no further meanwhile.
    """

    def __init__(self, send: Send, seconds: float, source: EngineAnswer) -> None:
        self._send = send
        self._seconds = seconds
        self._source = source
        self._waiting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._end = END_OF_EVENT  # the last bytes that went out
        self._timer = self._loop.call_later(seconds, self._beat)

    def pass_on(self, chunk: bytes) -> None:
        """To be called no more while the source is paused."""
        self._end = (self._end + chunk[-len(END_OF_EVENT) :])[-len(END_OF_EVENT) :]
        self._last = self._loop.time()
        rest = begun(self._send({"type": "http.response.body", "body": chunk, "more_body": True}))
        if rest is not None:
            self._source.pause()
            self._waiting = asyncio.create_task(self._until_sent(rest))

    async def close(self) -> None:
        """Send nothing more, but for what waits for its client."""
        self._timer.cancel()
        if self._waiting is not None:
            await self._waiting

    async def _until_sent(self, rest: Awaitable[None]) -> None:
        await rest
        self._last = self._loop.time()
        self._waiting = None
        self._source.resume()

    def _beat(self) -> None:
        """A comment may stand between events only."""
        left = self._last + self._seconds - self._loop.time()
        if left <= 0 and self._waiting is None and self._end == END_OF_EVENT:
            self.pass_on(KEEP_ALIVE)
        self._timer = self._loop.call_later(left if left > 0 else self._seconds, self._beat)


def begun(work: Awaitable[None]) -> Awaitable[None] | None:
    """Do it up to where it first waits; the rest, to be awaited, or None if there is none.

    ``asyncio`` has this as eager tasks, from Python 3.12 on.
    """
    steps = work.__await__()
    try:
        waits_for = next(steps)
    except StopIteration:
        return None
    return _rest(steps, waits_for)


@types.coroutine
def _rest(steps: Generator[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            got = yield waits_for
        except BaseException as error:  # noqa: BLE001  (to be raised where it is waited)
            step = partial(steps.throw, error)
        else:
            step = partial(steps.send, got)
        try:
            waits_for = step()
        except StopIteration:
            return


class Retries:
    """Of a request to which a router got no answer, because an engine has just died.

    One that an engine refused at once is asked again until the router knows. One that an engine
    had begun to work on is asked once more and no oftener: it may be what killed it.
    """

    def __init__(self) -> None:
        self._began = self._asked = time.monotonic()
        self._worked = False

    async def may_try_again(self) -> bool:
        """After a pause."""
        now = time.monotonic()
        worked = now - self._asked > REFUSED_WITHIN_S
        if self._asked - self._began > RETRY_FOR_S or (worked and self._worked):
            return False
        self._worked = self._worked or worked
        await asyncio.sleep(RETRY_PAUSE_S)
        self._asked = time.monotonic()
        return True


def is_event_stream(response: EngineAnswer) -> bool:
    """A router calls so whatever it answers to one who wants a stream, refusals too."""
    return response.status == 200 and response.content_type == EVENT_STREAM


async def _send_refusal(response: EngineAnswer, send: Send) -> None:
    """An engine's, whole."""
    body = await Relay.read_json(response)
    text = orjson.dumps(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _start(response: EngineAnswer) -> Message:
    given = response.headers
    headers = [(name, given[name]) for name in KEPT_HEADERS if name in given]
    if is_event_stream(response):
        headers = [(b"content-type", given[b"content-type"])]
        # Proxies in front of us must neither collect nor keep a stream.
        headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


def _early_end(response: EngineAnswer, error: ApiError) -> bytes:
    """What ends a broken answer so that it cannot be taken for a whole one.

    Raises:
        UnfinishedAnswerError: only breaking off the connection does.
    """
    if not is_event_stream(response):
        raise UnfinishedAnswerError(error.code)
    return error.as_event()
