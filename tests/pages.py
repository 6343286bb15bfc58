"""What a visitor does on the page, for every test that drives a browser."""

from __future__ import annotations

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
