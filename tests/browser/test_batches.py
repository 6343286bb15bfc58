"""The batch tab: one question about many pictures, whoever looks."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from deployments import Engine, Webui, answers, running_webui
from pages import SECONDS, hard_to_use, open_page
from playwright.sync_api import Browser, Page, expect
from support import png, wait_for

from webui.client.tasks import TASKS

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True, scope="module")
def _page_is_loaded(webui_process: Webui) -> None:
    """On a busy machine its library takes longer to import than a test would wait."""
    wait_for(lambda: answers(f"{webui_process.url}/config"), 120, "the page is there")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A picture, and a zip file with two of the same name as it and one that is none."""
    (tmp_path / "cat.png").write_bytes(png(50, 40, "red"))
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("cat.png", png(51, 40, "red"))
        archive.writestr("dog.png", png(52, 40, "red"))
        archive.writestr("broken.png", b"hello")
    return [tmp_path / "cat.png", tmp_path / "more.zip"]


def open_batch(page: Page, url: str) -> None:
    open_page(page, url)
    page.get_by_role("tab", name="Batch").click()
    expect(page.locator("#batch-start")).to_be_visible(timeout=10 * SECONDS)


def uploaded(page: Page, name: str) -> None:
    """Wait until a file is in the list; before that, its name stands in the upload's progress."""
    row = page.locator("#batch-files").get_by_role("cell", name=name, exact=True)
    expect(row).to_be_visible(timeout=10 * SECONDS)


def begin(page: Page, files: list[Path], words: str) -> None:
    page.set_input_files("#batch-files input[type=file]", files)
    for file in files:
        uploaded(page, file.name)
    page.fill("#batch-words textarea", words)
    page.locator("#batch-start").click()


def tells(page: Page, words: str) -> None:
    expect(page.locator("#batch-progress")).to_contain_text(words, timeout=30 * SECONDS)


def test_every_picture_has_a_row(
    page: Page, webui: Webui, files: list[Path], tmp_path: Path
) -> None:
    """On the page and in the files; what failed can be asked about again."""
    open_batch(page, webui.url)
    begin(page, files, "What is it?")
    tells(page, "3 of 4 answered, 1 failed")
    results = page.locator("#batch-results")
    for words in ("cat.png", "cat (2).png", "dog.png", "1 images, last: What is it?"):
        expect(results).to_contain_text(words)
    assert not hard_to_use(page)
    with page.expect_download() as download:
        page.locator("#batch-csv").click()
    download.value.save_as(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    names = ["broken.png", "cat (2).png", "cat.png", "dog.png"]
    assert [row["file"] for row in rows] == names
    assert ["broken.png" in row["error"] for row in rows] == [True, False, False, False]
    with page.expect_download() as download:
        page.locator("#batch-jsonl").click()
    download.value.save_as(tmp_path / "results.jsonl")
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["file"] for line in lines) == names
    before = len(webui.engine.seen())
    page.locator("#batch-go-on").click()
    tells(page, "3 of 4 answered, 1 failed")
    expect(page.locator("#batch-go-on")).to_be_enabled(timeout=10 * SECONDS)
    assert len(webui.engine.seen()) == before


def test_a_task_puts_its_question_there(page: Page, webui: Webui, files: list[Path]) -> None:
    """And asks as it suits it; what it answers has columns of its own in the file."""
    names = TASKS["invoice"].schema or {}
    invoice: dict[str, Any] = dict.fromkeys(names["required"], "7") | {"items": ["tea"]}
    webui.engine.script(says=[json.dumps(invoice)])
    open_batch(page, webui.url)
    page.locator("#batch-task input").click()
    page.get_by_role("option", name=TASKS["invoice"].title.en).click()
    words = page.locator("#batch-words textarea")
    expect(words).to_have_value(TASKS["invoice"].text("en"), timeout=10 * SECONDS)
    page.set_input_files("#batch-files input[type=file]", files[0])
    uploaded(page, "cat.png")
    page.locator("#batch-start").click()
    tells(page, "1 of 1")
    asked = webui.engine.seen()[-1]["body"]
    assert asked["temperature"] == TASKS["invoice"].temperature
    assert asked["response_format"]["type"] == "json_schema"


