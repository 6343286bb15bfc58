"""Pages of a PDF as pictures for a question; :mod:`webui.pdf_pages` makes them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS = 60
MAX_PAGES = 64  # as many pictures as a request may have

_PAGE = re.compile(r"(.+)-page-(\d+)-of-(\d+)\.(?:png|jpg)")


class PdfError(Exception):
    """No page was made. ``code`` says why: see :mod:`webui.chat.words`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Job:
    """``wanted`` are pages as people write them, ``1-3, 8``; empty for all. At most so many of them
    are made as fit ``tokens`` and ``most``."""

    wanted: str
    tokens: int
    most: int = MAX_PAGES


@dataclass(frozen=True)
class Pages:
    """Files of the pages that were made, in order; ``left_out`` more were wanted."""

    files: tuple[str, ...]
    left_out: int


async def pages_of(pdf: Path, folder: Path, job: Job) -> Pages:
    """Make pictures of a PDF's pages.

    Args:
        folder: for the pictures; it is made.

    Raises:
        PdfError: the file is no PDF, is locked, has no such page, or takes too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "webui.pdf_pages",
        str(pdf.resolve()),
        str(folder.resolve()),
        json.dumps(asdict(job)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SECONDS):
            told, _ = await process.communicate()
    except TimeoutError:
        raise PdfError("pdf_slow") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        document = json.loads(told)
    except ValueError:  # it crashed
        raise PdfError("pdf_broken") from None
    if code := document.get("error"):
        raise PdfError(code)
    return Pages(tuple(document["files"]), document["left_out"])


def page_label(path: Path) -> str:
    """What a page's picture is called for the model: ``report, page 3 of 12``; empty for other
    pictures."""
    found = _PAGE.fullmatch(path.name)
    return f"{found[1]}, page {found[2]} of {found[3]}" if found else ""
