"""What one does with a talk on the page: ask again, edit, take back, tasks and settings."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deployments import Engine, Webui, answers, running_webui
from pages import SECONDS, hard_to_use, open_page, send
from PIL import Image
from playwright.sync_api import Browser, Page, Response, expect
from playwright.sync_api import Error as PlaywrightError
from support import png, wait_for

from launcher.keys import KeyFile
from webui.client.tasks import TASKS

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True, scope="module")
def _page_is_loaded(webui_process: Webui) -> None:
    """On a busy machine its library takes longer to import than a test would wait."""
    wait_for(lambda: answers(f"{webui_process.url}/config"), 120, "the page is there")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two, of sizes that no other test has."""
    paths = [tmp_path / "red.png", tmp_path / "blue.png"]
    for path, width in zip(paths, (44, 1500), strict=True):
        path.write_bytes(png(width, width // 2, path.stem))
    return paths


def attach(page: Page, *paths: Path) -> None:
    page.set_input_files("#pictures input[type=file]", [*paths])
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)


def ask(page: Page, question: str, answer: str) -> None:
    """And wait until it has been answered."""
    send(page, question)
    expect(page.locator("#talk")).to_contain_text(answer, timeout=20 * SECONDS)
    expect(page.locator("#question button.submit-button")).to_be_visible(timeout=10 * SECONDS)


def press(page: Page, name: str, place: int = -1) -> None:
    """A button below a message of the talk."""
    page.locator(f'#talk button[aria-label="{name}"]').nth(place).click()


def asked(webui: Webui) -> Any:
    """What the engine was last asked."""
    return webui.engine.seen()[-1]["body"]


def test_a_question_is_answered_again(page: Page, webui: Webui, pictures: list[Path]) -> None:
    """With its pictures; the first answer is gone."""
    webui.engine.script(says=["First.", "Second.", "Third."])
    open_page(page, webui.url)
    attach(page, *pictures)
    ask(page, "why", "First.")
    ask(page, "how", "Second.")
    press(page, "Retry")
    talk = page.locator("#talk")
    expect(talk).to_contain_text("Third.", timeout=10 * SECONDS)
    expect(talk).not_to_contain_text("Second.")
    expect(talk).to_contain_text("First.")
    assert [m["role"] for m in asked(webui)["messages"]] == ["user", "assistant", "user"]
    assert len(asked(webui)["messages"][0]["content"]) == 3


def test_an_edited_question_keeps_its_pictures(
    page: Page, webui: Webui, pictures: list[Path]
) -> None:
    """What came after it is dropped, because it answered something else."""
    open_page(page, webui.url)
    attach(page, *pictures)
    ask(page, "my question", "1 messages, 2 images, last: my question.")
    ask(page, "another", "last: another.")
    press(page, "Edit", 0)
    page.locator("#talk textarea").first.fill("a better one")
    press(page, "Submit", 0)
    talk = page.locator("#talk")
    answer = "1 messages, 2 images, last: a better one."
    expect(talk).to_contain_text(answer, timeout=10 * SECONDS)
    expect(talk).not_to_contain_text("my question")
    expect(talk).not_to_contain_text("another")
    assert len(asked(webui)["messages"]) == 1


def test_an_edited_question_that_nobody_answers_changes_nothing(page: Page, webui: Webui) -> None:
    """The talk is as it was, with a reason."""
    open_page(page, webui.url)
    ask(page, "one", "last: one.")
    ask(page, "two", "last: two.")
    webui.engine.script(status=400)
    press(page, "Edit", 0)
    page.locator("#talk textarea").first.fill("other")
    press(page, "Submit", 0)
    expect(page.get_by_text("as the script says")).to_be_visible(timeout=10 * SECONDS)
    talk = page.locator("#talk")
    expect(talk).to_contain_text("last: one.", timeout=10 * SECONDS)
    expect(talk).to_contain_text("last: two.")


def test_the_last_turn_is_taken_back_as_a_draft(
    page: Page, webui: Webui, pictures: list[Path]
) -> None:
    """Its question and pictures can be changed and sent again; the engine hears nothing of it."""
    open_page(page, webui.url)
    ask(page, "first", "last: first.")
    attach(page, *pictures)
    ask(page, "second", "last: second.")
    expect(page.locator("#pictures img")).to_have_count(0)
    press(page, "Undo")
    talk = page.locator("#talk")
    expect(talk).not_to_contain_text("last: second.", timeout=10 * SECONDS)
    expect(talk).to_contain_text("last: first.")
    expect(page.locator("#question textarea")).to_have_value("second")
    expect(page.locator("#pictures img").first).to_be_visible()
    ask(page, "third", "3 messages, 2 images, last: third.")


def test_any_turn_can_be_deleted(page: Page, webui: Webui) -> None:
    """A click on its answer offers it; what came before and after stays, for the engine too, and
    so it is after a reload."""
    open_page(page, webui.url)
    for word in ("first", "second", "third"):
        ask(page, word, f"last: {word}.")
    talk, offer = page.locator("#talk"), page.locator("#delete-turn")
    expect(offer).to_be_hidden()
    page.get_by_text("3 messages, 0 images, last: second.").click()
    expect(offer).to_have_text("Delete question 2 and its answer")
    page.get_by_text("first", exact=True).click()
    expect(offer).to_have_text("Delete question 1 and its answer")
    page.locator("#talk .selectable", has_text="last: second.").press("Enter")
    expect(offer).to_have_text("Delete question 2 and its answer")
    offer.click()
    expect(talk).not_to_contain_text("second", timeout=10 * SECONDS)
    expect(offer).to_be_hidden()
    expect(talk).to_contain_text("last: third.")
    ask(page, "fourth", "5 messages, 0 images, last: fourth.")
    expect(offer).to_be_hidden()
    open_page(page, webui.url)
    expect(talk).to_contain_text("last: fourth.", timeout=10 * SECONDS)
    expect(talk).to_contain_text("last: first.")
    expect(talk).not_to_contain_text("second")


def test_deleting_another_question_ends_an_answer(page: Page, webui: Webui) -> None:
    """What has come of it stays, the engine is told, and the next question can be asked."""
    open_page(page, webui.url)
    ask(page, "first", "last: first.")
    page.locator("#talk .selectable", has_text="last: first.").click()
    expect(page.locator("#delete-turn")).to_be_visible(timeout=10 * SECONDS)
    webui.engine.script(words=1000, delay_s=0.05)
    send(page, "second")
    talk = page.locator("#talk")
    expect(talk).to_contain_text("last: second. 1", timeout=20 * SECONDS)
    page.locator("#delete-turn").click()
    expect(talk).not_to_contain_text("last: first.", timeout=10 * SECONDS)
    expect(talk).to_contain_text("last: second. 1")
    wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 10, "the engine is told")
    webui.engine.script(words=3)
    ask(page, "third", "3 messages, 0 images, last: third.")


