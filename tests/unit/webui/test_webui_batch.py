"""webui.batch: many pictures, one question, and a folder that remembers."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from support import png

from webui.batch import work
from webui.batch.__main__ import Order, main, parse
from webui.batch.work import (
    Asker,
    BatchError,
    Journal,
    Picture,
    Progress,
    Result,
    in_words,
    pictures_in,
    run,
)
from webui.client.tasks import TASKS
from webui.pictures import PictureError

QUESTION = {"words": "What is it?"}


def picture(name: str) -> Picture:
    return Picture(name, lambda: png(46, 31, "red"))


def finished(
    pictures: Sequence[Picture],
    journal: Journal,
    ask: Callable[[Picture], Awaitable[Result]],
    at_once: int = 2,
) -> list[Progress]:
    async def all_of_it() -> list[Progress]:
        return [progress async for progress in run(pictures, journal, ask, at_once)]

    return asyncio.run(all_of_it())


async def answer(asked: Picture) -> Result:
    return Result(asked.name, f"It is {asked.name}.")


def test_pictures_are_found_in_folders(tmp_path: Path) -> None:
    """And below them, by name; neither hidden ones nor other files."""
    for name in ("b.PNG", "sub/a.jpg", "notes.txt", ".hidden/x.png", "__MACOSX/y.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    pictures, others = pictures_in(tmp_path)
    assert [each.name for each in pictures] == ["b.PNG", "sub/a.jpg"]
    assert others == 3
    assert [each.name for each in pictures_in(tmp_path / "b.PNG")[0]] == ["b.PNG"]


def test_pictures_are_found_in_a_zip_file(tmp_path: Path) -> None:
    """Read one at a time, and no more of one than is good."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sub/b.png", png(46, 31, "red"))
        archive.writestr("a.jpg", bytes(70_000_000))
        archive.writestr("notes.txt", b"x")
    pictures, others = pictures_in(tmp_path / "a.zip")
    assert [each.name for each in pictures] == ["a.jpg", "sub/b.png"]
    assert others == 1
    assert pictures[1].read() == png(46, 31, "red")
    with pytest.raises(PictureError, match="64 MB"):
        pictures[0].read()


@pytest.mark.parametrize("name", ["nowhere", "broken.zip", "empty", "a.txt"])
def test_where_there_is_no_picture_it_is_said(tmp_path: Path, name: str) -> None:
    """Before anything is asked."""
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_bytes(b"x")
    with pytest.raises(BatchError, match=name):
        pictures_in(tmp_path / name)


def test_so_many_are_asked_at_once_and_no_more(tmp_path: Path) -> None:
    """And progress only moves on."""
    at_work, most = 0, 0

    async def ask(asked: Picture) -> Result:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.001)
        at_work -= 1
        return await answer(asked)

    pictures = [picture(str(number)) for number in range(20)]
    steps = finished(pictures, Journal(tmp_path, QUESTION), ask, at_once=3)
    assert most == 3
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[0].done, steps[-1].done, steps[-1].left_s) == (0, 20, 0)


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    """What failed is; also in another process, after half a line was written."""

    async def ask(asked: Picture) -> Result:
        return Result(asked.name, error="no") if asked.name == "b" else await answer(asked)

    pictures = [picture(name) for name in "abc"]
    assert finished(pictures, Journal(tmp_path, QUESTION), ask)[-1].failed == 1
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"file": "c", "answ')
    asked: list[str] = []

    async def ask_again(each: Picture) -> Result:
        asked.append(each.name)
        return await answer(each)

    journal = Journal(tmp_path, QUESTION)
    last = finished([*pictures, picture("d")], journal, ask_again)[-1]
    assert asked == ["b", "d"]
    assert (last.done, last.failed, last.now) == (4, 0, 2)
    again = Journal(tmp_path, QUESTION).results
    assert {name: result.answer for name, result in again.items()} == {
        name: f"It is {name}." for name in "abcd"
    }


def test_leaving_in_the_middle_stops_what_is_asked(tmp_path: Path) -> None:
    """And keeps what had come."""
    ended: list[str] = []

    async def ask(asked: Picture) -> Result:
        if asked.name == "a":
            return await answer(asked)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(asked.name)
        return await answer(asked)

    async def leave() -> None:
        pictures = [picture(name) for name in "abc"]
        steps = run(pictures, Journal(tmp_path, QUESTION), ask, 3)
        async with contextlib.aclosing(steps):
            async for step in steps:
                if step.done:
                    return

    asyncio.run(leave())
    assert sorted(ended) == ["b", "c"]
    assert [*Journal(tmp_path, QUESTION).results] == ["a"]


def test_a_folder_is_for_one_question(tmp_path: Path) -> None:
    """Answers to two would stand in one table."""
    Journal(tmp_path, QUESTION)
    Journal(tmp_path, QUESTION)
    with pytest.raises(BatchError, match="another question"):
        Journal(tmp_path, {"words": "What colour is it?"})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BatchError, match="cannot be written"):
        Journal(tmp_path / "file" / "below", QUESTION)


