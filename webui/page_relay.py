"""Pass the page's requests on to its process, and answer in its place while there is none.

gradio takes seconds to import, more on a machine that is busy loading a model. Until then, and when
the page has just ended, visitors get a small page that reloads itself.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import aiohttp
from multidict import CIMultiDict
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send
from yarl import URL

from webui.gateway.exchange import address_of
from webui.gateway.relay import unless, until_gone

logger = logging.getLogger(__name__)

WAITING = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="1">
<title>STEP3-VL</title>
<style>body{font:16px system-ui;margin:20vh auto;width:22em;text-align:center}</style>
<h1>STEP3-VL</h1><p>The page is starting. It appears here by itself in a few seconds.</p></html>
"""
BROKEN = WAITING.replace(
    "The page is starting. It appears here by itself in a few seconds.",
    "The page could not start; the log of the WebUI says why. It is tried again.",
)

# gradio would fetch URLs for anyone who asks for a "file" with one of these.
FORBIDDEN = ("/gradio_api/file=http", "/gradio_api/proxy=", "/file=http", "/proxy=")
NOBODY_LISTENS = frozenset({errno.ENOENT, errno.ECONNREFUSED})
# A file in pieces of this size, at most so much of it in memory.
PIECE_BYTES = 65_536

# They speak of one connection, and there are two.
OF_THE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)
FORWARDED_FOR = b"x-forwarded-for"
# What aiohttp would add of its own.
ADDED = ("accept", "accept-encoding", "content-type", "user-agent")

# Of a target, what stays as it was sent.
_TARGET = "".join(map(chr, range(0x21, 0x7F)))


class State(enum.Enum):
    """Of the page's process, as far as it can be seen from here."""

    ABSENT = enum.auto()
    """It does not listen, or not yet."""
    SILENT = enum.auto()
    """It listens, and does not answer."""
    ANSWERS = enum.auto()


class PageRelay:
    """An ASGI application in front of the page's process.

    Args:
        socket: where that process listens, once it can answer.
    """

    def __init__(self, socket: Path) -> None:
        self._client = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket), limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=ADDED,
            read_bufsize=PIECE_BYTES,
        )
        self._closing = asyncio.Event()
        self.is_broken = False
        """Whether the page has tried to start, and could not."""

    async def state(self, seconds: float) -> State:
        """Of the page's process, which is given so many seconds to answer."""
        try:
            async with asyncio.timeout(seconds), self._client.head("http://page/livez") as answer:
                return State.ANSWERS if answer.status == HTTPStatus.OK else State.SILENT
        except aiohttp.ClientConnectorError as error:
            return State.ABSENT if error.os_error.errno in NOBODY_LISTENS else State.SILENT
        except (TimeoutError, aiohttp.ClientError):
            return State.SILENT

    def hang_up(self) -> None:
        """End all that is being passed on: a browser tab holds a connection while it is open."""
        self._closing.set()

    async def close(self) -> None:
        self.hang_up()
        await self._client.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(FORBIDDEN):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        else:
            await unless(self._closing.wait, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _Request(scope, receive)
        has_begun = False

        async def pass_on() -> None:
            nonlocal has_begun
            async with self._client.request(
                scope["method"],
                request.url,
                headers=request.headers,
                data=request.body() if request.has_body else None,
                allow_redirects=False,
            ) as answer:
                headers = list(_kept(answer.raw_headers))
                has_begun = True
                await send(
                    {"type": "http.response.start", "status": answer.status, "headers": headers}
                )
                async for piece in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})

        try:
            await unless(request.client_gone, pass_on())
        except aiohttp.ClientError as error:
            if has_begun:  # the server sees that it is not whole, and breaks the connection off
                logger.warning("the page broke an answer off (%s)", type(error).__name__)
                return
            await self._answer_instead(scope, receive, send)

    async def _answer_instead(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in {"", "/"} or scope["method"] not in {"GET", "HEAD"}:
            headers = {"retry-after": "2"}
            await PlainTextResponse("The page is starting.", 503, headers)(scope, receive, send)
        elif self.is_broken:
            await HTMLResponse(BROKEN, 500)(scope, receive, send)
        else:
            await HTMLResponse(WAITING)(scope, receive, send)


class _Request:
    """As it goes on to the page."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._sent = asyncio.Event()
        # As it was sent: decoding and encoding it again need not give the same.
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        self.url = URL(f"http://page{quote(path + query, safe=_TARGET)}", encoded=True)
        self.headers = CIMultiDict(
            (name.decode("latin-1"), value.decode(errors="replace"))
            for name, value in _kept(scope["headers"])
            if name != FORWARDED_FOR
        )
        self.headers["x-forwarded-for"] = address_of(scope)
        self.has_body = self.headers.get("content-length", "0") != "0"
        if not self.has_body:
            self._sent.set()

    async def body(self) -> AsyncIterator[bytes]:
        """Piece by piece, each once the page has taken the one before."""
        is_more = True
        while is_more and (message := await self._receive())["type"] == "http.request":
            yield message.get("body", b"")
            is_more = message.get("more_body", False)
        self._sent.set()

    async def client_gone(self) -> None:
        """Return when the client closes its connection."""
        await self._sent.wait()
        await until_gone(self._receive)


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    return ((name, value) for name, value in headers if name.lower() not in OF_THE_CONNECTION)
