"""The page for those who may see it, for no other site's scripts, and with a limit on uploads."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.gateway.errors import ApiError
from webui.gateway.exchange import address_of
from webui.gateway.keys import Keys

UPLOAD_PATH = "/gradio_api/upload"
MAX_UPLOADS_BYTES = 2_000_000_000
MEASURE_AGAIN_S = 2.0
# What the model writes may name pictures elsewhere; loading them would tell that place about it.
# gradio's own scripts and styles stand in the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self'"
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
    """

    def __init__(self, page: ASGIApp, keys: Keys, uploads: Path | None) -> None:
        self._page = page
        self._keys = keys
        self._uploads = uploads
        self._used = 0
        self._measured_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_home(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = message["headers"]
                kept = [h for h in own if not h[0].lower().startswith(b"access-control-")]
                message["headers"] = kept + HEADERS
            await send(message)

        try:
            self._keys.visitor(scope["headers"], address_of(scope))
            if scope["path"] == UPLOAD_PATH:
                await self._check_room()
        except ApiError as error:
            await error.as_answer()(scope, receive, send)
            return
        await self._page(scope, receive, send_home)

    async def _check_room(self) -> None:
        """Raises:
        ApiError: the uploads of all visitors have reached their limit.
        """
        if self._uploads is None:
            return
        if time.monotonic() - self._measured_at > MEASURE_AGAIN_S:
            self._measured_at = time.monotonic()
            self._used = await asyncio.to_thread(_size_of, self._uploads)
        if self._used > MAX_UPLOADS_BYTES:
            message = "There is no room for more pictures now. Old ones are deleted within a day."
            raise ApiError(507, message, "no_room", "server_error")


def _size_of(folder: Path) -> int:
    """Of all files below it, in bytes."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:
                continue  # deleted meanwhile
    return total
