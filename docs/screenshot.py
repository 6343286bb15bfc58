"""Take the README's picture from a running service.

    python docs/screenshot.py [URL]

Needs the ``test`` extra and a Chromium on PATH.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright

from launcher.testing import ensure_browser


def example_picture(path: Path) -> None:
    """Simple shapes on a plain ground."""
    image = Image.new("RGB", (640, 480), "#f3efe6")
    draw = ImageDraw.Draw(image)
    draw.ellipse((80, 140, 280, 340), fill="#d7263d")
    draw.rectangle((380, 160, 560, 340), fill="#28963c")
    image.save(path)


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:7860"
    target = Path(__file__).with_name("screenshot.png")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        picture = Path(folder) / "shapes.png"
        example_picture(picture)
        browser = playwright.chromium.launch(
            executable_path=ensure_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 820})
        page.goto(url)
        expect(page.locator("#banner")).to_contain_text("is ready", timeout=20_000)
        page.set_input_files("#pictures input[type=file]", picture)
        expect(page.locator("#pictures img").first).to_be_visible()
        page.fill("#question textarea", "What is in this picture?")
        page.keyboard.press("Enter")
        expect(page.get_by_text("on the right.")).to_be_visible(timeout=60_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=target)
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
