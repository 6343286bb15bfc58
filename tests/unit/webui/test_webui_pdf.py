"""webui.pdf_pages and webui.chat.pdf: pages of a PDF as pictures."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from PIL import Image

from webui.chat import pdf as pdf_module
from webui.chat.pdf import Job, PdfError, page_label, pages_of
from webui.chat.words import PDFS
from webui.pdf_pages import SIDES, fitting, page_numbers
from webui.pictures import cost_of, read_header

A4 = (595.0, 842.0)
# Encrypted, with a password that is not empty.
LOCKED = b"""%%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj
4 0 obj<</Filter/Standard/V 1/R 2/O<%s>/U<%s>/P -4>>endobj
trailer<</Root 1 0 R/Encrypt 4 0 R/ID[<00><00>]/Size 5>>
%%%%EOF""" % (b"41" * 32, b"42" * 32)


def pdf(path: Path, *colours: str, size: tuple[int, int] = (595, 842)) -> Path:
    """A page of each colour, in 1/72 inch."""
    pages = [Image.new("RGB", size, colour) for colour in colours]
    pages[0].save(path, save_all=True, append_images=pages[1:], resolution=72)
    return path


def made(path: Path, wanted: str = "", tokens: int = 100_000, most: int = 64) -> list[Path]:
    pages = asyncio.run(pages_of(path, path.parent / "out", Job(wanted, tokens, most)))
    return [Path(file) for file in pages.files]


def colour_of(path: Path) -> tuple[int, ...]:
    with Image.open(path) as image:
        colour = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(colour, tuple)
    return colour


def test_pages_become_pictures(tmp_path: Path) -> None:
    """In their order, as sharp as may be, and named for the model."""
    files = made(pdf(tmp_path / "my report.pdf", "red", "lime"))
    assert [path.name for path in files] == [
        "my-report-page-1-of-2.png",
        "my-report-page-2-of-2.png",
    ]
    assert [page_label(path) for path in files] == [
        "my-report, page 1 of 2",
        "my-report, page 2 of 2",
    ]
    first, second = map(colour_of, files)
    assert first[0] > 240 > 20 > first[1]
    assert second[1] > 240 > 20 > second[0]
    assert max(read_header(files[0], "x").shown) == SIDES[0]


def test_chosen_pages_come_as_they_are_chosen(tmp_path: Path) -> None:
    """And no others."""
    files = made(pdf(tmp_path / "a.pdf", "red", "lime", "blue"), "3, 1")
    assert [path.name for path in files] == ["a-page-3-of-3.png", "a-page-1-of-3.png"]


def test_the_budget_is_kept(tmp_path: Path) -> None:
    """First by less sharp pictures, then by fewer; what is left out is counted."""
    path, least = pdf(tmp_path / "a.pdf", *["red"] * 5), cost_of(509, 720).tokens
    for tokens, expected in ((100_000, 5), (5 * least, 5), (3 * least, 3), (1, 1)):
        pages = asyncio.run(pages_of(path, tmp_path / str(tokens), Job("", tokens)))
        assert len(pages.files) == expected
        assert pages.left_out == 5 - expected
        headers = [read_header(Path(file), "x") for file in pages.files]
        used = sum(cost_of(header.width, header.height).tokens for header in headers)
        assert used <= max(tokens, least)
    assert len(made(path, most=2)) == 2


@pytest.mark.parametrize("tokens", [0, 171, 500, 1000, 5000, 20_000])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_more_tokens_never_mean_less(tokens: int, count: int) -> None:
    """Neither pages nor sharpness."""
    (side, pages), (more_side, more_pages) = (
        fitting([A4] * count, budget) for budget in (tokens, tokens + 1000)
    )
    assert (pages, side) <= (more_pages, more_side)
    assert 1 <= pages <= count


@pytest.mark.parametrize("size", [(1, 14_000), (14_000, 1), (14_000, 14_000), (3, 3)])
def test_a_page_of_any_size_has_a_bounded_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    """A file of a few bytes may say that a page is a football field."""
    path = tmp_path / "a.pdf"
    path.write_bytes(
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]>>endobj\n"
        b"trailer<</Root 1 0 R/Size 4>>\n%%%%EOF" % size
    )
    with Image.open(made(path)[0]) as image:
        assert max(image.size) <= SIDES[0]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", [1, 2, 3, 4, 5]),
        (" 2 ", [2]),
        ("2-4", [2, 3, 4]),
        ("4–5，1", [4, 5, 1]),
        ("1-3,2-4", [1, 2, 3, 4]),
        ("4-999999", [4, 5]),
        ("0-1", [1]),
    ],
)
def test_pages_are_written_as_people_do(wanted: str, expected: list[int]) -> None:
    """Of five."""
    assert page_numbers(wanted, 5) == expected


@pytest.mark.parametrize("wanted", ["x", "1,", "6", "3-2", "-1", "1-2-3", "9999999", "0"])
def test_what_is_no_page_is_said(wanted: str) -> None:
    """Of five."""
    with pytest.raises(PdfError, match="pdf_pages"):
        page_numbers(wanted, 5)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "pdf_broken"),
        (b"hello", "pdf_broken"),
        (b"%PDF-1.4\n%%EOF", "pdf_broken"),
        (b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>", "pdf_broken"),
        (LOCKED, "pdf_locked"),
    ],
)
def test_what_is_no_pdf_is_refused(tmp_path: Path, data: bytes, code: str) -> None:
    """In words."""
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    with pytest.raises(PdfError) as caught:
        made(path)
    assert caught.value.code == code
    assert PDFS[code].zh


def test_a_slow_reader_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process, too."""
    monkeypatch.setattr(pdf_module, "SECONDS", 0)
    with pytest.raises(PdfError, match="pdf_slow"):
        made(pdf(tmp_path / "a.pdf", "red"))


def test_a_reader_that_crashes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a process of its own."""
    path = pdf(tmp_path / "a.pdf", "red")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PdfError, match="pdf_broken"):
        made(path)


@pytest.mark.parametrize("name", ["photo.png", "page-1-of-2.png", "a-page-x-of-2.png"])
def test_other_pictures_have_no_label(name: str) -> None:
    """Only pages do."""
    assert page_label(Path(name)) == ""