def test_pictures_tell_what_they_cost_and_can_be_ordered(
    page: Page, webui: Webui, pictures: list[Path]
) -> None:
    """Before they are sent; the numbers are the API's own."""
    open_page(page, webui.url)
    attach(page, *pictures)
    body = page.request.post(
        f"{webui.url}/api/v1/images/inspect",
        data={"images": [f"data:image/png;base64,{_base64(path)}" for path in pictures]},
    ).json()
    cost = page.locator("#cost")
    expect(cost).to_contain_text(f"2 × picture, {body['tokens']:,} tokens", timeout=10 * SECONDS)
    page.locator("#pictures button.thumbnail-lg").first.click()
    page.locator("#later").click()
    first = page.locator("#pictures button.thumbnail-small img").first
    expect(first).to_have_attribute("src", re.compile("blue"), timeout=10 * SECONDS)
    ask(page, "which", "2 images, last: which.")
    parts = asked(webui)["messages"][0]["content"]
    page.locator("#new").click()  # and the browser has noted it
    expect(page.locator("#talk")).not_to_contain_text("which", timeout=10 * SECONDS)
    open_page(page, webui.url)
    attach(page, *pictures)
    ask(page, "again", "2 images, last: again.")
    names = [part["uuid"] for part in asked(webui)["messages"][0]["content"][:2]]
    assert [part["uuid"] for part in parts[:2]] == names[::-1]
    expect(cost).to_have_text("")


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def choose(page: Page, task: str) -> None:
    """From the list of tasks."""
    page.locator("#task input").click()
    page.get_by_role("option", name=task, exact=True).click()


