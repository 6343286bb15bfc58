"""The page for those who may see it, for no other site's scripts, and with a limit on uploads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.gateway.errors import ApiError, too_large
from webui.gateway.exchange import address_of
from webui.gateway.keys import Keys
from webui.gateway.relay import MEGABYTE

# A browser's secret, by which it has its own conversations.
OWNER_COOKIE = "step3vl_visitor"
OWNER_LIVES_S = 400 * 24 * 3600  # the most that browsers allow
UPLOAD_PATH = "/gradio_api/upload"
MAX_UPLOADS_BYTES = 2_000_000_000
MEASURE_AGAIN_S = 2.0
ABANDONED_S = 600
# gradio has a limit for a file, none for a request, and keeps what is no file in memory. An upload
# may be as large as so many of the largest pictures; of other requests only a question is large.
PICTURES_AT_ONCE = 10
MAX_BODY_MB = 8
# What the model writes may name pictures elsewhere; loading them would tell that place about it. A
# form in it may send what a reader types there.
# gradio's own scripts and styles stand in the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class GuardedPage:
    """Where keys are in use, the browser asks for one; the user's name does not matter.

    gradio answers any origin as if it were its own; those headers are taken out.

    Args:
        uploads: the folder where the page keeps pictures.
        max_upload_mb: the largest that a picture may be.
    """

    def __init__(
        self, page: ASGIApp, keys: Keys, uploads: Path | None, max_upload_mb: int = 20
    ) -> None:
        self._page = page
        self._keys = keys
        self._uploads = uploads
        self._max_upload_mb = PICTURES_AT_ONCE * max_upload_mb
        self._used = 0
        self._coming = 0
        self._measured_at = float("-inf")
        self._measuring = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_upload = scope["path"].rstrip("/") == UPLOAD_PATH
        is_the_page = scope["path"] in {"", "/"}
        owner = _new_owner(scope) if is_the_page else []
        length = 0

        async def send_home(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = message["headers"]
                kept = [h for h in own if not h[0].lower().startswith(b"access-control-")]
                message["headers"] = kept + HEADERS + owner
                if is_upload and message["status"] == HTTPStatus.OK:
                    self._used += length  # until it is measured again
            await send(message)

        try:
            self._keys.visitor(scope["headers"], address_of(scope), ask=is_the_page)
            length = _length_of_body(scope, self._max_upload_mb if is_upload else MAX_BODY_MB)
            if is_upload:
                await self._check_room(length)
        except ApiError as error:
            await error.as_answer()(scope, receive, send)
            return
        with self._counted(receive) if is_upload else contextlib.nullcontext(receive) as taken:
            await self._page(scope, taken, send_home)

    async def _check_room(self, length: int) -> None:
        """For an upload of so many bytes.

        Raises:
            ApiError: the uploads of all visitors have reached their limit.
        """
        if self._uploads is None:
            return
        async with self._measuring:
            if time.monotonic() - self._measured_at > MEASURE_AGAIN_S:
                self._used = await asyncio.to_thread(_measured, self._uploads)
                self._measured_at = time.monotonic()
        if self._used + self._coming + length > MAX_UPLOADS_BYTES:
            message = "There is no room for more pictures now. Old ones are deleted within a day."
            raise ApiError(507, message, "no_room", "server_error")

    @contextlib.contextmanager
    def _counted(self, receive: Receive) -> Iterator[Receive]:
        """Count an upload while it comes, not as it says: claims alone must take no room."""
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            size = len(message.get("body", b""))
            came += size
            self._coming += size
            if self._used + self._coming > MAX_UPLOADS_BYTES:  # many came at once
                return {"type": "http.disconnect"}
            return message

        try:
            yield counted
        finally:
            self._coming -= came


def _new_owner(scope: Scope) -> list[tuple[bytes, bytes]]:
    """A header that gives a browser a secret, if it has none yet."""
    headers = dict(scope["headers"])
    if f"{OWNER_COOKIE}=".encode() in headers.get(b"cookie", b""):
        return []
    proxied = headers.get(b"x-forwarded-proto", b"").partition(b",")[0].strip().lower()
    # A server need not name the scheme (ASGI: "http" is meant then).
    scheme = scope.get("scheme", "http").encode()
    secure = "; Secure" if b"https" in {proxied, scheme} else ""
    secret = secrets.token_urlsafe(32)
    cookie = f"{OWNER_COOKIE}={secret}; Path=/; Max-Age={OWNER_LIVES_S}; HttpOnly; SameSite=Lax"
    return [(b"set-cookie", f"{cookie}{secure}".encode())]


def _length_of_body(scope: Scope, limit_mb: int) -> int:
    """Of a request, in bytes, as it says itself; the server holds it to that.

    Raises:
        ApiError: it is more than the limit, or not said.
    """
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        message = "Say the length of the body in Content-Length; browsers do."
        raise ApiError(411, message, "length_required")
    length = int(headers.get(b"content-length", 0))
    if length > limit_mb * MEGABYTE:
        raise too_large(limit_mb)
    return length


def _measured(folder: Path) -> int:
    """All files below it, in bytes. What uploads left that broke off is deleted: nobody else does.

    gradio writes an upload into a file of the folder itself, and moves it when it is whole.
    """
    total = 0
    long_ago = time.time() - ABANDONED_S
    for place, _, names in os.walk(folder):
        for file in (Path(place) / name for name in names):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                found = file.stat()
                if file.parent == folder and found.st_mtime < long_ago:
                    file.unlink()
                else:
                    total += found.st_size
    return total
