"""Conversations that the page keeps: for each browser its own, over reloads and restarts."""

from __future__ import annotations

import json
import urllib.request
import zipfile
from pathlib import Path

import pytest
from deployments import Engine, Webui, answers, running_webui
from pages import SECONDS, open_page, send
from playwright.sync_api import Browser, Page, expect
from support import png, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True, scope="module")
def _page_is_loaded(webui_process: Webui) -> None:
    """On a busy machine its library takes longer to import than a test would wait."""
    wait_for(lambda: answers(f"{webui_process.url}/config"), 120, "the page is there")


def ask(page: Page, question: str) -> None:
    """And wait until the conversation is kept."""
    send(page, question)
    expect(page.locator("#talk")).to_contain_text(f"last: {question}.", timeout=20 * SECONDS)
    expect(page.locator("#conversations label").first).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#question button.submit-button")).to_be_visible(timeout=10 * SECONDS)


def titles(page: Page, *expected: str) -> None:
    """What the list has, the last one first; a dot marks the one that is open."""
    expect(page.locator("#conversations label")).to_have_text([*expected], timeout=10 * SECONDS)


def begin(page: Page) -> None:
    """A new conversation."""
    page.locator("#new").click()
    expect(page.locator("#talk")).to_contain_text("Add pictures", timeout=10 * SECONDS)


def open_file(page: Page, path: Path) -> None:
    """A saved conversation."""
    with page.expect_file_chooser() as chooser:
        page.locator("#open-file").click()
    chooser.value.set_files(path)


def test_a_reload_shows_what_was_open(page: Page, webui: Webui, tmp_path: Path) -> None:
    """With its picture, which the engine gets again; a new conversation stays a new one."""
    red = tmp_path / "red.png"
    red.write_bytes(png(46, 31, "red"))
    open_page(page, webui.url)
    page.set_input_files("#pictures input[type=file]", red)
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)
    ask(page, "what is it")
    page.reload()
    talk = page.locator("#talk")
    expect(talk).to_contain_text("1 images, last: what is it.", timeout=20 * SECONDS)
    expect(talk.locator("img").first).to_be_visible(timeout=10 * SECONDS)
    titles(page, "● what is it")
    ask(page, "and now")
    expect(talk).to_contain_text("3 messages, 1 images, last: and now.")
    begin(page)
    page.reload()
    titles(page, "what is it")
    expect(talk).to_contain_text("Add pictures", timeout=10 * SECONDS)


def test_conversations_are_opened_searched_renamed_and_deleted(page: Page, webui: Webui) -> None:
    """Each in the list; what is open changes with it."""
    open_page(page, webui.url)
    ask(page, "about cats")
    begin(page)
    ask(page, "about dogs")
    titles(page, "● about dogs", "about cats")
    page.locator("#conversations label").nth(1).click()
    talk = page.locator("#talk")
    expect(talk).to_contain_text("last: about cats.", timeout=10 * SECONDS)
    expect(talk).not_to_contain_text("dogs")
    ask(page, "more on them")
    titles(page, "● about cats", "about dogs")
    search = page.locator("#search").locator("input, textarea")
    search.fill("DOGS")
    titles(page, "about dogs")
    search.fill("")
    titles(page, "● about cats", "about dogs")
    field = page.locator("#rename").locator("input, textarea")
    field.fill("My <b>cats</b>")
    field.press("Enter")
    titles(page, "● My <b>cats</b>", "about dogs")
    expect(field).to_have_value("")
    page.locator("#delete").click()
    titles(page, "about dogs")
    expect(talk).to_contain_text("Add pictures", timeout=10 * SECONDS)
    page.reload()
    titles(page, "about dogs")


def test_a_turn_that_is_taken_back_is_not_kept(page: Page, webui: Webui) -> None:
    """The history has what the page shows."""
    open_page(page, webui.url)
    ask(page, "one")
    ask(page, "two")
    page.locator('#talk button[aria-label="Undo"]').last.click()
    talk = page.locator("#talk")
    expect(talk).not_to_contain_text("last: two.", timeout=10 * SECONDS)
    begin(page)
    titles(page, "one")
    page.locator("#conversations label").first.click()
    expect(talk).to_contain_text("last: one.", timeout=10 * SECONDS)
    expect(talk).not_to_contain_text("two")


