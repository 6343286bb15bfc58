"""What the page's library is kept from doing for visitors."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from support import png


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With the question field as its first input."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    import gradio as gr
    from gradio.context import LocalContext

    from webui.chat.page import Service, build_page
    from webui.chat.session import ChatSession
    from webui.chat.status_handlers import StatusHandlers
    from webui.chat.words import translations
    from webui.client.tasks import Words
    from webui.settings import Settings

    session: ChatSession = object.__new__(ChatSession)  # nothing of it is called
    session.tasks, session.history, session.model = {}, None, "one"
    service = Service(object.__new__(StatusHandlers), None)
    page = build_page(session, service, Settings(), gr.I18n(**translations({}, Words("", ""))))
    token = LocalContext.blocks.set(page)
    yield page
    LocalContext.blocks.reset(token)


def taken(page: Any, path: str) -> None:
    """As the question's picture."""
    from gradio.processing_utils import async_move_files_to_cache

    [field] = [b for b in page.blocks.values() if b.elem_id == "question"]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    asyncio.run(async_move_files_to_cache({"files": [file]}, field, check_in_upload_folder=True))


@pytest.mark.fault(23, "a picture that was not uploaded never reaches the engine")
@pytest.mark.parametrize("address", ["https://example.com/x.png", "http://192.0.2.1/x.png"])
def test_no_address_is_fetched(page: Any, address: str) -> None:
    """Not even a public one: it would be this machine that calls."""
    with pytest.raises(Exception, match="Attach the picture itself"):
        taken(page, address)


@pytest.mark.fault(23, "a picture that was not uploaded never reaches the engine")
def test_only_what_was_uploaded_is_taken(page: Any, tmp_path: Path) -> None:
    """A picture elsewhere on this machine is somebody's own."""
    uploads = tmp_path / "uploads" / "a"
    uploads.mkdir(parents=True)
    for folder in (tmp_path, uploads):
        (folder / "x.png").write_bytes(png(8, 8, "red"))
    taken(page, str(uploads / "x.png"))
    for path in (tmp_path / "x.png", Path(os.devnull), uploads / ".." / ".." / "x.png"):
        with pytest.raises(Exception, match="not uploaded by a user"):
            taken(page, str(path))
