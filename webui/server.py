"""What a client may send and how long it may take: uvicorn's HTTP protocol with limits.

The parser, llhttp, refuses most malformed requests by itself. Here is the rest: deadlines for a
request's head and body, sizes, and the few requests that a proxy in front may read in another way.
Nothing is done for what is sent, so that streams cost what they cost without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import re
import resource
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from webui.gateway.errors import ApiError

MAX_TARGET_BYTES = 8_192
MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 100
# Of requests that came before the answer to an earlier one; clients in use send none.
MAX_WAITING = 8
# A slower upload of more than `body_s` times this is given up.
SLOWEST_BYTES_PER_S = 50_000
# Of a chunked body, the framing may be this many times as large as what it frames. Chunks of one
# byte need 5.
MAX_FRAMING = 16
# Closing at once would reset the connection while the client still writes, and it would never see
# the answer.
LINGER_S = 1.0

CLOSE = (b"connection", b"close")

_HOST = re.compile(rb"[A-Za-z0-9._~%:\[\]-]+")
_VERSIONS = ("1.0", "1.1")


@dataclass(frozen=True)
class Deadlines:
    """In seconds. A body may take longer than ``body_s`` while it comes at a fair speed."""

    head_s: float = 15.0
    body_s: float = 60.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Deadlines:
        """Read ``WEBUI_HEADER_TIMEOUT_S`` and ``WEBUI_BODY_TIMEOUT_S``."""
        return cls(
            float(environ.get("WEBUI_HEADER_TIMEOUT_S", cls.head_s)),
            float(environ.get("WEBUI_BODY_TIMEOUT_S", cls.body_s)),
        )


class Part(enum.Enum):
    """Of a request, what the client owes next."""

    HEAD = enum.auto()
    BODY = enum.auto()
    UNWANTED_BODY = enum.auto()
    """The request has been answered before it was whole."""


class Protocol(HttpToolsProtocol):
    """One connection. A refusal is answered in OpenAI's shape and closes it.

    A subclass with other ``deadlines`` may be given to uvicorn.
    """

    deadlines = Deadlines()

    _part: Part | None = None  # in which the bytes received last end; None between requests
    _owed: Part | None = None  # for which the timer runs
    _timer: asyncio.TimerHandle | None = None
    _refused = False
    _running: RequestResponseCycle | None = None  # whose answer comes next, or came last
    _read = 0  # length of the bytes received last
    _part_bytes = 0  # of the part, but for those that came together with its begin
    _part_bytes_before = 0  # the same when the timer was started
    _head_bytes = 0  # of the head, as far as it is parsed
    _body_bytes = 0  # of the body, without framing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A client that does not read its answer is lost as one whose cable was cut; also after
        # the last byte of the answer has been handed to the kernel.
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * self.deadlines.body_s)
        )
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        # uvicorn tells only the request that came last.
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._read = len(data)
        super().data_received(data)
        self._part_bytes += self._read
        if self._part is Part.BODY:
            if self._part_bytes > MAX_HEAD_BYTES + MAX_FRAMING * self._body_bytes:
                self._refuse(_malformed("its chunks have next to nothing in them"))
        elif self._part_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin(Part.HEAD)
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            raise ApiError(414, "The address in the request is too long.", "uri_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part is Part.BODY:
            return  # a trailer, which must not be taken for a header
        self._head_bytes += len(name) + len(value)
        if len(self.headers) == MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES:
            raise _head_too_large()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if problem := ambiguity(self.url, version, self.headers):
            raise _malformed(problem)
        if len(self.pipeline) == MAX_WAITING:
            raise _malformed("too many came before the answer to the first")
        self._begin(Part.BODY)
        self._body_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._begin(None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _unsupported_upgrade_warning(self) -> None:
        # The parser takes what follows for another protocol. uvicorn logs two lines for each read.
        self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called by uvicorn where the parser, or a callback of ours in it, raised."""
        error = sys.exception()
        cause = error.__context__ if error else None
        self._refuse(cause if isinstance(cause, ApiError) else _malformed("it is not valid HTTP"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, app)
        self._running = cycle

    def _begin(self, part: Part | None) -> None:
        self._part = part
        self._part_bytes = -self._read

    def _watch(self) -> None:
        """Run the timer for what the client owes, and none while it owes nothing."""
        owed = self._what_is_owed()
        if owed is self._owed or self._refused:
            return
        self._stop_timer()
        self._owed = owed
        if owed is None:
            return
        self._part_bytes_before = self._part_bytes
        patience = {Part.HEAD: self.deadlines.head_s, Part.BODY: self.deadlines.body_s}
        self._timer = self.loop.call_later(patience.get(owed, LINGER_S), self._late)

    def _what_is_owed(self) -> Part | None:
        answering = self._is_answering()
        if self._part is Part.HEAD:
            return Part.HEAD
        if self._part is Part.BODY:
            if self.pipeline:
                return None  # nothing is read before the earlier answer has gone out
            return Part.BODY if answering else Part.UNWANTED_BODY
        if answering or self.timeout_keep_alive_task is not None:
            return None
        return Part.HEAD

    def _late(self) -> None:
        owed, self._owed, self._timer = self._owed, None, None
        if self.transport.is_closing():
            return
        if owed is Part.BODY and self._body_advances():
            self._watch()
        elif owed is Part.BODY:
            self._refuse(_too_slow())
        elif owed is Part.UNWANTED_BODY or self._part is None:
            self.transport.close()
        elif self._is_answering():
            self.cycle.keep_alive = False  # an earlier answer is on its way; close after it
        else:
            self._refuse(_too_slow())

    def _body_advances(self) -> bool:
        came = self._part_bytes - self._part_bytes_before
        return self.flow.read_paused or came >= SLOWEST_BYTES_PER_S * self.deadlines.body_s

    def _refuse(self, error: ApiError) -> None:
        """Answer, and read on a little before closing."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_timer()
        if not self._may_answer():
            self.transport.close()
            return
        body, headers = error.response()
        lines = [STATUS_LINE[error.status]]
        for name, value in [*self.server_state.default_headers, *headers, CLOSE]:
            lines += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _may_answer(self) -> bool:
        """Whether the next answer on this connection is the one to what is refused."""
        if not self._is_answering():
            return True
        return self._part is Part.BODY and not (self.pipeline or self.cycle.response_started)

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def ambiguity(target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What in a request's head, which the parser has taken, others could take in another way.

    Args:
        version: of HTTP, such as "1.1".
        headers: with names in lower case.
    """
    hosts = [value for name, value in headers if name == b"host"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if not target.startswith(b"/") or b"#" in target:
        return "its target must be a path, such as /v1/models"
    if version not in _VERSIONS:
        return "only HTTP/1.1 and HTTP/1.0 are spoken here"
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        return "it needs one Host header"
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "its Host header is not a host name"
    if codings and (version == "1.0" or codings != [b"chunked"]):
        return "the only Transfer-Encoding is chunked, in HTTP/1.1"
    return None


def raise_file_limit() -> None:
    """Let this process have as many open connections as the system grants it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some sandboxes forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _malformed(problem: str) -> ApiError:
    return ApiError(400, f"The request cannot be read: {problem}.", "bad_request")


def _head_too_large() -> ApiError:
    return ApiError(
        431,
        f"A request may have {MAX_HEADERS} headers, and {MAX_HEAD_BYTES} bytes of them.",
        "headers_too_large",
    )


def _too_slow() -> ApiError:
    return ApiError(408, "The request took too long to arrive. Send it again.", "request_timeout")
