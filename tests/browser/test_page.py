"""The page's behaviour in a real browser, over an engine that speaks as slowly as a test wants."""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployments import Webui, answers
from pages import SECONDS, open_page, send
from playwright.sync_api import Page, expect
from support import free_port, png, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True, scope="module")
def _page_is_loaded(webui_process: Webui) -> None:
    """On a busy machine its library takes longer to import than a test would wait."""
    wait_for(lambda: answers(f"{webui_process.url}/config"), 120, "the page is there")


def test_words_show_as_they_come(page: Page, webui: Webui) -> None:
    """The first words are on the screen while the engine still speaks."""
    webui.engine.script(words=60, delay_s=0.1)
    open_page(page, webui.url)
    send(page, "count")
    talk = page.locator("#talk")
    expect(talk).to_contain_text("last: count. 1 2 3", timeout=10 * SECONDS)
    assert "59" not in talk.inner_text()
    expect(talk).to_contain_text("58 59", timeout=20 * SECONDS)


def test_what_is_typed_during_an_answer_stays(page: Page, webui: Webui) -> None:
    """The next question can be prepared while the answer still comes."""
    webui.engine.script(words=30, delay_s=0.1)
    open_page(page, webui.url)
    send(page, "count")
    expect(page.locator("#talk")).to_contain_text(" 1 2", timeout=10 * SECONDS)
    page.fill("#question textarea", "my next question")
    expect(page.locator("#talk")).to_contain_text("28 29", timeout=20 * SECONDS)
    expect(page.locator("#question button.submit-button")).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#question textarea")).to_have_value("my next question")


def test_stop_ends_the_answer_and_the_engines_work(page: Page, webui: Webui) -> None:
    """What had come stays, the engine is told, and the next question works."""
    webui.engine.script(words=1000, delay_s=0.1)
    open_page(page, webui.url)
    send(page, "count")
    talk = page.locator("#talk")
    expect(talk).to_contain_text(" 5 6", timeout=10 * SECONDS)
    page.locator("#question button.stop-button").click()
    wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 5, "the engine is told")
    expect(talk).to_contain_text(" 5 6")
    webui.engine.script(words=3)
    send(page, "again")
    expect(talk).to_contain_text("last: again. 1 2", timeout=10 * SECONDS)


def test_leaving_the_page_stops_the_engines_work(page: Page, webui: Webui) -> None:
    """A closed tab does not keep the engine busy."""
    webui.engine.script(words=1000, delay_s=0.1)
    open_page(page, webui.url)
    send(page, "count")
    expect(page.locator("#talk")).to_contain_text(" 2 3", timeout=10 * SECONDS)
    page.goto("about:blank")
    wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 10, "the engine is told")


def test_pictures_from_both_places_reach_the_engine(
    page: Page, webui: Webui, tmp_path: Path
) -> None:
    """The box on the left and the question field: both pictures are sent, byte for byte."""
    open_page(page, webui.url)
    for place, colour in (("#pictures", "red"), ("#question", "blue")):
        path = tmp_path / f"{colour}.png"
        path.write_bytes(png(42, 28, colour))  # a size of its own: new to the engine
        page.set_input_files(f"{place} input[type=file]", path)
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#question").get_by_role("listitem")).to_have_count(1)
    send(page, "both")
    expect(page.locator("#talk")).to_contain_text("2 images, last: both", timeout=10 * SECONDS)
    parts = webui.engine.seen()[-1]["body"]["messages"][0]["content"]
    sent = [base64.b64decode(p["image_url"]["url"].split(",")[1]) for p in parts[:2]]
    assert sent == [png(42, 28, "red"), png(42, 28, "blue")]


DROP = """([selector, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
    const target = document.querySelector(selector);
    for (const name of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(name, {dataTransfer: data, bubbles: true}));
}"""

PASTE = """([selector, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
    document.querySelector(selector).dispatchEvent(
        new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
}"""