def test_a_folder_on_the_box(
    page: Page, engine_process: Engine, files: list[Path], tmp_path: Path
) -> None:
    """Where the operator has one, it can be chosen instead of pictures."""
    shared = tmp_path / "shared" / "cats"
    shared.mkdir(parents=True)
    files[0].rename(shared / "tom.png")
    engine_process.script()
    folder = str(shared.parent)
    with running_webui(tmp_path, engine_process, WEBUI_BATCH_FOLDER=folder) as webui:
        wait_for(lambda: answers(f"{webui.url}/config"), 120, "the page is there")
        open_batch(page, webui.url)
        page.fill("#batch-words textarea", "What is it?")
        page.locator("#batch-folder input").click(timeout=10 * SECONDS)
        page.get_by_role("option", name="cats").click()
        page.locator("#batch-start").click()
        tells(page, "1 of 1 answered")
        expect(page.locator("#batch-results")).to_contain_text("tom.png", timeout=10 * SECONDS)


def test_it_needs_pictures_and_a_question(page: Page, webui: Webui) -> None:
    """What is there stays."""
    open_batch(page, webui.url)
    expect(page.locator("#batch-folder")).to_be_hidden()
    page.fill("#batch-words textarea", "What is it?")
    page.locator("#batch-start").click()
    expect(page.get_by_text("Choose pictures, and say")).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#batch-words textarea")).to_have_value("What is it?")


def test_it_can_be_stopped_and_goes_on_after_a_restart(
    browser: Browser, engine_process: Engine, tmp_path: Path
) -> None:
    """In another process, with nothing asked twice; a closed tab changes nothing."""
    pictures = [tmp_path / f"cat.png{number}.png" for number in range(16)]
    for number, path in enumerate(pictures):
        path.write_bytes(png(50 + number, 40, "red"))
    engine_process.script(words=4, delay_s=0.1)
    context = browser.new_context()
    try:
        page = context.new_page()
        with running_webui(tmp_path, engine_process) as webui:
            wait_for(lambda: answers(f"{webui.url}/config"), 120, "the page is there")
            open_batch(page, webui.url)
            begin(page, pictures, "What is it?")
            tells(page, " of 16")
            expect(page.locator("#batch-results")).to_contain_text("cat.png0.png")
            engine_process.script(words=500, delay_s=0.1)
            page.close()
            page = context.new_page()
            open_batch(page, webui.url)
            page.locator("#batch-stop").click()
            expect(page.locator("#batch-go-on")).to_be_enabled(timeout=10 * SECONDS)
            port = webui.url.rpartition(":")[2]
        engine_process.script()
        with running_webui(tmp_path, engine_process, WEBUI_PORT=port) as webui:
            wait_for(lambda: answers(f"{webui.url}/config"), 120, "the page is there")
            open_batch(page, webui.url)
            expect(page.locator("#batch-results")).to_contain_text("cat.png0.png")
            page.locator("#batch-go-on").click()
            tells(page, "16 of 16 answered, 0 failed")
            assert 4 <= len(engine_process.seen()) < 16
            expect(page.locator("#batch-go-on")).to_be_disabled(timeout=10 * SECONDS)
    finally:
        context.close()


def test_another_browser_sees_nothing_of_it(
    page: Page, browser: Browser, webui: Webui, files: list[Path]
) -> None:
    """Nor does it end it."""
    open_batch(page, webui.url)
    begin(page, files, "my private taxes")
    tells(page, "3 of 4")
    other = browser.new_context()
    try:
        stranger = other.new_page()
        open_batch(stranger, webui.url)
        expect(stranger.locator("#batch-results")).not_to_contain_text("cat.png")
        expect(stranger.locator("#batch-go-on")).to_be_disabled()
        stranger.locator("#batch-csv").click()
        expect(stranger.get_by_text("nothing to save")).to_be_visible(timeout=10 * SECONDS)
    finally:
        other.close()
