"""The page in a real browser, on the real vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.conftest import Box
from pages import SECONDS, open_page, send
from playwright.sync_api import Page, expect
from support import png

GREETING = "I am the STEP3-VL demo"
DEMO_ANSWER = "I am a small demo model."

pytestmark = [pytest.mark.real, pytest.mark.browser]


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(png(640, 480, "red"))
    return path


def test_ask_about_a_picture(page: Page, box: Box, red: Path) -> None:
    """Picture on the left, question on the right: picture, thought and answer show in the talk."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, box.url)
    expect(page.locator("#banner")).to_contain_text("Step3-VL-demo is ready", timeout=10 * SECONDS)
    expect(page.locator("#notice")).to_contain_text("Demo checkpoint")
    page.set_input_files("#pictures input[type=file]", red)
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)
    send(page, "What is in this picture?")
    talk = page.locator("#talk")
    expect(talk).to_contain_text("What is in this picture?", timeout=10 * SECONDS)
    expect(talk.locator("img").first).to_be_visible()
    expect(talk).to_contain_text("A plain red picture.", timeout=30 * SECONDS)
    expect(talk).to_contain_text("Thought for")
    expect(page.locator("#pictures img")).to_have_count(0)
    expect(page.locator("#question textarea")).to_have_value("")
    hosts = {url.split("/")[2] for url in asked if url.startswith("http")}
    assert hosts == {box.url.removeprefix("http://")}


def test_two_turns(page: Page, box: Box) -> None:
    """A second question is answered below the first."""
    open_page(page, box.url)
    answers = page.get_by_text(GREETING)
    for count, question in enumerate(("Hello", "Who are you?"), start=1):
        send(page, question)
        expect(answers).to_have_count(count, timeout=30 * SECONDS)
    expect(page.locator("#talk")).to_contain_text("Who are you?")


def test_visitors_do_not_share_a_talk(page: Page, box: Box) -> None:
    """A new visitor sees an empty talk."""
    open_page(page, box.url)
    send(page, "Tell me about my private taxes.")
    expect(page.get_by_text(DEMO_ANSWER)).to_have_count(1, timeout=30 * SECONDS)
    browser = page.context.browser
    assert browser is not None
    other = browser.new_context().new_page()
    open_page(other, box.url)
    expect(other.locator("#talk")).not_to_contain_text("private taxes")
    other.context.close()


def test_file_that_is_no_picture_keeps_the_draft(page: Page, box: Box, tmp_path: Path) -> None:
    """A sentence says what is wrong; the question stays in its field."""
    broken = tmp_path / "notes.png"
    broken.write_text("this is text")
    open_page(page, box.url)
    page.set_input_files("#question input[type=file]", broken)
    thumbnails = page.locator("#question").get_by_role("listitem")
    expect(thumbnails).to_have_count(1, timeout=10 * SECONDS)
    send(page, "What is it?")
    expect(page.get_by_text("is not a picture that can be read")).to_be_visible(
        timeout=10 * SECONDS
    )
    expect(page.locator("#question textarea")).to_have_value("What is it?")
