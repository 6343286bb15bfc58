"""The ASGI application: health and API first, the page for everything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from webui.engine_status import EngineProbe, authorization, engine_client
from webui.gateway.api import Gateway
from webui.gateway.cache import AnswerCache
from webui.gateway.chat import Chat
from webui.gateway.engine_metrics import EngineMetrics
from webui.gateway.errors import ApiError, engine_unavailable, shutting_down, unexpected
from webui.gateway.exchange import address_of
from webui.gateway.image_urls import ImageUrls
from webui.gateway.images import Images, install_secret
from webui.gateway.keys import Keys
from webui.gateway.metrics import Metrics
from webui.gateway.names import Names
from webui.gateway.relay import Relay
from webui.gateway.tokenizers import RayTokenizer, Tokenizer, VllmTokenizer
from webui.gateway.uploads import Uploads, new_secret
from webui.guarded_page import GuardedPage
from webui.health import Health
from webui.neighbour import watch_over
from webui.page_process import PageProcess
from webui.page_relay import PageRelay
from webui.private_socket import API, PAGE, serving
from webui.settings import Settings

logger = logging.getLogger(__name__)

API_PATHS = ("/api", "/v1")


class Webui:
    """Owns the engine's client and puts the parts together; ``asgi`` is what a server runs.

    Must be created inside a running event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = engine_client(settings)
        self._probe = EngineProbe(self._engine, settings.model, settings.engine_state)
        self._keys = Keys(settings.keys_file, required=settings.require_keys)
        self._metrics = Metrics()
        self._cache = _answer_cache(settings)
        health = Health(self._probe)
        self._image_urls = ImageUrls(
            settings.max_upload_mb, settings.max_request_mb, settings.image_hosts
        )
        self._relay = Relay(
            self._engine,
            self._unavailable,
            self._unfit,
            settings.keep_alive_s,
        )
        self._engine_metrics = EngineMetrics(
            self._relay, settings.replicas, authorization(settings)
        )
        secret = new_secret()
        self._images = Images(
            self._image_urls,
            settings.max_upload_mb,
            settings.max_request_mb,
            install_secret(settings.secret_file),
            Uploads(secret),
        )
        names = Names(settings.model, settings.aliases)
        chat = Chat(
            self._relay,
            self._images,
            settings.thinking,
            self._cache,
            _tokenizer(settings, self._relay),
            names,
            settings.checkpoint,
        )
        gateway = Gateway(
            self._relay, self._images, chat, settings, self._keys, self._metrics, names
        )
        self._gateway = gateway
        self._at_end = contextlib.ExitStack()
        self._sockets = settings.sockets or Path(
            self._at_end.enter_context(TemporaryDirectory(prefix="step3vl-"))
        )
        self._page = PageRelay(self._sockets / PAGE)
        told = {"WEBUI_SOCKETS": str(self._sockets), "WEBUI_UPLOAD_SECRET": secret}
        self._page_process = PageProcess(self._page, os.environ | told)
        self._guarded_page = GuardedPage(
            self._page, self._keys, settings.uploads, settings.max_upload_mb
        )
        self._routes = Starlette(
            routes=[
                Route("/livez", health.live),
                Route("/readyz", health.ready),
                Route("/startupz", health.started),
                Route("/metrics", self._show_metrics),
                Mount("/", self._show_page),
            ],
            exception_handlers={Exception: _unexpected},
            lifespan=self._lifespan,
        )

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application. What is the API's goes there by the shortest way.

        A proxy in front may leave the prefix in the path, or take it away.
        """
        if (root := self._settings.root_path) and scope["type"] == "http":
            path = scope["path"]
            if path == root or path.startswith(f"{root}/"):
                scope = {**scope, "path": path[len(root) :] or "/", "raw_path": None}
        if scope["type"] == "http" and scope["path"].startswith(API_PATHS):
            await self._gateway(scope, receive, send)
        else:
            await self._routes(scope, receive, send)

    def _unavailable(self) -> ApiError:
        status = self._probe.explanation()
        return engine_unavailable(status.message, status.retry_after)

    def _unfit(self) -> ApiError | None:
        status = self._probe.unfit()
        return engine_unavailable(status.message, status.retry_after) if status else None

    async def _show_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._probe.closing:
            error = shutting_down()
            headers = {**error.headers, "connection": "close"}
            await PlainTextResponse(error.message, error.status, headers)(scope, receive, send)
        else:
            await self._guarded_page(scope, receive, send)

    async def _show_metrics(self, request: Request) -> Response:
        """The gateway's figures and the engine's, under the same keys as the API."""
        try:
            self._keys.caller(request.headers.raw, address_of(request.scope))
        except ApiError as error:
            return error.as_answer()
        return await self._figures()

    async def _figures(self) -> Response:
        engines = await self._engine_metrics.text()
        text = self._metrics.text() + (engines or b"")
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _serve_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the page's process asks, over a socket of this machine: the API with its visitors'
        keys, and the figures, which they all may see."""
        scope = {**scope, "client": ("127.0.0.1", 0)}
        if scope["path"] == "/metrics":
            answer = await self._figures()
            await answer(scope, receive, send)
        else:
            await self._gateway(scope, receive, send)

    async def drain(self) -> None:
        """Let go of the page's connections and take no more requests. Answers of the API may
        finish, for ``stop_timeout_s`` or until :meth:`hurry`; those that do not are ended.
        """
        self._probe.closing = True
        self._page.hang_up()
        # What its visitors ask counts as answers of the API: with the process they end.
        await asyncio.gather(
            self._page_process.stop(), self._gateway.drain(self._settings.stop_timeout_s)
        )

    def hurry(self) -> None:
        """End what :meth:`drain` waits for."""
        self._gateway.hurry()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch_over(self._settings.engine_state))
        async with serving(self._serve_page, self._sockets / API):
            self._page_process.start()
            with _address_file(self._settings):
                yield
            await self._page_process.stop()
            await self._page.close()
        self._at_end.close()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self._images.close()
        if self._cache:
            self._cache.close()
        await self._image_urls.close()
        self._engine_metrics.close()
        self._engine.close()
        self._gateway.write_log()


def _tokenizer(settings: Settings, relay: Relay) -> Tokenizer:
    if settings.backend == "ray":
        return RayTokenizer(relay, settings.model)
    return VllmTokenizer(relay)


def _answer_cache(settings: Settings) -> AnswerCache | None:
    if not settings.cache_mb or settings.cache_file is None:
        return None
    try:
        return AnswerCache(settings.cache_file, settings.cache_mb)
    except (OSError, sqlite3.Error) as error:
        logger.warning("answers are not kept: %s", error)
        return None


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


async def _unexpected(_request: Request, error: Exception) -> Response:
    """The one answer for what nobody expected; the server logs the traceback."""
    return unexpected(error).as_answer()