def add_pdf(page: Page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#add").click()
    chooser.value.set_files(path)


def test_pages_of_a_pdf_are_pictures(page: Page, webui: Webui, tmp_path: Path) -> None:
    """Those that are wanted, each with its label; the talk is still the same after a reload."""
    pages = [Image.new("RGB", (595, 842), colour) for colour in ("red", "lime", "blue")]
    report = tmp_path / "my report.pdf"
    pages[0].save(report, save_all=True, append_images=pages[1:])
    open_page(page, webui.url)
    field = page.locator("#pages").locator("input, textarea")
    field.fill("3, 1")
    add_pdf(page, report)
    thumbnails = page.get_by_role("button", name=re.compile(r"Thumbnail \d"))
    expect(thumbnails).to_have_count(2, timeout=20 * SECONDS)
    expect(page.locator("#cost")).to_contain_text("2 × picture", timeout=10 * SECONDS)
    expect(field).to_have_value("")
    ask(page, "sum it up", "2 images, last: sum it up.")
    parts = asked(webui)["messages"][-1]["content"]
    assert [part.get("text") for part in parts] == [
        "my-report, page 3 of 3:",
        None,
        "my-report, page 1 of 3:",
        None,
        "sum it up",
    ]
    page.reload()
    expect(page.locator("#talk")).to_contain_text("sum it up.", timeout=20 * SECONDS)
    ask(page, "and", "2 images, last: and.")
    assert asked(webui)["messages"][0]["content"][0]["text"] == "my-report, page 3 of 3:"


def test_files_in_the_question_field_count_too(
    page: Page, webui: Webui, pictures: list[Path], tmp_path: Path
) -> None:
    """Pictures there with what they cost; a PDF becomes pages; what is typed stays."""
    sheets = [Image.new("RGB", (595, 842), colour) for colour in ("red", "blue")]
    sheets[0].save(tmp_path / "two.pdf", save_all=True, append_images=sheets[1:])
    open_page(page, webui.url)
    field = "#question input[type=file]"
    page.set_input_files(field, pictures[0])
    expect(page.locator("#cost")).to_contain_text("1 × picture, 337", timeout=10 * SECONDS)
    page.fill("#question textarea", "my draft")
    page.set_input_files(field, tmp_path / "two.pdf")
    expect(page.locator("#cost")).to_contain_text("3 × picture", timeout=20 * SECONDS)
    expect(page.locator("#question textarea")).to_have_value("my draft")
    expect(page.locator("#question .thumbnail-wrapper")).to_have_count(1)
    page.locator("#question .delete-button").first.click()
    expect(page.locator("#cost")).to_contain_text("2 × picture", timeout=10 * SECONDS)
    page.press("#question textarea", "Enter")
    expect(page.locator("#talk")).to_contain_text("2 images, last: my", timeout=20 * SECONDS)


def test_what_is_no_pdf_is_said(page: Page, webui: Webui, tmp_path: Path) -> None:
    """What is there stays."""
    (tmp_path / "a.pdf").write_text("hello")
    open_page(page, webui.url)
    page.fill("#question textarea", "my draft")
    add_pdf(page, tmp_path / "a.pdf")
    expect(page.get_by_text("This is no PDF")).to_be_visible(timeout=20 * SECONDS)
    expect(page.locator("#question textarea")).to_have_value("my draft")


def test_a_json_task_ends_in_a_table(page: Page, webui: Webui) -> None:
    """Its question can be seen and changed; its settings and its form reach the engine; the answer
    is a table, and CSV and JSON to take away."""
    invoice = {"number": "7", "items": ["=a", "b"], "seller": "甲"}
    webui.engine.script(says=[json.dumps(invoice), json.dumps(invoice), "Plain."])
    open_page(page, webui.url)
    choose(page, "Invoice to JSON")
    field = page.locator("#question textarea")
    expect(field).to_have_value(TASKS["invoice"].text("en"), timeout=10 * SECONDS)
    field.fill(f"{field.input_value()} Please.")
    field.press("Enter")
    table = page.locator("#table")
    expect(table).to_contain_text("seller", timeout=20 * SECONDS)
    expect(table).to_contain_text("甲")
    body = asked(webui)
    assert body["messages"][-1]["content"][-1]["text"].endswith(" Please.")
    assert body["response_format"] == TASKS["invoice"].response_format
    assert body["temperature"] == 0.1
    with page.expect_download() as download:
        page.locator("#csv").click()
    rows = [*csv.reader(io.StringIO(download.value.path().read_text("utf-8-sig")))]
    assert rows == [["number", "items", "seller"], ["7", "'=a; b", "甲"]]
    press(page, "Undo")  # and sent again, it is the same task
    expect(field).not_to_have_value("", timeout=10 * SECONDS)
    expect(page.locator("#result")).to_be_hidden(timeout=10 * SECONDS)
    field.press("Enter")
    expect(table).to_contain_text("甲", timeout=20 * SECONDS)
    assert asked(webui)["response_format"] == TASKS["invoice"].response_format
    with page.expect_download() as download:
        page.locator("#json").click()
    assert json.loads(download.value.path().read_bytes()) == invoice
    ask(page, "and now", "Plain.")
    expect(page.locator("#result")).to_be_hidden(timeout=10 * SECONDS)
    assert "response_format" not in asked(webui)


def test_a_task_is_a_form(page: Page, webui: Webui) -> None:
    """What it leaves open is asked for, and stands in the question; what else was changed there
    stays, also where the tabulator key goes over the list of tasks."""
    open_page(page, webui.url)
    choose(page, "Product copy")
    field = page.locator("#question textarea")
    expect(field).to_have_value(TASKS["product"].text("en"), timeout=10 * SECONDS)
    field.fill(f"{field.input_value()} Briefly.")
    page.locator("#task input").focus()
    page.keyboard.press("Tab")
    page.get_by_label("Product", exact=True).press_sequentially("a mug")
    expect(field).to_have_value(re.compile("a mug"), timeout=10 * SECONDS)
    page.get_by_label("Category", exact=True).fill("kitchen")  # in one, as what is pasted
    wanted = TASKS["product"].text("en", product="a mug", category="kitchen")
    expect(field).to_have_value(f"{wanted} Briefly.", timeout=10 * SECONDS)
    choose(page, "Read text")
    expect(field).to_have_value(TASKS["read"].text("en"), timeout=10 * SECONDS)
    expect(page.get_by_label("Product", exact=True)).to_be_hidden()


def test_a_task_of_three_steps_goes_on_by_itself(page: Page, webui: Webui) -> None:
    """Each step in the same talk."""
    open_page(page, webui.url)
    choose(page, "Analyse in three steps")
    expect(page.locator("#question textarea")).not_to_have_value("", timeout=10 * SECONDS)
    page.locator("#question textarea").press("Enter")
    expect(page.locator("#talk")).to_contain_text("5 messages", timeout=20 * SECONDS)
    assert [len(seen["body"]["messages"]) for seen in webui.engine.seen()] == [1, 3, 5]


def test_settings_reach_the_engine_and_can_be_reset(page: Page, webui: Webui) -> None:
    """Thinking off, another temperature, a system prompt; and back."""
    open_page(page, webui.url)
    page.locator("#settings button").first.click()
    page.locator("#mode").get_by_text("off", exact=True).click()
    page.locator("#own-sampling input").uncheck()
    number = page.locator("#temperature input[type=number]")
    number.fill("0.3")
    number.press("Tab")
    page.locator("#system textarea").fill("Be brief.")
    ask(page, "hello", "2 messages, 0 images, last: hello.")
    body = asked(webui)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["thinking_token_budget"], body["temperature"]) == (0, 0.3)
    expect(page.locator("#talk")).not_to_contain_text("Thought")
    page.locator("#reset").click()
    expect(page.locator("#system textarea")).to_have_value("", timeout=10 * SECONDS)
    ask(page, "hello again", "last: hello again.")
    assert asked(webui)["thinking_token_budget"] > 0
    assert "temperature" not in asked(webui)  # the model's maker knows best


