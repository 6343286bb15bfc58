"""How fast the page is, in a real browser, over the stand-in for the engine.

    python -m benchmarks.page [--rounds N] [--seconds S] [--out FILE]

- from the address to a page that takes a question, with an empty cache; what is transferred, and
  the size of the JavaScript heap;
- from the first token in this process to the first letter on the screen;
- turn 31 of a talk with 20 photos beside turn 2 of one without: time to the first letter, and bytes
  sent by the browser;
- the API's time to the first token while 50 visitors chat, beside the same without them.

Prints Markdown; exit code 1 if a figure is missed. Needs the ``test`` extra and a Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import re
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image
from playwright.sync_api import Browser, CDPSession, Page, expect, sync_playwright

from benchmarks.installation import Installation, conditions, run, table, verdict
from launcher.testing import ensure_browser

INTERACTIVE_LIMIT_S = 2.5
SCREEN_LIMIT_S = 0.15
LATE_TURN_SHARE = 1.2
BUSY_SHARE = 2.0

SETTLE_MS = 2000
VISITORS = 50
# Those of a real box have machines of their own.
VISITORS_NICE = 10
# They come one after the other, as people do.
COMING_S = 5
REQUESTS_A_SECOND = 10
PHOTOS, TURNS = 20, 29
# An answer takes two seconds, at a speed at which people read.
SCRIPT = {"words": 40, "delay_s": 0.05, "context": 1_000_000}
# From the key to the first letter of an answer, by the browser's own clock.
WATCH = """() => {
  const last = () => [...document.querySelectorAll("#talk .bot")].at(-1)?.innerText ?? "";
  const before = last();
  window.firstLetter = new Promise((resolve) => {
    const begun = performance.now();
    const look = () => {
      const now = last();
      if (now !== before && /[0-9A-Za-z]/.test(now.replace("Thinking", ""))) {
        resolve((performance.now() - begun) / 1000);
        observer.disconnect();
      }
    };
    const observer = new MutationObserver(look);
    observer.observe(document.querySelector("#talk"),
                     { childList: true, subtree: true, characterData: true });
  });
}"""


@dataclass(frozen=True)
class Load:
    """Of the page, once: seconds, bytes over the network, bytes of JavaScript's objects."""

    seconds: float
    transferred: float
    heap: float


@dataclass(frozen=True)
class Answer:
    """From the key to the first letter; how long the server says that the engine took; bytes that
    the browser sent."""

    seconds: float
    server_s: float
    sent: int


def load(browser: Browser, url: str) -> Load:
    """With an empty cache, until a question can be typed."""
    context = browser.new_context()
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Network.enable")
    devtools.send("Performance.enable")
    sizes: list[float] = []
    devtools.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    begun = time.monotonic()
    page.goto(url, wait_until="commit")
    page.locator("#question textarea").wait_for()
    page.locator("#question textarea").fill("?")
    seconds = time.monotonic() - begun
    # The page asks for the engine's state for as long as it is open: it is never idle.
    page.locator("#banner .dot.good").wait_for()
    page.wait_for_timeout(SETTLE_MS)
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    [heap] = [each["value"] for each in metrics if each["name"] == "JSHeapUsedSize"]
    context.close()
    return Load(seconds, sum(sizes), heap)


def ask(page: Page, devtools: CDPSession, words: str) -> Answer:
    """And wait for the end of the answer."""
    sent: list[int] = []

    def note(event: dict[str, Any]) -> None:
        sent.append(len(event["request"].get("postData", "")))

    expect(page.locator("#question button.submit-button")).to_be_visible(timeout=30_000)
    figures = page.locator("#talk").get_by_text(re.compile(r"s to the first token"))
    page.fill("#question textarea", words)
    devtools.on("Network.requestWillBeSent", note)
    page.evaluate(WATCH)
    page.keyboard.press("Enter")
    seconds = float(page.evaluate("window.firstLetter"))
    expect(page.locator("#question button.submit-button")).to_be_visible(timeout=30_000)
    devtools.remove_listener("Network.requestWillBeSent", note)
    found = re.search(r"([0-9.]+) s to the first token", figures.last.inner_text())
    return Answer(seconds, float(found[1]) if found else 0.0, sum(sent))


