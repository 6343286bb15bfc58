"""Between gradio's values and the service itself: how it does, and what an admin may do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from webui.chat.control import ENGINE, Control, ControlError
from webui.chat.handlers import visitor_of
from webui.chat.status_view import charts
from webui.chat.vitals import Monitor
from webui.chat.words import text

logger = logging.getLogger(__name__)


class StatusHandlers:
    """What is returned goes to components, in the order that page.py names.

    Args:
        is_admin: whether somebody with this key may see logs and restart things.
    """

    def __init__(self, monitor: Monitor, control: Control, is_admin: Callable[[str], bool]) -> None:
        self._monitor = monitor
        self._control = control
        self._is_admin = is_admin

    async def opened(self, request: gr.Request) -> tuple[Any, ...]:
        """Outputs: timer, charts, what is for admins, what others are told instead."""
        is_admin = self._control.is_there and self._may(request)
        words = "" if is_admin else text("admins_only", visitor_of(request).language)
        shown = await self.charts(request)
        return gr.Timer(active=True), shown, gr.Column(visible=is_admin), words

    def closed(self) -> Any:
        """Outputs: timer."""
        return gr.Timer(active=False)

    async def charts(self, request: gr.Request) -> str:
        """The figures of the last minutes."""
        return charts(await self._monitor.look(), visitor_of(request).language)

    async def log(self, request: gr.Request, name: str) -> Any:
        """The end of the engine's log or the page's."""
        if not self._may(request):
            return gr.skip()
        name = ENGINE if name == ENGINE else self._control.page
        return await self._try(request, self._control.log, name)

    async def restart_engine(self, request: gr.Request) -> None:
        await self._restart(request, ENGINE)

    async def restart_page(self, request: gr.Request) -> None:
        await self._restart(request, self._control.page)

    async def _restart(self, request: gr.Request, name: str) -> None:
        if not self._may(request):
            return
        logger.info("%s is restarted from the page", name)
        gr.Info(text("restarting", visitor_of(request).language))
        await self._try(request, self._control.restart, name)

    def _may(self, request: gr.Request) -> bool:
        return self._is_admin(visitor_of(request).key)

    async def _try(self, request: gr.Request, do: Callable[[str], Any], name: str) -> Any:
        try:
            return await asyncio.to_thread(do, name)
        except ControlError as error:
            gr.Warning(text("no_control", visitor_of(request).language, why=error))
            return gr.skip()