def test_a_thought_is_a_fold_that_closes_when_the_answer_begins(page: Page, webui: Webui) -> None:
    """Open while there is nothing else to read; then it says how long it took, and the answer what
    it took."""
    webui.engine.script(thought=3, words=40, delay_s=0.1)
    open_page(page, webui.url)
    send(page, "count")
    talk = page.locator("#talk")
    expect(talk).to_contain_text(" 3 4", timeout=10 * SECONDS)
    expect(talk).to_contain_text("Thought for")
    expect(talk.get_by_text("Hmm. Hmm. Hmm.")).to_be_hidden()
    expect(talk).to_contain_text("38 39", timeout=20 * SECONDS)
    expect(talk).to_contain_text("s to the first token", timeout=10 * SECONDS)
    expect(talk).to_contain_text("1 + 45 tokens")


MARKDOWN = """
Euler: $e^{i\\pi}=-1$, and \\(a_1\\), and

$$\\frac{x}{y}$$

| a | b |
| --- | --- |
| c | d |

```python
print("hello")
```
"""


def test_formulas_tables_and_code_are_shown_as_such(page: Page, webui: Webui) -> None:
    """As models write them."""
    webui.engine.script(says=[MARKDOWN])
    open_page(page, webui.url)
    ask(page, "show", "Euler")
    talk = page.locator("#talk")
    expect(talk.locator(".katex").first).to_be_visible(timeout=10 * SECONDS)
    assert talk.locator(".katex").count() == 3
    expect(talk.locator("table")).to_contain_text("d")
    expect(talk.locator("pre code")).to_contain_text('print("hello")')


