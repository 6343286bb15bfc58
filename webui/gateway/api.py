"""The routes of the OpenAI API: what is offered, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from uuid import uuid4

from starlette.types import Message, Receive, Scope, Send

from webui.gateway.chat import Chat
from webui.gateway.documents import encoded, parsed
from webui.gateway.errors import ApiError, method_not_allowed, not_found, send_error
from webui.gateway.fields import check_fields
from webui.gateway.images import Images
from webui.gateway.relay import (
    ClientGoneError,
    Relay,
    read_body,
    refuse_unread,
    send_json,
    unless,
    until_gone,
)
from webui.gateway.thinking import ALIASES
from webui.settings import Settings

PREFIXES = ("/api/v1", "/v1")

# The engine has many more paths; some load code or stop it. Nothing else is passed on.
ROUTES: Mapping[str, str] = {
    "/models": "GET",
    "/chat/completions": "POST",
    "/completions": "POST",
    "/images/inspect": "POST",
}


REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def api_path(path: str) -> str | None:
    """The part after ``/api/v1`` or ``/v1``; None for a path that is not the API's."""
    for prefix in PREFIXES:
        if path == prefix or path.startswith(f"{prefix}/"):
            return path[len(prefix) :] or "/"
    return None


class Gateway:
    """An ASGI application for the paths of :func:`api_path`."""

    def __init__(self, relay: Relay, images: Images, settings: Settings) -> None:
        self._relay = relay
        self._images = images
        self._settings = settings
        self._chat = Chat(relay, images, settings.thinking)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = with_request_id(scope, send)
        try:
            await self._answer(scope, receive, send)
        except ApiError as error:
            await send_error(send, error)
        except ClientGoneError:
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _offered_path(scope)
        if path == "/models":
            await unless(until_gone(receive), self._send_models(send))
            return
        try:
            body = await read_body(receive, scope, self._settings.max_request_mb)
        except ApiError as error:
            await refuse_unread(receive, send, error)
            return
        work = self._forward(path, body, send)
        del body  # not to be kept in memory for as long as the answer takes
        await unless(until_gone(receive), work)

    async def _forward(self, path: str, body: bytes, send: Send) -> None:
        if path == "/images/inspect":
            await send_json(send, await self._images.inspect(body))
            return
        if path == "/chat/completions":
            work = self._chat.answer(body, send)
        else:
            document = parsed(body)
            body = encoded(document) if check_fields(path, document) else body
            work = self._relay.forward("POST", f"/v1{path}", body, send)
        del body  # as above
        await work

    async def _send_models(self, send: Send) -> None:
        """The engine's list; a demo checkpoint says that it is one."""
        listing = await self._relay.fetch_json("/v1/models")
        names = [(model, ending) for model in listing["data"] for ending in ("", *ALIASES)]
        listing["data"] = [model | {"id": model["id"] + ending} for model, ending in names]
        for model in listing["data"]:
            model["root"] = model["id"]  # the engine tells the folder on this machine
            if self._settings.notice:
                model["description"] = self._settings.notice
        await send_json(send, json.dumps(listing, ensure_ascii=False).encode())


def with_request_id(scope: Scope, send: Send) -> Send:
    """Name the answer, so that it can be spoken of: by the client's ``X-Request-Id``, or anew."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    name = given if REQUEST_ID.fullmatch(given) else uuid4().hex.encode()

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", name)]
        await send(message)

    return send_named


def _offered_path(scope: Scope) -> str:
    """The route of a request.

    Raises:
        ApiError: there is no such route, or not with this method.
    """
    # The raw path: a %2F or a .. in it must not become a route that the list does not name.
    raw = scope.get("raw_path") or scope["path"].encode()
    path = api_path(raw.decode("latin-1").partition("?")[0])
    if path is None or path not in ROUTES:
        raise not_found(scope["path"])
    allowed = ROUTES[path]
    if scope["method"] != allowed and (scope["method"], allowed) != ("HEAD", "GET"):
        raise method_not_allowed(allowed)
    return path
