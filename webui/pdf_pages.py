"""Pages of a PDF as pictures, under a budget of the model's tokens.

A PDF comes from anybody, and its reader is a large program in C++: it runs in a process of its own,
with limits on memory and time.

    python -m webui.pdf_pages FILE FOLDER JOB
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pypdfium2
from PIL import Image

from webui.chat.pdf import SECONDS, Job, Pages, PdfError
from webui.pictures import MAX_PNG_BYTES, cost_of

MEMORY_BYTES = 2_000_000_000
# A page's longer side in pixels: as sharp as the budget allows. The least sharp is not cut into
# crops.
SIDES = (2016, 1512, 1008, 720)

_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:[-–~]\s*(\d{1,6})\s*)?")


def page_numbers(wanted: str, count: int) -> list[int]:
    """Of a document with so many pages; the first is 1.

    Raises:
        PdfError: that is no list of pages, or none of them is there.
    """
    if not wanted.strip():
        return [*range(1, count + 1)]
    numbers: dict[int, None] = {}
    for item in re.split("[,，;；]", wanted):
        found = _RANGE.fullmatch(item)
        if found is None:
            raise PdfError("pdf_pages")
        first, last = int(found[1]), int(found[2] or found[1])
        numbers |= dict.fromkeys(range(max(1, first), min(last, count) + 1))
    if not numbers:
        raise PdfError("pdf_pages")
    return [*numbers]


def fitting(sizes: Sequence[tuple[float, float]], tokens: int) -> tuple[int, int]:
    """The longer side, in pixels, with which these pages fit the budget, and how many of them do:
    all, or as many as fit with the shortest, but one at least.

    Args:
        sizes: width and height of each page, in any unit.
    """
    for side in SIDES:
        if sum(_tokens(size, side) for size in sizes) <= tokens:
            return side, len(sizes)
    count = used = 0
    for size in sizes:
        used += _tokens(size, SIDES[-1])
        if used > tokens:
            break
        count += 1
    return SIDES[-1], max(1, count)


def _tokens(size: tuple[float, float], side: int) -> int:
    return cost_of(*_pixels(size, side)).tokens


def _pixels(size: tuple[float, float], side: int) -> tuple[int, int]:
    scale = side / max(*size, 1)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def render(pdf: Path, folder: Path, job: Job) -> Pages:
    """As :func:`webui.chat.pdf.pages_of`, in this process."""
    try:
        document = pypdfium2.PdfDocument(pdf)
    except pypdfium2.PdfiumError as error:
        raise PdfError("pdf_locked" if "assword" in str(error) else "pdf_broken") from None
    count = len(document)
    if not count:
        raise PdfError("pdf_broken")
    wanted = page_numbers(job.wanted, count)
    numbers = wanted[: max(1, job.most)]
    side, fits = fitting([document.get_page_size(n - 1) for n in numbers], job.tokens)
    stem = re.sub(r"[^\w-]+", "-", pdf.stem)[:40].strip("-") or "document"
    files = []
    for number in numbers[:fits]:
        page = document[number - 1]
        image = page.render(scale=side / max(*page.get_size(), 1)).to_pil().convert("RGB")
        files.append(str(_saved(image, folder / f"{stem}-page-{number}-of-{count}.png")))
    return Pages(tuple(files), len(wanted) - len(files))


def _saved(image: Image.Image, path: Path) -> Path:
    """Letters stay sharp as PNG; what was scanned would be large."""
    image.save(path)
    if path.stat().st_size > MAX_PNG_BYTES:
        path.unlink()
        path = path.with_suffix(".jpg")
        image.save(path, quality=90)
    return path


def main(pdf: str, folder: str, job: str) -> int:
    """Print what was made, or why not, as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        told = asdict(render(Path(pdf), Path(folder), Job(**json.loads(job))))
    except PdfError as error:
        told = {"error": error.code}
    except (pypdfium2.PdfiumError, MemoryError):
        told = {"error": "pdf_broken"}
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
