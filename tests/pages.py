"""What a visitor does on the page, for every test that drives a browser."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

SECONDS = 1000
"""Playwright's limits are in milliseconds."""


def open_page(page: Page, url: str) -> None:
    """The waiting page, if it is still there, gives way by itself."""
    page.goto(url)
    expect(page.locator("#question textarea")).to_be_visible(timeout=30 * SECONDS)


def send(page: Page, text: str) -> None:
    """Ask, once the field takes questions (during an answer it offers to stop)."""
    expect(page.locator("#question button.submit-button")).to_be_visible(timeout=20 * SECONDS)
    page.fill("#question textarea", text)
    page.keyboard.press("Enter")


def hard_to_use(page: Page) -> list[str]:
    """What axe-core calls serious or critical: the rule, and where it is broken."""
    # Half-way from one colour to another, a button has none of both.
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    return [
        f"{finding['id']}: {node['target']} {node['html'][:200]}"
        for finding in Axe().run(page).response["violations"]
        if finding["impact"] in {"serious", "critical"}
        for node in finding["nodes"]
    ]