def test_an_answer_that_breaks_off_is_kept(page: Page, webui: Webui) -> None:
    """What had come stays, with a sentence about the rest, and one can go on."""
    webui.engine.script(words=20, break_after=5)
    open_page(page, webui.url)
    send(page, "count")
    reason = page.get_by_text("What had come is kept.")
    expect(reason).to_be_visible(timeout=10 * SECONDS)
    talk = page.locator("#talk")
    expect(talk).to_contain_text(" 3 4")
    page.reload()
    more = page.locator("#go-on")
    expect(more).to_be_visible(timeout=10 * SECONDS)
    webui.engine.script(says=["and the rest."])
    more.click()
    expect(talk).to_contain_text(" 3 4and the rest.", timeout=10 * SECONDS)
    expect(more).not_to_be_visible(timeout=10 * SECONDS)
    body = asked(webui)
    assert body["messages"][-1]["role"] == "assistant"
    assert body["messages"][-1]["content"].startswith("</think>\n1 messages, 0 images")
    assert body["continue_final_message"]
    assert not body["add_generation_prompt"]
    webui.engine.script()
    ask(page, "go on", "3 messages, 0 images, last: go on.")
    page.reload()
    expect(talk).to_contain_text(" 3 4and the rest.", timeout=20 * SECONDS)
    expect(more).not_to_be_visible()


