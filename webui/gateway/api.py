"""The routes of the API: what is offered, to whom, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from webui.gateway import messages, responses
from webui.gateway.answers import TextEvents
from webui.gateway.chat import Chat, Form
from webui.gateway.documents import encoded, parsed
from webui.gateway.errors import (
    ApiError,
    engine_lost,
    is_lost,
    method_not_allowed,
    not_found,
    shutting_down,
    unexpected,
)
from webui.gateway.exchange import CLOSE, Exchange, Running
from webui.gateway.fields import check_fields
from webui.gateway.images import Images
from webui.gateway.keys import Keys
from webui.gateway.limits import AtOnce
from webui.gateway.metrics import Metrics
from webui.gateway.names import Names
from webui.gateway.relay import (
    ClientGoneError,
    Relay,
    UnfinishedAnswerError,
    linger,
    read_body,
    unless,
    until_gone,
)
from webui.gateway.sessions import HEADER as SESSION
from webui.gateway.thinking import ALIASES
from webui.gateway.translation import failure
from webui.settings import Settings

logger = logging.getLogger(__name__)

PREFIXES = ("/api/v1", "/v1")
# What a page of a configured origin may read and send.
EXPOSED = (
    (b"vary", b"origin"),
    (b"access-control-expose-headers", b"x-request-id, retry-after, x-cache"),
)
ALLOWED_HEADERS = b"authorization, content-type, x-api-key, x-request-id, x-session-id"
PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", ALLOWED_HEADERS),
    (b"access-control-max-age", b"600"),
)

LOG_DELAY_S = 0.1
TEXT_PATH = "/v1/completions"

Handler = Callable[[bytes, Exchange], Awaitable[None]]


def api_path(path: str) -> str | None:
    """The part after ``/api/v1`` or ``/v1``; None for a path that is not the API's."""
    for prefix in PREFIXES:
        if path == prefix or path.startswith(f"{prefix}/"):
            return path[len(prefix) :] or "/"
    return None


