"""Between gradio's values and what is added to the pictures: more of them, and PDFs."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import gradio as gr

from webui.chat.handlers import (
    Draft,
    Gallery,
    Picture,
    order_and_cost,
    picture_tokens,
    visitor_of,
)
from webui.chat.pdf import MAX_PAGES, Job, PdfError, pages_of
from webui.chat.session import ChatSession, Visitor
from webui.chat.words import PDFS, text

# Of the model's context; the rest is for the talk and the answer.
SHARE_OF_CONTEXT = 0.5
USUAL_CONTEXT = 32_768


class PdfHandlers:
    """What is returned goes to components, in the order that page.py names.

    Args:
        folder: for the pages. What lies there is deleted in time: see guarded_page.
    """

    def __init__(self, session: ChatSession, folder: Path) -> None:
        self._session = session
        self._folder = folder

    async def add(
        self, request: gr.Request, paths: list[str], wanted: str, gallery: Gallery, draft: Draft
    ) -> tuple[Any, ...]:
        """Put pictures, and pages of PDFs, behind the pictures that are there. Outputs: field for
        the pages, gallery with its order and cost."""
        visitor, pictures = visitor_of(request), [*(gallery or [])]
        for path in map(Path, paths):
            if path.suffix.lower() != ".pdf":
                pictures.append((str(path), None))
                continue
            try:
                pictures += await self._pages(path, wanted, pictures, visitor)
            except PdfError as error:
                gr.Warning(PDFS[error.code].of(visitor.language))
        return "", pictures, *order_and_cost(pictures, visitor.language, draft["files"])

    async def _pages(
        self, path: Path, wanted: str, before: list[Picture], visitor: Visitor
    ) -> list[Picture]:
        context = await self._session.context_tokens(visitor) or USUAL_CONTEXT
        tokens = int(context * SHARE_OF_CONTEXT) - picture_tokens(before)
        folder = self._folder / f"pages-{secrets.token_hex(16)}"
        pages = await pages_of(path, folder, Job(wanted, tokens, MAX_PAGES - len(before)))
        if pages.left_out:
            added, left = len(pages.files), pages.left_out
            gr.Warning(text("pdf_left_out", visitor.language, added=added, left=left))
        return [(file, None) for file in pages.files]