def test_an_answer_that_is_left_in_the_middle_is_kept(page: Page, webui: Webui) -> None:
    """As far as it had come, when another conversation is opened or begun."""
    webui.engine.script(words=500, delay_s=0.05)
    open_page(page, webui.url)
    send(page, "count")
    talk = page.locator("#talk")
    expect(talk).to_contain_text(" 3 4", timeout=10 * SECONDS)
    begin(page)
    wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 10, "the engine is told")
    webui.engine.script()
    ask(page, "hello")
    titles(page, "● hello", "count")
    page.locator("#conversations label").nth(1).click()
    expect(talk).to_contain_text(" 3 4", timeout=10 * SECONDS)


def test_a_tab_that_is_closed_in_the_middle_loses_nothing(page: Page, webui: Webui) -> None:
    """What had come is there in the next one; the engine works for nobody."""
    webui.engine.script(words=500, delay_s=0.05)
    open_page(page, webui.url)
    send(page, "count")
    expect(page.locator("#talk")).to_contain_text(" 3 4", timeout=10 * SECONDS)
    second = page.context.new_page()
    page.close()
    wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 20, "the engine is told")
    open_page(second, webui.url)
    titles(second, "● count")
    expect(second.locator("#talk")).to_contain_text(" 3 4", timeout=10 * SECONDS)


def test_a_conversation_is_saved_and_opened(page: Page, webui: Webui, tmp_path: Path) -> None:
    """As JSON, with its picture and its own title; also what was deleted meanwhile."""
    red = tmp_path / "red.png"
    red.write_bytes(png(46, 31, "red"))
    open_page(page, webui.url)
    page.set_input_files("#pictures input[type=file]", red)
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)
    ask(page, "what is it")
    field = page.locator("#rename").locator("input, textarea")
    field.fill("My picture")
    field.press("Enter")
    titles(page, "● My picture")
    with page.expect_download() as download:
        page.locator("#save-json").click()
    assert download.value.suggested_filename == "My-picture.json"
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    page.locator("#delete").click()
    talk = page.locator("#talk")
    expect(talk).to_contain_text("Add pictures", timeout=10 * SECONDS)
    open_file(page, saved)
    expect(talk).to_contain_text("1 images, last: what is it.", timeout=10 * SECONDS)
    expect(talk.locator("img").first).to_be_visible(timeout=10 * SECONDS)
    titles(page, "● My picture")
    ask(page, "and now")
    expect(talk).to_contain_text("3 messages, 1 images, last: and now.")


def test_a_long_conversation_shows_its_end_first(page: Page, webui: Webui, tmp_path: Path) -> None:
    """The engine gets all of it, an edited question is the one that was meant, and the rest is one
    click away."""
    turns = [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(24)]
    document = {"format": "step3vl-conversation", "version": 1, "turns": turns}
    (tmp_path / "long.json").write_text(json.dumps(document))
    open_page(page, webui.url)
    open_file(page, tmp_path / "long.json")
    talk, earlier = page.locator("#talk"), page.locator("#earlier-turns")
    expect(earlier).to_have_text("Show the 10 questions before", timeout=10 * SECONDS)
    expect(talk).to_contain_text("answer 10")
    expect(talk).not_to_contain_text("answer 9")
    send(page, "more")
    expect(talk).to_contain_text("49 messages, 0 images, last: more.", timeout=20 * SECONDS)
    earlier.click()
    expect(talk).to_contain_text("answer 0", timeout=10 * SECONDS)
    expect(earlier).to_be_hidden()
    page.reload()
    expect(earlier).to_be_visible(timeout=20 * SECONDS)
    talk.get_by_role("button", name="Edit").nth(1).click()
    talk.locator("textarea").first.fill("another")
    talk.get_by_role("button", name="Submit").click()
    expect(talk).to_contain_text("23 messages, 0 images, last: another.", timeout=20 * SECONDS)
    expect(talk).not_to_contain_text("question 11")
    expect(talk).to_contain_text("answer 0")  # so few that all are shown
    expect(earlier).to_be_hidden(timeout=10 * SECONDS)