def test_a_question_that_nobody_takes_is_a_draft_again(page: Page, webui: Webui) -> None:
    """Where the queue is full, or the connection lost; the next one is taken."""
    open_page(page, webui.url)
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, body="{}"))
    with page.expect_response("**/queue/join*"):
        send(page, "hello")
    field = page.locator("#question textarea")
    expect(field).to_have_value("hello", timeout=20 * SECONDS)
    page.unroute("**/queue/join*")
    ask(page, "once more", "1 messages, 0 images, last: once more.")


def test_a_new_conversation_ends_the_answer_of_the_old_one(page: Page, webui: Webui) -> None:
    """Nothing of it comes back, and the engine is told."""
    webui.engine.script(words=500, delay_s=0.02)
    open_page(page, webui.url)
    send(page, "count")
    talk = page.locator("#talk")
    expect(talk).to_contain_text(" 5 6", timeout=10 * SECONDS)
    page.locator("#new").click()
    expect(talk).to_contain_text("Add pictures", timeout=10 * SECONDS)
    wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 10, "the engine is told")
    webui.engine.script(words=3)
    ask(page, "hello", "1 messages, 0 images, last: hello. 1 2")
    expect(talk).not_to_contain_text("count")


def test_a_chinese_browser_gets_a_chinese_page(browser: Browser, webui: Webui) -> None:
    """Words, tasks and their questions, and what goes wrong."""
    context = browser.new_context(locale="zh-CN")
    try:
        page = context.new_page()
        open_page(page, webui.url)
        expect(page.locator("#new")).to_have_text("新对话", timeout=10 * SECONDS)
        expect(page.locator("#banner")).to_contain_text("已就绪", timeout=10 * SECONDS)
        expect(page.locator("#notice")).to_have_text("回答的是替身。")
        ask(page, "你好", "last: 你好.")
        for name in ("重试", "撤销", "编辑"):
            expect(page.get_by_role("button", name=name)).to_be_visible()
        expect(page.get_by_role("button", name="清空对话")).to_be_hidden()
        press(page, "撤销")
        expect(page.locator("#question textarea")).to_have_value("你好", timeout=10 * SECONDS)
        choose(page, TASKS["read"].title.zh)
        field = page.locator("#question textarea")
        expect(field).to_have_value(TASKS["read"].text("zh"), timeout=10 * SECONDS)
        webui.engine.script(status=400)
        field.press("Enter")
        expect(page.get_by_text("模型拒绝了请求")).to_be_visible(timeout=10 * SECONDS)
        expect(field).to_have_value(TASKS["read"].text("zh"))
    finally:
        context.close()


def test_the_operators_notice_is_on_the_page(page: Page, webui: Webui) -> None:
    """In English for whoever reads no Chinese."""
    open_page(page, webui.url)
    expect(page.locator("#notice")).to_have_text("A stand-in answers.", timeout=10 * SECONDS)


def test_the_talk_is_shown_as_code(page: Page, webui: Webui) -> None:
    """With this page's address; it follows the talk while it is open."""
    open_page(page, webui.url)
    panel = page.locator("#code")
    panel.get_by_role("button", name="Show the code").click()
    expect(panel).to_contain_text(f"{webui.url}/api/v1/chat/completions", timeout=10 * SECONDS)
    expect(panel).to_contain_text("Hello")
    ask(page, "how many", "last: how many.")
    expect(panel).to_contain_text("how many", timeout=10 * SECONDS)
    for name, words in (("Python", "from openai import OpenAI"), ("JavaScript", "await client")):
        panel.get_by_role("tab", name=name).click()
        expect(panel.get_by_text(words).first).to_be_visible(timeout=10 * SECONDS)


