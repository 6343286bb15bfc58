"""Between gradio's values and the history's: the list of conversations, and what is done there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import gradio as gr

from webui.chat.conversation import Conversation
from webui.chat.desk import Desk
from webui.chat.handlers import NO_KEY, shown_of, visitor_of
from webui.chat.history import History, HistoryError, title_of
from webui.chat.words import HISTORY
from webui.guarded_page import OWNER_COOKIE

logger = logging.getLogger(__name__)

OPEN = "● "

T = TypeVar("T")


class HistoryHandlers:
    """What is returned goes to components, in the order that page.py names. A visitor whose browser
    keeps no cookie has no history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._saving: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def opened(self, request: gr.Request, key: str, desk: Desk) -> tuple[Any, ...]:
        """The page has been loaded: show the list, and the conversation that was open. Outputs of
        this and the next: list, chatbot with its button and key."""
        if key != NO_KEY and desk.is_untouched:
            found = await self._try(request, self._history.load, key, quiet=True)
            if desk.is_untouched:  # still: a question may have come meanwhile
                desk.put(found or Conversation())
        return await self._shown(request, desk)

    async def chosen(self, request: gr.Request, key: str, desk: Desk) -> tuple[Any, ...]:
        """Open another one; the one before stays where it cannot be."""
        found = await self._try(request, self._history.load, key)
        if found is not None:
            await self.put_away(request, desk.put(found))
        return await self._shown(request, desk)

    async def keep(self, request: gr.Request, desk: Desk, words: str) -> Any:
        """Of a talk in which something has changed. Outputs: list."""
        await self.put_away(request, desk.talk)
        return await self._listing(request, desk.talk.key, words)

    async def put_away(self, request: gr.Request, talk: Conversation) -> None:
        """Keep it as it is, also in the middle of an answer."""
        if talk.key:
            async with self._lock_of(talk.key):
                await self._try(request, self._history.save, talk)

    async def title(self, request: gr.Request, talk: Conversation) -> str:
        """Of a talk that may be kept."""
        title = await self._try(request, self._history.title, talk.key, quiet=True)
        return title or title_of(talk)

    async def add(self, request: gr.Request, talk: Conversation, title: str) -> None:
        """One that comes from elsewhere."""
        await self.put_away(request, talk)
        if title:
            await self._try(request, self._history.rename, talk.key, title, quiet=True)

    async def rename(
        self, request: gr.Request, title: str, desk: Desk, words: str
    ) -> tuple[Any, ...]:
        """Outputs: list, field for the title."""
        if desk.talk.turns and title.strip():
            await self._try(request, self._history.rename, desk.talk.key, title)
        return await self._listing(request, desk.talk.key, words), ""

    async def delete(self, request: gr.Request, desk: Desk, words: str) -> tuple[Any, ...]:
        """The one that is open. Outputs: list, chatbot with its button and key."""
        deleted = desk.put(Conversation())
        if deleted.turns:
            async with self._lock_of(deleted.key):
                await self._try(request, self._history.delete, deleted.key)
        return await self._shown(request, desk, words)

    async def search(self, request: gr.Request, words: str, desk: Desk) -> Any:
        """Outputs: list."""
        return await self._listing(request, desk.talk.key, words)

    async def _shown(self, request: gr.Request, desk: Desk, words: str = "") -> tuple[Any, ...]:
        listing = await self._listing(request, desk.talk.key, words)
        return listing, *shown_of(request, desk)

    def _lock_of(self, key: str) -> asyncio.Lock:
        """Threads end in any order, and what is put away later is newer."""
        return self._saving.setdefault(key, asyncio.Lock())

    async def _listing(self, request: gr.Request, key: str, words: str = "") -> Any:
        entries = await self._try(request, self._history.entries, words[:200]) or []
        choices = [
            (f"{OPEN if entry.id == key else ''}{entry.title or '…'}", entry.id)
            for entry in entries
        ]
        # Nothing is chosen, so that a click is always a choice.
        return gr.Radio(choices=choices, value=None)

    async def _try(
        self, request: gr.Request, do: Callable[..., T], *values: Any, quiet: bool = False
    ) -> T | None:
        """None where it cannot be done, which the visitor is told."""
        owner = request.cookies.get(OWNER_COOKIE, "")
        if not owner:
            return None
        try:
            return await asyncio.to_thread(do, owner, *values)
        except HistoryError as error:
            if error.__cause__ is not None:
                logger.warning("history: %s: %s", error.code, error.__cause__)
            if not quiet:
                gr.Warning(HISTORY[error.code].of(visitor_of(request).language))
            return None