def test_a_conversation_is_saved_as_markdown(page: Page, webui: Webui, tmp_path: Path) -> None:
    """Beside its pictures, in one file."""
    open_page(page, webui.url)
    ask(page, "what is it")
    with page.expect_download() as download:
        page.locator("#save-markdown").click()
    assert download.value.suggested_filename == "what-is-it.zip"
    download.value.save_as(tmp_path / "saved.zip")
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        assert "last: what is it." in archive.read("conversation.md").decode()


def test_what_is_no_conversation_is_not_opened(page: Page, webui: Webui, tmp_path: Path) -> None:
    """The one on the page stays; there is nothing to be saved of none."""
    (tmp_path / "other.json").write_text("{}")
    open_page(page, webui.url)
    page.locator("#save-json").click()
    expect(page.get_by_text("There is nothing to save yet.")).to_be_visible(timeout=10 * SECONDS)
    ask(page, "hello")
    open_file(page, tmp_path / "other.json")
    expect(page.get_by_text("Nothing was opened.")).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#talk")).to_contain_text("last: hello.")


def test_another_browser_sees_nothing_of_it(page: Page, browser: Browser, webui: Webui) -> None:
    """Neither in its list nor with the key of the other's conversation."""
    open_page(page, webui.url)
    ask(page, "my private taxes")
    storage = page.context.storage_state()["origins"]
    other = browser.new_context(storage_state={"cookies": [], "origins": storage})
    try:
        stranger = other.new_page()
        open_page(stranger, webui.url)
        expect(stranger.locator("#talk")).to_contain_text("Add pictures", timeout=10 * SECONDS)
        ask(stranger, "hello")
        titles(stranger, "● hello")
    finally:
        other.close()


def test_a_restart_keeps_everything(
    browser: Browser, engine_process: Engine, tmp_path: Path
) -> None:
    """A new process, as after an upgrade; what it interrupts is kept as far as it had come."""
    engine_process.script()
    context = browser.new_context()
    try:
        page = context.new_page()
        with running_webui(tmp_path, engine_process) as webui:
            wait_for(lambda: answers(f"{webui.url}/config"), 120, "the page is there")
            open_page(page, webui.url)
            ask(page, "before")
            engine_process.script(words=500, delay_s=0.05)
            send(page, "count")
            expect(page.locator("#talk")).to_contain_text("count. 1 2 3 4", timeout=10 * SECONDS)
            port = webui.url.rpartition(":")[2]
        with running_webui(tmp_path, engine_process, WEBUI_PORT=port) as webui:
            wait_for(lambda: answers(f"{webui.url}/config"), 120, "the page is there")
            open_page(page, webui.url)
            expect(page.locator("#talk")).to_contain_text("last: before.", timeout=20 * SECONDS)
            expect(page.locator("#talk")).to_contain_text("last: count. 1 2 3 4")
            titles(page, "● before")
    finally:
        context.close()


def test_it_can_be_switched_off(browser: Browser, engine_process: Engine, tmp_path: Path) -> None:
    """Then there is no list, and nothing on the disk."""
    engine_process.script()
    context = browser.new_context()
    try:
        page = context.new_page()
        with running_webui(tmp_path, engine_process, WEBUI_HISTORY="") as webui:
            wait_for(lambda: answers(f"{webui.url}/config"), 120, "the page is there")
            open_page(page, webui.url)
            send(page, "hello")
            expect(page.locator("#talk")).to_contain_text("last: hello.", timeout=20 * SECONDS)
            expect(page.locator("#conversations")).to_have_count(0)
        assert not (tmp_path / "history").exists()
    finally:
        context.close()


def test_a_browser_gets_its_secret_once(webui: Webui) -> None:
    """For scripts it is not there; behind https it stays there."""

    def cookie(**headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with urllib.request.urlopen(urllib.request.Request(webui.url, headers=named)) as answer:
            return str(answer.headers["set-cookie"] or "")

    first, second = cookie(), cookie(x_forwarded_proto="https")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {*first.split("; ")}
    assert "Secure" not in first.split("; ")
    assert "Secure" in second.split("; ")
    assert first.split("; ")[0] != second.split("; ")[0]
    assert len(first.split(";")[0]) > 50
    assert cookie(cookie=f"other=1; {first.split(';')[0]}") == ""
