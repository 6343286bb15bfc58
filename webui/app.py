"""The ASGI application: health and API first, the page for everything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from webui.engine_status import EngineProbe
from webui.gateway.api import Gateway
from webui.gateway.cache import AnswerCache
from webui.gateway.chat import Chat
from webui.gateway.engine_client import EngineClient
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
from webui.gateway.uploads import Uploads
from webui.guarded_page import GuardedPage
from webui.health import Health
from webui.lazy_page import LazyPage
from webui.neighbour import watch_over
from webui.settings import Settings

if TYPE_CHECKING:
    import openai

    from webui.chat.batches import Batches
    from webui.chat.history import History

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
API_PATHS = ("/api", "/v1")


class Webui:
    """Owns the engine's client and puts the parts together; ``asgi`` is what a server runs.

    Must be created inside a running event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = engine_client(settings)
        self._probe = EngineProbe(self._engine, settings.model, settings.engine_state)
        self._page = LazyPage(self._build_page)
        self._page_client: openai.AsyncOpenAI | None = None
        self._batches: Batches | None = None
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
        self._uploads = Uploads()
        self._images = Images(
            self._image_urls,
            settings.max_upload_mb,
            settings.max_request_mb,
            install_secret(settings.secret_file),
            self._uploads,
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
        text = self._metrics.text()
        text += (
            await self._engine_metrics.text() or b""
        )  # without an engine, the gateway's own alone
        return Response(text, media_type="text/plain; version=0.0.4")

    def _build_page(self) -> FastAPI:
        # gradio is imported here, in a thread, while the API already answers.
        from webui.chat.batch_handlers import BatchHandlers
        from webui.chat.batches import Batches
        from webui.chat.control import Control
        from webui.chat.engine import connect
        from webui.chat.page import Service, build_app
        from webui.chat.session import ChatSession
        from webui.chat.status_handlers import StatusHandlers
        from webui.chat.tasks import all_tasks
        from webui.chat.vitals import Monitor, gpu_used

        settings, client = self._settings, connect(self._gateway)
        self._page_client = client
        tasks = all_tasks(settings.tasks)
        session = ChatSession(
            client,
            settings.model,
            self._probe,
            self._uploads.address_of,
            tasks,
            _history(settings),
        )
        monitor = Monitor(self._engine_metrics.text, self._metrics.answering, gpu_used)
        status = StatusHandlers(monitor, Control(), self._keys.is_admin)
        batch = None
        if settings.batches is not None and settings.uploads is not None:
            self._batches = Batches(
                settings.batches,
                client,
                settings.history_days or 1,
                settings.max_upload_mb,
                settings.batch_folder,
            )
            batch = BatchHandlers(self._batches, settings.model, tasks, settings.uploads)
        return build_app(session, Service(status, batch), settings)

    async def drain(self) -> None:
        """Let go of the page's connections and take no more requests. Answers of the API may
        finish, for ``stop_timeout_s`` or until :meth:`hurry`; those that do not are ended.
        """
        self._probe.closing = True
        self._page.close()
        if self._batches is not None:
            self._batches.close()
        if self._page_client is not None:  # what had come is kept; nobody sees the rest
            await self._page_client.close()
        await self._gateway.drain(self._settings.stop_timeout_s)

    def hurry(self) -> None:
        """End what :meth:`drain` waits for."""
        self._gateway.hurry()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        page = asyncio.create_task(self._page.run())
        watching = asyncio.create_task(watch_over(self._settings.engine_state))
        with _address_file(self._settings):
            yield
        self._page.close()
        for task in (page, watching):
            task.cancel()
        await asyncio.gather(page, watching, return_exceptions=True)
        self._images.close()
        if self._cache:
            self._cache.close()
        await self._image_urls.close()
        self._engine_metrics.close()
        self._engine.close()
        self._gateway.write_log()


def engine_client(settings: Settings) -> EngineClient:
    """Of the engine that the settings name."""
    return EngineClient(
        settings.upstream,
        connect_s=CONNECT_TIMEOUT_S,
        silence_s=settings.upstream_idle_s,
        authorization=authorization(settings),
    )


def _tokenizer(settings: Settings, relay: Relay) -> Tokenizer:
    if settings.backend == "ray":
        return RayTokenizer(relay, settings.model)
    return VllmTokenizer(relay)


def authorization(settings: Settings) -> str:
    """The header that engines on other machines want; empty where there are none."""
    if settings.engine_key_file is None:
        return ""
    return f"Bearer {settings.engine_key_file.read_text().strip()}"


def _history(settings: Settings) -> History | None:
    from webui.chat.history import History, HistoryError

    if settings.history is None or settings.uploads is None:
        return None
    try:
        return History(
            settings.history, settings.uploads, settings.history_mb, settings.history_days
        )
    except HistoryError as error:
        logger.warning("conversations are not kept: %s: %s", error.code, error.__cause__)
        return None


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