def saved_talk() -> bytes:
    """A talk of many turns with photos, as the page saves it."""
    pictures = []
    for number in range(PHOTOS):
        image = Image.effect_noise((1000, 750), 40 + number).convert("RGB")
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=60)
        url = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
        pictures.append([{"name": f"photo-{number}.jpg", "url": url}])
    turns = [
        {
            "question": f"What is in picture {number}?",
            "pictures": pictures[number] if number < PHOTOS else [],
            "answer": "Noise. " * 30,
        }
        for number in range(TURNS)
    ]
    return json.dumps({"format": "step3vl-conversation", "version": 1, "turns": turns}).encode()


def late_and_early(browser: Browser, url: str, folder: Path, rounds: int) -> list[list[Answer]]:
    """Turns 31 and later of the long talk, and turns 2 of short ones."""
    (folder / "talk.json").write_bytes(saved_talk())
    context = browser.new_context()
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Network.enable")
    page.goto(url)
    page.locator("#question textarea").wait_for()
    early = []
    for _ in range(rounds):
        page.locator("#new").click()
        expect(page.locator("#talk .bot")).to_have_count(0)
        ask(page, devtools, "first")
        early.append(ask(page, devtools, "second"))
    with page.expect_file_chooser() as chooser:
        page.locator("#open-file").click()
    chooser.value.set_files(folder / "talk.json")
    expect(page.locator("#talk")).to_contain_text(f"What is in picture {TURNS - 1}?")
    ask(page, devtools, "turn 30: the engine gets to know the pictures")
    late = [ask(page, devtools, f"turn {TURNS + 2 + number}") for number in range(rounds)]
    context.close()
    return [late, early]


async def first_tokens(url: str, model: str, seconds: float) -> list[float]:
    """Of the API: a streamed answer begins every tenth of a second."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    found: list[float] = []

    async def one(session: aiohttp.ClientSession) -> None:
        begun = time.monotonic()
        async with session.post(f"{url}/api/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if b'"reasoning"' in line or b'"content":"1' in line:
                    found.append(time.monotonic() - begun)
                    return

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = []
        for _ in range(int(seconds * REQUESTS_A_SECOND)):
            tasks.append(asyncio.create_task(one(session)))
            await asyncio.sleep(1 / REQUESTS_A_SECOND)
        await asyncio.gather(*tasks)
    return found


async def chat(url: str, events: tuple[int, int], until: float) -> int:
    """What a browser does whose visitor asks again and again; how many answers came.

    Args:
        events: numbers of the one that takes a question and of the one that answers it.
    """
    answers, cookies, name = 0, aiohttp.CookieJar(unsafe=True), secrets.token_hex(8)
    question = [{"text": "hi", "files": []}, [], None, ""]
    options = [None, "auto", True, 0.7, 1.0, 2048, ""]
    async with aiohttp.ClientSession(cookie_jar=cookies, read_bufsize=2**22) as session:
        (await session.get(url)).release()
        while time.monotonic() < until:
            for path, event, values in (
                ("run/predict", events[0], question),
                ("queue/join", events[1], options),
            ):
                order = {"data": values, "fn_index": event, "session_hash": name, "trigger_id": 1}
                async with session.post(f"{url}/gradio_api/{path}", json=order) as response:
                    response.raise_for_status()
            address = f"{url}/gradio_api/queue/data?session_hash={name}"
            async with session.get(address, headers={"accept": "text/event-stream"}) as stream:
                async for line in stream.content:
                    if b'"process_completed"' in line:
                        answers += json.loads(line.removeprefix(b"data:"))["success"]
                        break
    return answers


async def with_visitors(url: str, model: str, seconds: float) -> tuple[list[float], int]:
    """First tokens of the API while visitors chat, and how many answers those got."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/config") as response:
        config = await response.json()
    [question] = [
        each["id"] for each in config["components"] if each["props"].get("elem_id") == "question"
    ]
    [submit] = [
        each["id"] for each in config["dependencies"] if [question, "submit"] in each["targets"]
    ]
    [answer] = [
        each["id"]
        for each in config["dependencies"]
        if each["trigger_after"] == submit and each["queue"] is not False
    ]
    until = time.monotonic() + seconds + 2 * COMING_S
    # In another process, or the clients of the API would wait for theirs, and that be measured.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        answers = asyncio.wrap_future(pool.submit(visit, url, (submit, answer), until))
        await asyncio.sleep(COMING_S + 1)
        return await first_tokens(url, model, seconds), await answers


