"""What vLLM is given where it listens on a cluster's network: a key before every answer.

vLLM's own ``--api-key`` leaves several ways to the model open, such as ``/invocations``. This is in
front of all of them (``--middleware launcher.cluster_guard.RequireKey``). The machine itself needs
no key, as it needs none where the engine listens on 127.0.0.1.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

KEY_FILE = "STEP3VL_CLUSTER_KEY_FILE"
# The router asks for these without the caller's headers; they neither run the model nor tell
# anything of others.
OPEN = {"/health", "/tokenize", "/detokenize"}
BODY = json.dumps(
    {"error": {"message": "This engine wants its cluster's key.", "type": "authentication_error"}}
).encode()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def read_key(file: Path) -> str:
    """
    Raises:
        OSError: it is not there.
    """
    return file.read_text().strip()


def is_key(headers: Iterable[tuple[bytes, bytes]], key: str) -> bool:
    """Whether a request has the key."""
    given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
    return hmac.compare_digest(given, f"Bearer {key}".encode())


def is_from_here(client: str, server: str) -> bool:
    """Whether a connection comes from the machine that it leads to."""
    return client == server or client in {"127.0.0.1", "::1"}


class RequireKey:
    """ASGI middleware."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = read_key(Path(os.environ[KEY_FILE]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": BODY})

    def _may_pass(self, scope: Scope) -> bool:
        client, server = scope.get("client") or ("", 0), scope.get("server") or ("-", 0)
        if any(name == b"authorization" for name, _ in scope["headers"]):
            # One with another key is told so everywhere: else it would be taken for one of ours.
            return is_key(scope["headers"], self._key)
        return scope["path"] in OPEN or is_from_here(client[0], server[0])
