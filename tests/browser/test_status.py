"""The status tab: how the service does, and what an admin may do there."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployments import Engine, Webui, answers, running_webui, supervised_program
from pages import SECONDS, hard_to_use, open_page, send
from playwright.sync_api import Browser, Page, expect
from support import wait_for

from launcher.keys import KeyFile

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True, scope="module")
def _page_is_loaded(webui_process: Webui) -> None:
    """On a busy machine its library takes longer to import than a test would wait."""
    wait_for(lambda: answers(f"{webui_process.url}/config"), 120, "the page is there")


def open_status(page: Page) -> None:
    page.get_by_role("tab", name="Status").click()
    expect(page.locator("#charts figure").first).to_be_visible(timeout=10 * SECONDS)


def test_figures_follow_the_engine(page: Page, webui: Webui) -> None:
    """By themselves; logs and restarts are not for everybody."""
    webui.engine.script(words=500, delay_s=0.05)
    open_page(page, webui.url)
    send(page, "count")
    expect(page.locator("#talk")).to_contain_text(" 3 4", timeout=10 * SECONDS)
    open_status(page)
    charts = page.locator("#charts")
    expect(charts.get_by_label("At work in the engine: 1")).to_be_visible(timeout=10 * SECONDS)
    expect(charts.get_by_label("Requests here: 1")).to_be_visible()
    speed = charts.locator('svg[aria-label^="Tokens a second: "]:not([aria-label$="–"])')
    expect(speed).to_be_visible(timeout=15 * SECONDS)
    expect(page.locator("#admins-only")).to_contain_text("launch keys add")
    expect(page.locator("#restart-engine")).not_to_be_visible()
    assert not hard_to_use(page)
    page.get_by_role("tab", name="Chat").click()
    page.locator("#question button.stop-button").click()
    wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 10, "the engine is told")


def test_an_admin_restarts_the_engine_and_reads_its_log(
    browser: Browser, engine_process: Engine, tmp_path: Path
) -> None:
    """Nobody else sees that it can be done."""
    engine_process.script()
    file = KeyFile(tmp_path / "api-keys.json")
    keys = {name: file.add(name, {}, admin=name == "admin") for name in ("admin", "anna")}
    (tmp_path / "supervised").mkdir()
    log = tmp_path / "supervised" / "vllm.log"
    settings = {"WEBUI_KEYS_FILE": str(file.path)}
    with (
        supervised_program(log.parent) as address,
        running_webui(tmp_path, engine_process, SUPERVISOR_SERVER_URL=address, **settings) as webui,
    ):
        pages = {}
        for name, key in keys.items():
            context = browser.new_context(http_credentials={"username": "x", "password": key})
            pages[name] = context.new_page()
            pages[name].goto(webui.url)
            expect(pages[name].locator("#question textarea")).to_be_visible(timeout=120 * SECONDS)
            open_status(pages[name])
        expect(pages["anna"].locator("#admins-only")).to_contain_text("launch keys add")
        expect(pages["anna"].locator("#restart-engine")).not_to_be_visible()
        page = pages["admin"]
        page.locator("#restart-engine").click()
        wait_for(lambda: log.read_text().count("begun") == 2, 20, "it runs again")
        page.locator("#which-log label").first.click()
        shown = page.locator("#log textarea")
        expect(shown).to_have_value(log.read_text(), timeout=10 * SECONDS)
        for each in pages.values():
            each.context.close()
