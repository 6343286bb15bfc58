"""What the page looks like: for every eye, on every screen, by keyboard alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployments import Webui, answers
from pages import SECONDS, hard_to_use, open_page, send
from playwright.sync_api import Browser, Page, expect
from support import png, wait_for

pytestmark = pytest.mark.browser

# A page has fewer places that the tabulator key goes to.
MANY = 80


@pytest.fixture(autouse=True, scope="module")
def _page_is_loaded(webui_process: Webui) -> None:
    """On a busy machine its library takes longer to import than a test would wait."""
    wait_for(lambda: answers(f"{webui_process.url}/config"), 120, "the page is there")


def fill(page: Page, folder: Path) -> None:
    """Something of everything: a talk with a thought and a picture, two more, all folds open."""
    pictures = [folder / "red.png", folder / "blue.png"]
    for path in pictures:
        path.write_bytes(png(300, 200, path.stem))
    page.set_input_files("#pictures input[type=file]", pictures[0])
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)
    send(page, "look **here**")
    expect(page.locator("#talk")).to_contain_text("last: look here.", timeout=20 * SECONDS)
    expect(page.locator("#conversations label")).to_have_count(1, timeout=10 * SECONDS)
    page.set_input_files("#pictures input[type=file]", pictures)
    expect(page.locator("#order")).to_be_visible(timeout=10 * SECONDS)
    for fold in ("#settings", "#code"):
        page.locator(f"{fold} button").first.click()
    expect(page.locator("#code .cm-line").first).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#temperature")).to_be_visible(timeout=10 * SECONDS)


@pytest.mark.parametrize(
    ("locale", "scheme", "width"),
    [("en-US", "light", 1280), ("zh-CN", "dark", 1280), ("en-US", "light", 390)],
)
def test_nothing_is_hard_to_read_or_to_reach(
    browser: Browser, webui: Webui, tmp_path: Path, locale: str, scheme: str, width: int
) -> None:
    """By axe-core's rules; and no screen is too narrow."""
    context = browser.new_context(
        locale=locale,
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 900},
    )
    try:
        page = context.new_page()
        hosts: set[str] = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        open_page(page, webui.url)
        fill(page, tmp_path)
        assert not hard_to_use(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert {host for host in hosts if host} == {webui.url.split("/")[2]}
    finally:
        context.close()


def focused(page: Page) -> str:
    """The id of the nearest part of the page that has one."""
    return str(page.evaluate("document.activeElement.closest('[id]')?.id ?? ''"))


def walk(page: Page, part: str) -> None:
    """Press the tabulator key until the cursor is inside of this part."""
    is_there = "(part) => !!document.querySelector(part)?.contains(document.activeElement)"
    for _ in range(MANY):
        page.keyboard.press("Tab")
        if page.evaluate(is_there, part):
            return
    pytest.fail(f"no key leads to {part}; the last place was {focused(page)!r}")


def test_a_keyboard_is_enough(page: Page, webui: Webui) -> None:
    """To ask, to choose how to, to begin anew and to open what was before."""
    open_page(page, webui.url)
    walk(page, "#question textarea")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    expect(page.locator("#talk")).to_contain_text("last: by keyboard.", timeout=20 * SECONDS)
    expect(page.locator("#conversations label")).to_have_count(1, timeout=10 * SECONDS)
    walk(page, "#settings > button")
    page.keyboard.press("Enter")
    expect(page.locator("#mode")).to_be_visible(timeout=10 * SECONDS)
    walk(page, "#mode input[value=high]")
    page.keyboard.press("Space")
    expect(page.get_by_role("radio", name="long")).to_be_checked()
    walk(page, "#new")
    page.keyboard.press("Enter")
    expect(page.locator("#talk")).to_contain_text("Add pictures", timeout=10 * SECONDS)
    walk(page, "#conversations")
    page.keyboard.press("Space")
    expect(page.locator("#talk")).to_contain_text("last: by keyboard.", timeout=10 * SECONDS)