def visit(url: str, events: tuple[int, int], until: float) -> int:
    """As many visitors as are wanted; how many answers they got. See :func:`chat`."""
    os.nice(VISITORS_NICE)

    async def come() -> int:
        visitors = []
        for _ in range(VISITORS):
            visitors.append(asyncio.create_task(chat(url, events, until)))
            await asyncio.sleep(COMING_S / VISITORS)
        return sum(await asyncio.gather(*visitors))

    return asyncio.run(come())


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def measured(box: Installation, rounds: int, seconds: float) -> str:
    """The figures, as Markdown."""
    url = f"http://127.0.0.1:{box.port}"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=ensure_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        load(browser, url)  # the first of a new process compiles what the others find
        loads = [load(browser, url) for _ in range(rounds)]
        late, early = late_and_early(browser, url, Path(folder), rounds)
        browser.close()
    alone = asyncio.run(first_tokens(url, box.model, seconds))
    busy, answers = asyncio.run(with_visitors(url, box.model, seconds))
    opened = statistics.median(each.seconds for each in loads)
    shown = statistics.median(each.seconds - each.server_s for each in early)
    slow, fast = (statistics.median(each.seconds for each in turns) for turns in (late, early))
    rows = [
        ("page takes a question", opened, INTERACTIVE_LIMIT_S, "s"),
        ("first letter after the first token", shown, SCREEN_LIMIT_S, "s"),
        ("turn 31 beside turn 2", slow / fast, LATE_TURN_SHARE, ""),
        (f"API's p99 with {VISITORS} visitors beside none", p99(busy) / p99(alone), BUSY_SHARE, ""),
    ]
    figures = [
        [
            name,
            f"{value:.3f} {unit}".strip(),
            f"{limit:g} {unit}".strip(),
            verdict(met=value <= limit),
        ]
        for name, value, limit, unit in rows
    ]
    sent = [statistics.median(each.sent for each in turns) for turns in (late, early)]
    notes = [
        f"Transferred for the page: {loads[-1].transferred / 1e6:.2f} MB; JavaScript's heap:"
        f" {loads[-1].heap / 1e6:.1f} MB.",
        f"First letter: turn 31 after {slow:.3f} s, turn 2 after {fast:.3f} s; sent by the browser:"
        f" {sent[0]:.0f} and {sent[1]:.0f} bytes.",
        f"API, first token p99: {p99(alone) * 1000:.0f} ms alone, {p99(busy) * 1000:.0f} ms beside"
        f" {VISITORS} visitors, who got {answers} answers.",
    ]
    return "\n\n".join(
        [conditions(box), table(["", "measured", "limit", ""], figures), "\n".join(notes)]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each (5)")
    parser.add_argument("--seconds", type=float, default=20, help="of load on the API (20)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there too")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        box = Installation(Path(folder), real=False, script=SCRIPT)

        def work() -> str:
            box.up()
            return measured(box, given.rounds, given.seconds)

        return run(box, work, given.out)


if __name__ == "__main__":
    raise SystemExit(main())
