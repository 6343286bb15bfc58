"""Between gradio's values and files: a talk is saved, and one that was saved is opened."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import gradio as gr

from webui.chat.desk import Desk
from webui.chat.files import FileError, file_name, read_json, write_json, write_markdown
from webui.chat.handlers import shown_of, visitor_of
from webui.chat.history import title_of
from webui.chat.history_handlers import HistoryHandlers
from webui.chat.words import FILES, text


class FileHandlers:
    """What is returned goes to components, in the order that page.py names.

    Args:
        model: the name under which its answers stand.
        folder: for files to be downloaded. What lies there is deleted in time: see guarded_page.
        history: which knows titles; None where conversations are not kept.
    """

    def __init__(self, model: str, folder: Path, history: HistoryHandlers | None) -> None:
        self._model = model
        self._folder = folder
        self._history = history

    async def save_json(self, request: gr.Request, desk: Desk) -> str | None:
        """Outputs: the file."""
        return await self._saved(request, desk, ".json")

    async def save_markdown(self, request: gr.Request, desk: Desk) -> str | None:
        """Outputs: the file."""
        return await self._saved(request, desk, ".zip")

    async def _saved(self, request: gr.Request, desk: Desk, ending: str) -> str | None:
        talk, language = desk.talk, visitor_of(request).language
        if not talk.turns:
            gr.Warning(text("nothing_to_save", language))
            return None
        title = await self._history.title(request, talk) if self._history else title_of(talk)
        folder = self._folder / f"saved-{secrets.token_hex(16)}"
        folder.mkdir(parents=True)
        path = folder / f"{file_name(title)}{ending}"
        if ending == ".json":
            await asyncio.to_thread(write_json, talk, title, path)
        else:
            await asyncio.to_thread(write_markdown, talk, title, self._model, language, path)
        return str(path)

    async def open(self, request: gr.Request, path: str, desk: Desk) -> tuple[Any, ...]:
        """The talk of a file, as a new one. Outputs: chatbot with its button and key."""
        language = visitor_of(request).language
        try:
            talk, title = await asyncio.to_thread(read_json, Path(path), self._folder)
        except FileError as error:
            gr.Warning(FILES[error.code].of(language))
            return (gr.skip(),) * 3
        before = desk.put(talk)
        if self._history is not None:
            await self._history.put_away(request, before)
            await self._history.add(request, talk, title)
        return shown_of(request, desk)
