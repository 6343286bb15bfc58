"""Take the READMEs' pictures of the page from a running demo.

    python docs/screenshot.py [URL]

Needs the ``test`` extra, a Chromium on PATH and a font with Chinese characters.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, expect, sync_playwright

from launcher.testing import ensure_browser


class Shot(NamedTuple):
    """One question and its answer, as a visitor sees them."""

    name: str
    locale: str = "en-US"
    question: str = "What is in this picture?"
    figures: str = "tokens/s"
    """Of what stands under an answer."""
    scheme: Literal["light", "dark"] = "light"
    width: int = 1280
    height: int = 960


SHOTS = (
    Shot("screenshot.png"),
    Shot("screenshot.zh.png", "zh-CN", "图里有什么？", "token/秒"),
    Shot("dark.png", scheme="dark"),
    Shot("phone.png", width=390, height=844),
)
COLOURS = ("#d7263d", "#1f5fd0", "#e8b90c", "#7a3fb0", "#e8791a", "#1b1b1b", "#8a5a2b", "#e85fa8")


def example_picture(path: Path, colour: str = "#d7263d") -> None:
    """Simple shapes on a plain ground."""
    image = Image.new("RGB", (640, 480), "#f3efe6")
    draw = ImageDraw.Draw(image)
    draw.ellipse((70, 160, 230, 320), fill=colour)
    draw.rectangle((430, 170, 570, 310), fill="#28963c")
    image.save(path)


def take(browser: Browser, url: str, picture: Path, shot: Shot, folder: Path) -> None:
    context = browser.new_context(
        locale=shot.locale,
        color_scheme=shot.scheme,
        viewport={"width": shot.width, "height": shot.height},
    )
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#banner .dot.good")).to_be_visible(timeout=60_000)
    page.set_input_files("#pictures input[type=file]", picture)
    expect(page.locator("#pictures img").first).to_be_visible()
    page.fill("#question textarea", shot.question)
    page.keyboard.press("Enter")
    expect(page.locator("#talk .bot").get_by_text(shot.figures).last).to_be_visible(timeout=60_000)
    expect(page.locator("#conversations label")).to_have_count(1, timeout=10_000)
    page.locator("#talk").scroll_into_view_if_needed()
    page.screenshot(path=folder / shot.name)
    context.close()


def take_tabs(browser: Browser, url: str, picture: Path, folder: Path) -> None:
    """The batch tab after a batch of four, the status tab after it."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#banner .dot.good")).to_be_visible(timeout=60_000)
    page.get_by_role("tab", name="Status").click()
    expect(page.locator("#charts figure").first).to_be_visible()
    page.get_by_role("tab", name="Batch").click()
    copies = [picture.with_name(f"photo-{number}.png") for number in range(1, 9)]
    for number, copy in enumerate(copies):
        example_picture(copy, COLOURS[number])
    page.set_input_files("#batch-files input[type=file]", copies)
    expect(page.locator("#batch-files")).to_contain_text("photo-8")
    page.fill("#batch-words textarea", "What is in this picture?")
    page.locator("#batch-start").click()
    expect(page.locator("#batch-progress")).to_contain_text("8 of 8", timeout=60_000)
    page.screenshot(path=folder / "batch.png")
    page.get_by_role("tab", name="Status").click()
    speed = page.locator('#charts svg[aria-label^="To the first token: "]:not([aria-label$="–"])')
    expect(speed).to_be_visible(timeout=30_000)
    page.screenshot(path=folder / "status.png", clip={"x": 0, "y": 0, "width": 1280, "height": 420})
    context.close()


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:7860"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        picture = Path(folder) / "shapes.png"
        example_picture(picture)
        browser = playwright.chromium.launch(
            executable_path=ensure_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        for shot in SHOTS:
            take(browser, url, picture, shot, Path(__file__).parent)
        take_tabs(browser, url, picture, Path(__file__).parent)
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
