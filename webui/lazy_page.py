"""Serve the page before its library is imported.

gradio takes seconds to import, more on a machine that is busy loading a model. Until then visitors
get a small page that reloads itself; the API does not wait for gradio at all.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from fastapi import FastAPI
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from webui.gateway.relay import unless

logger = logging.getLogger(__name__)

WAITING = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="1">
<title>STEP3-VL</title>
<style>body{font:16px system-ui;margin:20vh auto;width:22em;text-align:center}</style>
<h1>STEP3-VL</h1><p>The page is starting. It appears here by itself in a few seconds.</p></html>
"""
BROKEN = WAITING.replace("The page is starting. It appears here by itself in a few seconds.", "{}")

# gradio would fetch URLs for anyone who asks for a "file" with one of these.
FORBIDDEN = ("/gradio_api/file=http", "/gradio_api/proxy=", "/file=http", "/proxy=")


def _leave_to_rest() -> None:
    """Do not search gradio's half a million objects for garbage during requests; they stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


class LazyPage:
    """An ASGI application that builds another one in a thread and then becomes it."""

    def __init__(self, build: Callable[[], FastAPI]) -> None:
        self._build = build
        self._app: FastAPI | None = None
        self._problem: str | None = None
        self._closing = asyncio.Event()

    async def run(self) -> None:
        """Build the page, then keep its lifespan open until cancelled."""
        async with AsyncExitStack() as stack:
            try:
                app = await asyncio.to_thread(self._build)
                await stack.enter_async_context(app.router.lifespan_context(app))
            except Exception as error:
                logger.exception("the page could not be built")
                self._problem = f"The page could not start ({type(error).__name__}); see its log."
                return
            self._app = app
            _leave_to_rest()
            await self._closing.wait()

    def close(self) -> None:
        """End open page connections: a browser tab holds one for as long as it is open."""
        self._closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(FORBIDDEN):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        elif self._app is not None:
            await unless(self._closing.wait(), self._app(scope, receive, send))
        elif self._problem is not None:
            await HTMLResponse(BROKEN.replace("{}", self._problem), 500)(scope, receive, send)
        elif scope["path"] in {"", "/"} and scope["method"] in {"GET", "HEAD"}:
            await HTMLResponse(WAITING)(scope, receive, send)
        else:
            headers = {"retry-after": "2"}
            await PlainTextResponse("The page is starting.", 503, headers)(scope, receive, send)