def test_dropped_and_pasted_pictures_are_attached(page: Page, webui: Webui) -> None:
    """Dropped on the left, pasted into the question."""
    open_page(page, webui.url)
    page.evaluate(DROP, ["#pictures button", list(png(40, 30, "red"))])
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)
    page.evaluate(PASTE, ["#question textarea", list(png(40, 30, "blue"))])
    expect(page.locator("#question").get_by_role("listitem")).to_have_count(1)
    send(page, "both")
    expect(page.locator("#talk")).to_contain_text("2 images, last: both", timeout=10 * SECONDS)


def test_html_of_the_model_stays_text(page: Page, webui: Webui) -> None:
    """What the model writes cannot run in the reader's browser."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_page(page, webui.url)
    send(page, '<img src="/evil" onerror="window.evil=1"><script>window.evil=1</script> end')
    expect(page.locator("#talk")).to_contain_text("1 2 3", timeout=10 * SECONDS)
    assert page.evaluate("window.evil") is None
    assert [url for url in asked if not url.startswith((webui.url, "data:", "blob:"))] == []


@pytest.fixture
def canary() -> Iterator[str]:
    """The address of a server elsewhere, which nobody may ask for anything.

    A connection alone is none: Chromium opens one before it looks whether it may.
    """
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        server.setblocking(False)
        yield f"127.0.0.1:{port}"
        asked = []
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = server.accept()
                connection.setblocking(False)
                with connection, contextlib.suppress(BlockingIOError):
                    asked.append(connection.recv(1000))
        assert b"".join(asked) == b""


EVIL = """
<img src="x" onerror="window.evil=1"> <svg onload="window.evil=2"><a href="#">a</a></svg>
<script>window.evil=3</script> <iframe src="javascript:parent.evil=4"></iframe>
<a href="javascript:window.evil=5">b</a> <form action="http://{0}/f"><input name="c"></form>

[d](javascript:window.evil=6) [e](JaVaScRiPt:window.evil=7) [f](data:text/html,<b>g</b>)
[h](vbscript:x) [i](https://example.com/)

![j](http://{0}/x.png) ![k](//{0}/x.png) <img src="http://{0}/y.png"> <video src="//{0}/v"></video>
<link rel="stylesheet" href="http://{0}/z.css"> <div style="background:url(http://{0}/w)">l</div>
<meta http-equiv="refresh" content="0; url=http://{0}/m">

The end.
"""
HANDLERS = """talk => [...talk.querySelectorAll("*")].flatMap(
    element => element.getAttributeNames().filter(name => name.startsWith("on")))"""
LINKS = """talk => [...talk.querySelectorAll("a")].flatMap(link => link.getAttributeNames().filter(
    name => name.endsWith("href")).map(name => link.getAttribute(name)))"""


@pytest.mark.fault(25, "nothing of it runs, no link leads to a script, nobody is called")
def test_what_the_model_writes_neither_runs_nor_calls(
    page: Page, webui: Webui, canary: str
) -> None:
    """HTML, links and pictures in an answer, as a picture with a hidden text could dictate them."""
    webui.engine.script(says=[EVIL.format(canary), "Good again."])
    open_page(page, webui.url)
    send(page, "say it")
    talk = page.locator("#talk")
    expect(talk).to_contain_text("The end.", timeout=20 * SECONDS)
    expect(talk.get_by_role("link", name="i", exact=True)).to_be_visible()
    assert set(talk.evaluate(LINKS)) <= {"https://example.com/", "#"}
    assert talk.evaluate(HANDLERS) == []
    assert talk.locator("script, iframe, link, meta").count() == 0
    send(page, "and now")
    expect(talk).to_contain_text("Good again.", timeout=20 * SECONDS)
    assert page.evaluate("window.evil") is None
    for form in talk.locator("form").all():
        with page.expect_console_message(lambda said: "form-action" in said.text):
            form.evaluate("form => form.submit()")  # as a reader would who believes it
    assert page.url.startswith(webui.url)


def test_refusal_of_the_engine_keeps_the_draft(page: Page, webui: Webui) -> None:
    """The engine's reason is shown, and the question can be sent again."""
    webui.engine.script(status=400)
    open_page(page, webui.url)
    send(page, "my long question")
    expect(page.get_by_text("as the script says")).to_be_visible(timeout=10 * SECONDS)
    expect(page.locator("#question textarea")).to_have_value("my long question")
