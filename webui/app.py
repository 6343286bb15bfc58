"""The ASGI application: health and API first, the page for everything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from webui.engine_status import EngineProbe
from webui.gateway.api import PREFIXES, Gateway
from webui.gateway.errors import ApiError, engine_unavailable
from webui.gateway.image_urls import ImageUrls
from webui.gateway.images import Images
from webui.gateway.relay import Relay
from webui.health import Health
from webui.lazy_page import LazyPage
from webui.settings import Settings

CONNECT_TIMEOUT_S = 5.0


class Webui:
    """Owns the engine's client and puts the parts together; ``asgi`` is what a server runs.

    Must be created inside a running event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = _engine_session(settings)
        self._probe = EngineProbe(self._session, settings.upstream, settings.engine_state)
        self._page = LazyPage(self._build_page)
        health = Health(self._probe)
        self._image_urls = ImageUrls(
            settings.max_upload_mb, settings.max_request_mb, settings.image_hosts
        )
        relay = Relay(self._session, settings.upstream, self._unavailable, settings.keep_alive_s)
        self._images = Images(self._image_urls, settings.max_upload_mb, settings.max_request_mb)
        gateway = Gateway(relay, self._images, settings)
        self.asgi = Starlette(
            routes=[
                Route("/livez", health.live),
                Route("/readyz", health.ready),
                *(Route(prefix, gateway) for prefix in ("/api", *PREFIXES)),
                *(Mount(prefix, gateway) for prefix in ("/api", "/v1")),
                Mount("/", self._page),
            ],
            exception_handlers={Exception: _unexpected},
            lifespan=self._lifespan,
        )

    def _unavailable(self) -> ApiError:
        status = self._probe.explanation()
        return engine_unavailable(status.message, status.retry_after)

    def _build_page(self) -> FastAPI:
        # gradio is imported here, in a thread, while the API already answers.
        from webui.chat.engine import connect
        from webui.chat.page import build_app
        from webui.chat.session import ChatSession

        client = connect(self._settings.upstream)
        return build_app(ChatSession(client, self._settings.model, self._probe), self._settings)

    def begin_shutdown(self) -> None:
        """Let go of idle page connections; API answers may still finish."""
        self._page.close()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        page = asyncio.create_task(self._page.run())
        with _address_file(self._settings):
            yield
        self.begin_shutdown()
        page.cancel()
        await asyncio.gather(page, return_exceptions=True)
        self._images.close()
        await self._image_urls.close()
        await self._session.close()


def _engine_session(settings: Settings) -> aiohttp.ClientSession:
    """Plain relaying: no cookies, no decompression, no limit on connections but the engine's."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers={"User-Agent", "Accept-Encoding"},
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=settings.upstream_idle_s
        ),
    )


@contextlib.contextmanager
def _address_file(settings: Settings) -> Iterator[None]:
    """Tell the launcher where we listen, for as long as we do."""
    path = settings.address_file
    if path is None:
        yield
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(
        json.dumps({"host": settings.host, "port": settings.port, "pid": os.getpid()})
    )
    temporary.replace(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["pid"] == os.getpid():
                path.unlink()


async def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    """The one answer for what nobody expected; the server logs the traceback."""
    failure = ApiError(500, f"Unexpected {type(error).__name__}.", "internal_error", "server_error")
    return JSONResponse(json.loads(failure.body()), failure.status)
