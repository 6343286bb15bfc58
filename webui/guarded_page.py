"""The page for those who may see it, and for no other site's scripts."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.gateway.errors import ApiError
from webui.gateway.keys import Keys


class GuardedPage:
    """Where keys are in use, the browser asks for one; the user's name does not matter.

    gradio answers any origin as if it were its own; those headers are taken out.
    """

    def __init__(self, page: ASGIApp, keys: Keys) -> None:
        self._page = page
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_home(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, value)
                    for name, value in message["headers"]
                    if not name.lower().startswith(b"access-control-")
                ]
            await send(message)

        try:
            self._keys.visitor(scope["headers"], (scope.get("client") or ("-", 0))[0])
        except ApiError as error:
            body, headers = error.response()
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._page(scope, receive, send_home)