def test_the_table_has_a_row_for_each_answer(tmp_path: Path) -> None:
    """JSON in columns of its own; nothing that a spreadsheet would calculate."""
    journal = Journal(tmp_path, QUESTION)
    journal.add(Result("b.png", '{"total": "9", "items": [{"name": "x"}, {"name": "=y"}]}'))
    journal.add(Result("=a.png", "plain"))
    journal.add(Result("c.png", error="too large"))
    with journal.write_table().open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.reader(file)]
    assert rows == [
        ["file", "answer", "total", "items.name", "error"],
        ["'=a.png", "plain", "", "", ""],
        ["b.png", "", "9", "x", ""],
        ["b.png", "", "9", "'=y", ""],
        ["c.png", "", "", "", "too large"],
    ]


class Api:
    """Answers with one status after the other; the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = [*statuses]
        self.asked: list[Any] = []

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url="http://box/v1",
            api_key="k",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer)),
        )

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(json.loads(request.content))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == 0:
            raise httpx2.ConnectError("refused")
        if status != 200:
            return httpx2.Response(status, json={"error": {"message": f"because of {status}"}})
        message = {"role": "assistant", "content": "Red."}
        used = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice], "usage": used})

    def ask(self, asked: Picture) -> Result:
        async def ask() -> Result:
            async with self.client() as client:
                return await Asker(client, {"model": "m"}, "What colour?")(asked)

        return asyncio.run(ask())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "FIRST_PAUSE_S", 0.0)


def test_a_picture_is_asked_about() -> None:
    """As data, with its words behind it."""
    api = Api(200)
    found = api.ask(picture("a.png"))
    assert (found.file, found.answer, found.error) == ("a.png", "Red.", "")
    assert (found.prompt_tokens, found.completion_tokens) == (5, 2)
    [first, second] = api.asked[0]["messages"][0]["content"]
    assert first["image_url"]["url"].startswith("data:image/png;base64,")
    assert second == {"type": "text", "text": "What colour?"}


@pytest.mark.parametrize("status", [0, 429, 503])
def test_an_engine_that_restarts_is_waited_for(status: int) -> None:
    """Or one that is full, more often than one that breaks."""
    api = Api(*[status] * 6, 200)
    assert api.ask(picture("a.png")).answer == "Red."
    assert len(api.asked) == 7


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last reason."""
    monkeypatch.setattr(work, "PATIENCE_S", -1.0)
    assert "because of 503" in Api(503).ask(picture("a.png")).error


@pytest.mark.parametrize(("status", "times"), [(400, 1), (413, 1), (500, 3), (502, 3)])
def test_what_will_not_change_is_not_asked_for_ever(status: int, times: int) -> None:
    """A picture may be what an engine breaks of."""
    api = Api(status)
    assert f"because of {status}" in api.ask(picture("a.png")).error
    assert len(api.asked) == times


def test_what_is_no_picture_is_no_question() -> None:
    """Its reason stands in the results."""
    api = Api(200)
    found = api.ask(Picture("a.png", lambda: b"hello"))
    assert "a.png" in found.error
    assert not api.asked


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(0, 0, 10, 0, 0.0), "0 of 10"),
        (Progress(5, 0, 10, 5, 10.0), "5 of 10, about 10 s left"),
        (Progress(8, 1, 109, 9, 90.0), "8 of 109, 1 failed, about 17 min left"),
        (Progress(1, 0, 10_001, 1, 2.0), "1 of 10001, about 5.6 h left"),
        (Progress(9, 1, 10, 10, 9.0), "9 of 10, 1 failed"),
    ],
)
def test_progress_is_told_in_words(progress: Progress, words: str) -> None:
    """With the time that is left."""
    assert in_words(progress) == words


def test_a_task_brings_its_settings() -> None:
    """The operator's own, too; other words may take the place of its own."""
    own = {
        "name": "mine",
        "title": {"en": "Mine", "zh": "我的"},
        "prompt": {"en": "Count.", "zh": "数一数。"},
        "temperature": 0.5,
        "max_tokens": 64,
        "json_schema": None,
    }
    environ = {"WEBUI_TASKS": json.dumps([own]), "STEP3VL_API_KEY": "k"}
    asked = ["in", "out", "--task", "mine", "--language", "zh", "--thinking", "off"]
    _, _, order = parse(asked, environ)
    assert order.words == "数一数。"
    assert order.request() == {
        "max_tokens": 64,
        "temperature": 0.5,
        "extra_body": {"thinking": "off"},
    }
    assert (order.api, order.key) == ("http://localhost:7860/api/v1", "k")
    _, _, order = parse(["in", "out", "--task", "invoice", "--prompt", "Read."], {})
    assert order.words == "Read."
    assert order.request()["response_format"] == TASKS["invoice"].response_format


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["in", "out"], "say what to ask"),
        (["in", "out", "--task", "other"], "there are analysis,"),
        (["in", "out", "--prompt", "x", "--url", "box:7860"], "http://HOST:PORT"),
        (["in", "out", "--prompt", "x", "--url", "http://box:x"], "http://HOST:PORT"),
        (["in", "out", "--prompt", "x"], "in: there is no picture"),
    ],
)
def test_a_wrong_order_is_refused(
    given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do, and the exit code for it."""
    assert main(given) == 2
    assert words in capsys.readouterr().err


def test_an_address_may_be_the_apis_own() -> None:
    """As it stands in other programs' settings."""
    for url in ("http://box/api/v1/", "http://box/v1"):
        order: Order = parse(["in", "out", "--prompt", "x", "--url", url], {})[2]
        assert order.api == url.rstrip("/")
