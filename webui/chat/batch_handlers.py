"""Between gradio's values and batches."""

from __future__ import annotations

import asyncio
import html
import math
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from webui.batch.work import BatchError
from webui.chat.batches import Batches, Question, Snapshot
from webui.chat.handlers import visitor_of
from webui.chat.options import Options
from webui.chat.words import text
from webui.client.tasks import Language, Task
from webui.guarded_page import OWNER_COOKIE

SHOWN = 200
SHOWN_LETTERS = 1000


class BatchHandlers:
    """What is returned goes to components, in the order that page.py names.

    Args:
        folder: for files to be downloaded. What lies there is deleted in time: see guarded_page.
    """

    def __init__(
        self, batches: Batches, model: str, tasks: Mapping[str, Task], folder: Path
    ) -> None:
        self._batches = batches
        self._folder = folder
        self._model = model
        self._tasks = tasks

    async def opened(self, request: gr.Request) -> tuple[Any, ...]:
        """Outputs: timer, folders, and what :meth:`look` has."""
        found = await asyncio.to_thread(self._batches.folders)
        names = [(text("batch_own", visitor_of(request).language), ""), *((n, n) for n in found)]
        folders = gr.Dropdown(choices=names, visible=bool(found))
        return gr.Timer(active=True), folders, *await self.look(request)

    def closed(self) -> Any:
        """Outputs: timer."""
        return gr.Timer(active=False)

    def take_task(self, request: gr.Request, name: str) -> Any:
        """Outputs: the question."""
        task = self._tasks.get(name)
        return task.text(visitor_of(request).language) if task else gr.skip()

    async def start(
        self,
        request: gr.Request,
        files: list[str] | None,
        task: str,
        words: str,
        thinking: Any,
        at_once: int,
        folder: str | None,
    ) -> tuple[Any, ...]:
        """Outputs: the files, and what :meth:`look` has."""
        visitor, owner = visitor_of(request), request.cookies.get(OWNER_COOKIE, "")
        if not owner or not (files or folder) or not words.strip():
            name = "batch_need" if owner else "batch_no_cookie"
            gr.Warning(text(name, visitor.language))
            return gr.skip(), *await self.look(request)
        asked = self._tasks.get(task)
        options = Options.of_task(asked)
        fields = Options(**{**vars(options), "thinking": thinking}).fields(asked)
        own = {"thinking": fields.pop("thinking")}
        question = Question(
            words.strip(),
            {"model": self._model, **fields, "extra_body": own},
            at_once,
            folder or "",
        )
        try:
            own_files = [] if folder else [Path(file) for file in files or ()]
            await self._batches.start(owner, own_files, question, visitor.key)
        except BatchError as error:
            gr.Warning(text("batch_problem", visitor.language, why=error))
            return gr.skip(), *await self.look(request)
        return None, *await self.look(request)

    async def go_on(self, request: gr.Request) -> tuple[Any, ...]:
        """Outputs: as :meth:`look`."""
        visitor, owner = visitor_of(request), request.cookies.get(OWNER_COOKIE, "")
        try:
            await self._batches.go_on(owner, visitor.key)
        except BatchError as error:
            gr.Warning(text("batch_problem", visitor.language, why=error))
        return await self.look(request)

    async def stop(self, request: gr.Request) -> tuple[Any, ...]:
        """Outputs: as :meth:`look`."""
        await self._batches.stop(request.cookies.get(OWNER_COOKIE, ""))
        return await self.look(request)

    async def look(self, request: gr.Request) -> tuple[Any, ...]:
        """Outputs: how far it is; results; the buttons Begin, Stop and Go on."""
        found = await self._batches.look(request.cookies.get(OWNER_COOKIE, ""))
        language = visitor_of(request).language
        is_running = found is not None and found.is_running
        can_go_on = found is not None and not is_running and found.progress.rest > 0
        return (
            _progress(found, language) if found else "",
            _table(found, language) if found else gr.skip(),
            gr.Button(interactive=not is_running),
            gr.Button(interactive=is_running),
            gr.Button(interactive=can_go_on),
        )

    async def csv(self, request: gr.Request) -> str | None:
        """Outputs: the file."""
        return await self._file(request, 0)

    async def jsonl(self, request: gr.Request) -> str | None:
        """Outputs: the file."""
        return await self._file(request, 1)

    async def _file(self, request: gr.Request, which: int) -> str | None:
        files = await self._batches.files(request.cookies.get(OWNER_COOKIE, ""))
        if files is None:
            gr.Warning(text("nothing_to_save", visitor_of(request).language))
            return None
        copy = self._folder / f"saved-{secrets.token_hex(16)}" / files[which].name
        await asyncio.to_thread(_copied, files[which], copy)
        return str(copy)


def _copied(file: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True)
    shutil.copyfile(file, copy)


def _progress(found: Snapshot, language: Language) -> str:
    progress = found.progress
    words = text(
        "batch_progress",
        language,
        done=progress.done,
        total=progress.total,
        failed=progress.failed,
    )
    left = progress.left_s
    if found.is_running and left is not None:
        words += text("batch_left", language, minutes=math.ceil(left / 60))
    if found.problem:
        words += " – " + text("batch_problem", language, why=found.problem)
    share = (progress.done + progress.failed) / progress.total if progress.total else 0.0
    shown = html.escape(words)
    return f'<progress value="{share:.3f}" aria-label="{shown}"></progress><p>{shown}</p>'


def _table(found: Snapshot, language: Language) -> dict[str, Any]:
    """The last results; all of them are in the files."""
    names = ("batch_file", "batch_answer", "batch_error")
    cells = [
        [result.file, result.answer[:SHOWN_LETTERS], result.error]
        for result in found.results[-SHOWN:]
    ]
    return {"headers": [text(name, language) for name in names], "data": cells}