class Gateway:
    """An ASGI application for the paths of :func:`api_path`."""

    def __init__(
        self,
        relay: Relay,
        images: Images,
        chat: Chat,
        settings: Settings,
        keys: Keys,
        metrics: Metrics,
        names: Names,
    ) -> None:
        self._relay = relay
        self._images = images
        self._chat = chat
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._names = names
        self._at_once = AtOnce(settings.max_requests)
        self._running = Running()
        self._lines: list[str] = []
        # The engine has many more paths; some load code or stop it. Nothing else is passed on.
        self._routes: Mapping[str, tuple[str, Handler]] = {
            "/models": ("GET", self._models),
            "/chat/completions": ("POST", self._chat_completions),
            "/responses": ("POST", self._responses),
            "/messages": ("POST", self._messages),
            "/messages/count_tokens": ("POST", self._count_tokens),
            "/completions": ("POST", self._completions),
            "/tokenize": ("POST", self._tokenize),
            "/images/inspect": ("POST", self._inspect),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, send)
        self._metrics.running += 1
        try:
            self._allow_origin(scope, exchange)
            if scope["method"] == "OPTIONS" and exchange.foreign:
                await exchange.send_empty(204, *PREFLIGHT)
            else:
                await self._answer(scope, receive, exchange)
        except ApiError as error:
            await exchange.send_error(error)
        except ClientGoneError:
            exchange.code = "client_gone"
        except UnfinishedAnswerError as error:
            exchange.code = str(error)
            raise  # the server then breaks the connection off
        except asyncio.CancelledError:
            if not self._running.ended:
                raise
            await self._give_up(exchange)
        except Exception as error:  # nobody expected it: reported here, and the service goes on
            if exchange.status:
                exchange.code = "internal_error"
                raise  # the server breaks the connection off, so that it does not look complete
            logger.exception("%s", exchange.path)
            await exchange.send_error(unexpected(error))
        finally:
            if not exchange.status:
                exchange.code = exchange.code or "client_gone"
            self._metrics.running -= 1
            self._metrics.note(exchange)
            self._log(exchange)

    async def drain(self, patience_s: float) -> None:
        """Refuse what comes from now on; what runs may go on for so many seconds, or until
        :meth:`hurry`. The rest is ended, and told so.
        """
        await self._running.close(patience_s)
        self._relay.stop()
        self._running.end()

    def hurry(self) -> None:
        """Wait no longer for what runs."""
        self._running.hurry()

    @staticmethod
    async def _give_up(exchange: Exchange) -> None:
        """End an exchange that was cancelled by :meth:`drain`."""
        if not exchange.status or exchange.padded:
            await exchange.send_error(shutting_down(), CLOSE)
        else:
            # In the midst of an answer that its client does not read. The server sees that it is
            # not complete, and breaks the connection off.
            exchange.code = shutting_down().code

    def _log(self, exchange: Exchange) -> None:
        """A line in the form of the log's others; logging itself would take four times as long.
        Lines of the same moment are written together.
        """
        self._lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} INFO {exchange}\n")
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(LOG_DELAY_S, self.write_log)

    def write_log(self) -> None:
        """Write the lines that wait."""
        lines = "".join(self._lines)
        self._lines.clear()
        with contextlib.suppress(OSError, ValueError):  # a full disk is no reason to fail
            sys.stdout.write(lines)

    def _allow_origin(self, scope: Scope, exchange: Exchange) -> None:
        """Pages of other origins may read answers only where the operator has named them."""
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
        if origin is not None and origin.decode("latin-1") in self._settings.cors_origins:
            exchange.foreign = True
            exchange.headers += [(b"access-control-allow-origin", origin), *EXPOSED]

    async def _answer(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        path = _path_of(scope)
        if path not in self._routes:
            raise not_found(scope["path"])
        exchange.path = path
        if path.startswith("/messages"):
            exchange.error_body = messages.error_body
        method, handler = self._routes[path]
        if scope["method"] != method and (scope["method"], method) != ("HEAD", "GET"):
            raise method_not_allowed(method)
        caller = self._keys.caller(scope["headers"], exchange.client)
        if caller:
            exchange.key = caller.name
            caller.admit()
        if self._settings.sessions:
            given = (value for name, value in scope["headers"] if name == SESSION)
            exchange.session = next(given, b"")
        try:
            await self._handle(scope, receive, exchange, handler)
        finally:
            if caller:
                caller.used(exchange.prompt_tokens + exchange.completion_tokens)

    async def _handle(
        self, scope: Scope, receive: Receive, exchange: Exchange, handler: Handler
    ) -> None:
        with self._running:
            try:
                if self._running.closed:
                    raise shutting_down()
                body = await read_body(receive, scope, self._settings.max_request_mb)
            except ApiError as error:
                await self._refuse(error, receive, exchange)
                return
            exchange.bytes_in = len(body)
            with self._at_once:  # not before: bodies that come slowly would hold the places
                work = handler(body, exchange)
                del body  # not to be kept in memory for as long as the answer takes
                await unless(partial(until_gone, receive), work)

    @staticmethod
    async def _refuse(error: ApiError, receive: Receive, exchange: Exchange) -> None:
        """Answer a request whose body was not read to its end."""
        body = await exchange.begin_error(error, CLOSE)
        await exchange.send({"type": "http.response.body", "body": body, "more_body": True})
        await linger(receive)
        await exchange.send({"type": "http.response.body", "body": b""})

    async def _chat_completions(self, body: bytes, exchange: Exchange) -> None:
        document, size = parsed(body), len(body)
        del body  # as above
        await self._answer_chat(document, size, exchange, Form())

    async def _responses(self, body: bytes, exchange: Exchange) -> None:
        document, size = parsed(body), len(body)
        del body  # as above
        kept, document = responses.remembered(document), responses.to_chat(document)
        form = Form(
            lambda answer: responses.from_chat(answer, kept),
            lambda: responses.ResponseEvents(kept).feed,
        )
        await self._answer_chat(document, size, exchange, form)

    async def _messages(self, body: bytes, exchange: Exchange) -> None:
        document, size = parsed(body), len(body)
        del body  # as above
        kept, document = messages.remembered(document), messages.to_chat(document)
        form = Form(
            lambda answer: messages.from_chat(answer, kept),
            lambda: messages.MessageEvents(kept).feed,
            lambda answer, status: messages.error_document(failure(answer, status)),
        )
        await self._answer_chat(document, size, exchange, form)

    async def _answer_chat(
        self, document: dict[str, Any], size: int, exchange: Exchange, form: Form
    ) -> None:
        """A chat in whatever form. What is not streamed may take long in silence."""
        if not self._settings.json_keep_alive or document.get("stream"):
            await self._chat.answer(document, size, exchange, form)
            return
        async with exchange.kept_alive(self._settings.keep_alive_s):
            await self._chat.answer(document, size, exchange, form)

    async def _completions(self, body: bytes, exchange: Exchange) -> None:
        document = parsed(body)
        check_fields("/completions", document)
        self._names.put_in(document)
        session = exchange.session_for(document)
        if not document.get("stream"):
            body = encoded(document)
            async with await self._relay.open("POST", TEXT_PATH, body, session) as response:
                answer = await self._relay.read_json(response)
            if is_lost(answer.get("error")):
                raise engine_lost()
            exchange.count(answer.get("usage"))
            await exchange.send_json(encoded(answer), response.status)
            return
        options = document.get("stream_options") or {}
        document["stream_options"] = options | {"include_usage": True}
        events = TextEvents(usage=bool(options.get("include_usage")))
        body = encoded(document)
        try:
            error = await self._relay.forward(TEXT_PATH, body, session, exchange.send, events)
            exchange.code = error.code if error else ""
        finally:
            exchange.count(events.used)

    async def _tokenize(self, body: bytes, exchange: Exchange) -> None:
        document = parsed(body)
        check_fields("/tokenize", document)
        answer, status = await self._chat.tokenize(document)
        await exchange.send_json(encoded(answer), status)

    async def _count_tokens(self, body: bytes, exchange: Exchange) -> None:
        answer, status = await self._chat.tokenize(messages.to_count(parsed(body)))
        if status != 200:
            raise failure(answer, status)
        await exchange.send_json(encoded({"input_tokens": answer["count"]}))

    async def _inspect(self, body: bytes, exchange: Exchange) -> None:
        await exchange.send_json(await self._images.inspect(body))

    async def _models(self, _body: bytes, exchange: Exchange) -> None:
        """The engine's list; a demo checkpoint says that it is one."""
        listing = await self._relay.fetch_json("/v1/models")
        models = self._names.listed(listing["data"])
        names = [(model, ending) for model in models for ending in ("", *ALIASES)]
        listing["data"] = [model | {"id": model["id"] + ending} for model, ending in names]
        for model in listing["data"]:
            model["root"] = model["id"]  # the engine tells the folder on this machine
            if self._settings.notice:
                model["description"] = self._settings.notice
        await exchange.send_json(orjson.dumps(listing))


def _path_of(scope: Scope) -> str:
    """Of a request, as it was sent: a %2F or a .. in it must not become a route."""
    raw = scope.get("raw_path") or scope["path"].encode()
    return api_path(raw.decode("latin-1").partition("?")[0]) or ""