@pytest.fixture
def locked(tmp_path: Path, engine_process: Engine) -> Iterator[tuple[Webui, str]]:
    """A WebUI that wants a key, and one that it takes."""
    engine_process.script()
    file = KeyFile(tmp_path / "api-keys.json")
    key = file.add("anna", {})
    settings = {"WEBUI_KEYS_FILE": str(file.path), "WEBUI_REQUIRE_KEYS": "1"}
    with running_webui(tmp_path, engine_process, **settings) as webui:
        yield webui, key


def test_a_visitors_questions_count_for_their_key(
    browser: Browser, locked: tuple[Webui, str]
) -> None:
    """With the key that opened the page, under its name in the log."""
    webui, key = locked
    context = browser.new_context(http_credentials={"username": "x", "password": key})
    try:
        page = context.new_page()
        page.goto(webui.url)
        expect(page.locator("#question textarea")).to_be_visible(timeout=60 * SECONDS)
        ask(page, "hello", "last: hello.")
        # The line is written when the answer has ended, a moment after its last letter is shown.
        line = " anna POST /chat/completions 200 "
        wait_for(lambda: line in webui.log.read_text(), 10, f"no line with{line}in webui.log")
    finally:
        context.close()


@pytest.fixture
def logged_in(browser: Browser, locked: tuple[Webui, str]) -> Iterator[Page]:
    """The page, opened with that key as a browser does it."""
    context = browser.new_context()
    try:
        page = context.new_page()
        log_in(page, *locked)
        expect(page.locator("#question textarea")).to_be_visible(timeout=60 * SECONDS)
        yield page
    finally:
        context.close()


def test_a_login_that_has_ended_is_said(
    logged_in: Page, locked: tuple[Webui, str], tmp_path: Path
) -> None:
    """No dialogue each time that the page looks for something; the draft stays, and can be sent
    once another key was given in another tab."""
    page, webui, keys = logged_in, locked[0], KeyFile(tmp_path / "api-keys.json")
    ended = page.get_by_text("Your key is not known any more.")
    expect(ended).to_be_hidden()
    keys.revoke("anna")
    expect(ended).to_be_visible(timeout=10 * SECONDS)
    assert not hard_to_use(page)
    with page.expect_response(is_refused_question):
        send(page, "my draft")
    expect(page.locator("#question textarea")).to_have_value("my draft")
    log_in(page.context.new_page(), webui, keys.add("bert", {}))
    expect(ended).to_be_hidden(timeout=10 * SECONDS)
    page.press("#question textarea", "Enter")
    expect(page.locator("#talk")).to_contain_text("last: my draft.", timeout=20 * SECONDS)
    theirs = " bert POST /chat/completions 200 "
    wait_for(lambda: theirs in webui.log.read_text(), 10, "it counts for the other key")


def is_refused_question(response: Response) -> bool:
    return response.status == 401 and "my draft" in (response.request.post_data or "")


def test_a_login_that_ends_during_an_answer(
    logged_in: Page, locked: tuple[Webui, str], tmp_path: Path
) -> None:
    """The answer comes to its end, and after the next login questions are taken again."""
    page, webui, keys = logged_in, locked[0], KeyFile(tmp_path / "api-keys.json")
    webui.engine.script(words=60, delay_s=0.1)
    send(page, "count")
    expect(page.locator("#talk")).to_contain_text(" 2 3", timeout=20 * SECONDS)
    keys.revoke("anna")
    expect(page.locator("#logged-out")).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#talk")).to_contain_text(" 58 59", timeout=20 * SECONDS)
    log_in(page.context.new_page(), webui, keys.add("bert", {}))
    webui.engine.script()
    ask(page, "and now", "last: and now.")


def log_in(page: Page, webui: Webui, key: str) -> None:
    """As a browser does that has asked for it."""
    address = webui.url.replace("//", f"//x:{key}@")

    def is_in() -> bool:
        try:
            page.goto(address)
        except PlaywrightError:  # the browser does not ask where nobody could answer
            return False
        return True

    wait_for(is_in, 20, "the key is known")
    page.goto(webui.url)
