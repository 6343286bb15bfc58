"""webui.chat.batches: one for each visitor, which outlives its page and its process."""

from __future__ import annotations

import asyncio
import json
import os
import time
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from support import png

from webui.batch.work import BatchError
from webui.chat import batches as batches_module
from webui.chat.batches import Batches, Question, Snapshot

ANNA, BEN = "anna's secret", "ben's secret"
QUESTION = Question("What is it?", {"model": "m", "extra_body": {"thinking": "off"}}, 2)


class Api:
    """Answers, unless it is told to wait."""

    def __init__(self) -> None:
        self.asked: list[httpx2.Request] = []
        self.waits = False
        self.at_work = 0
        self.most = 0

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        must_wait = self.waits and len(self.asked) > 1
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        await asyncio.sleep(0)
        self.at_work -= 1
        if must_wait:
            await asyncio.sleep(60)
        choice = {"message": {"role": "assistant", "content": "Red."}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [{"index": 0, **choice}]})


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(png(46, 31, "red"))
    return paths


def using(
    api: Api,
    folder: Path,
    do: Callable[[Batches], Awaitable[Any]],
    days: float = 30,
    shared: Path | None = None,
) -> Any:
    """In a process of its own, as it were."""

    async def run() -> Any:
        client = openai.AsyncOpenAI(
            base_url="http://box/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(api.answer)),
        )
        async with client:
            return await do(Batches(folder, client, days, shared=shared))

    return asyncio.run(run())


async def ended(batches: Batches, owner: str) -> Snapshot:
    """When it is."""
    async with asyncio.timeout(20):
        while (found := await batches.look(owner)) is None or found.is_running:
            await asyncio.sleep(0.01)
    return found


async def begun(batches: Batches, pictures: list[Path]) -> Snapshot:
    await batches.start(ANNA, pictures, QUESTION, "anna's key")
    return await ended(batches, ANNA)


def test_it_runs_to_its_end(api: Api, tmp_path: Path, pictures: list[Path]) -> None:
    """With the visitor's key, which is kept nowhere."""
    folder = tmp_path / "batches"
    found = using(api, folder, lambda batches: begun(batches, pictures))
    assert (found.progress.done, found.progress.failed, found.problem) == (2, 0, "")
    assert {result.file: result.answer for result in found.results} == {
        "a.png": "Red.",
        "b.png": "Red.",
    }
    assert api.asked[0].headers["authorization"] == "Bearer anna's key"
    assert json.loads(api.asked[0].content)["thinking"] == "off"
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"anna's" not in kept


def test_it_goes_on_in_another_process(api: Api, tmp_path: Path, pictures: list[Path]) -> None:
    """Once somebody says so: nobody has the key until then."""
    folder = tmp_path / "batches"
    api.waits = True

    async def stop_in_the_middle(batches: Batches) -> Any:
        await batches.start(ANNA, pictures, QUESTION, "")
        async with asyncio.timeout(20):
            while len(api.asked) < 2 or not (await batches.look(ANNA)).results:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        await batches.stop(ANNA)
        return await batches.look(ANNA)

    found = using(api, folder, stop_in_the_middle)
    assert (found.progress.done, found.is_running) == (1, False)
    api.waits = False

    async def go_on(batches: Batches) -> Any:
        before = await batches.look(ANNA)
        await batches.go_on(ANNA, "")
        return before, await ended(batches, ANNA)

    asked = len(api.asked)
    before, after = using(api, folder, go_on)
    assert (before.progress.done, before.progress.total, before.is_running) == (1, 2, False)
    assert after.progress.done == 2
    assert len(api.asked) == asked + 1


def test_another_visitor_has_none(api: Api, tmp_path: Path, pictures: list[Path]) -> None:
    """Neither results nor anything to go on with."""

    async def strange(batches: Batches) -> None:
        await begun(batches, pictures)
        assert await batches.look(BEN) is None
        assert await batches.files(BEN) is None
        await batches.stop(BEN)
        with pytest.raises(BatchError):
            await batches.go_on(BEN, "")
        assert (await batches.look(ANNA)).progress.done == 2  # type: ignore[union-attr]

    using(api, tmp_path / "batches", strange)


def test_a_new_one_takes_the_old_ones_place(api: Api, tmp_path: Path, pictures: list[Path]) -> None:
    """Also where the old one still runs. Of two of one name, one has a number."""
    api.waits = True
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("a.png", png(46, 31, "blue"))

    async def twice(batches: Batches) -> Any:
        await batches.start(ANNA, pictures, QUESTION, "")
        async with asyncio.timeout(20):
            while len(api.asked) < 2:
                await asyncio.sleep(0.01)
        api.waits = False
        return await begun(batches, [pictures[0], tmp_path / "more.zip"])

    found = using(api, tmp_path / "batches", twice)
    assert sorted(result.file for result in found.results) == ["a (2).png", "a.png"]


def test_old_ones_are_deleted(api: Api, tmp_path: Path, pictures: list[Path]) -> None:
    """When somebody begins another."""
    folder = tmp_path / "batches"
    using(api, folder, lambda batches: begun(batches, pictures))
    [old] = folder.iterdir()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))

    async def other(batches: Batches) -> None:
        await batches.start(BEN, pictures, QUESTION, "")
        await ended(batches, BEN)

    using(api, folder, other, days=1)
    assert old not in folder.iterdir()
    assert len([*folder.iterdir()]) == 1


def test_a_full_disk_is_said(
    api: Api, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is copied, and nothing is left."""
    monkeypatch.setattr(batches_module, "RESERVE_BYTES", 10**18)

    async def begin(batches: Batches) -> None:
        with pytest.raises(BatchError, match="disk is full"):
            await batches.start(ANNA, pictures, QUESTION, "")
        assert await batches.look(ANNA) is None

    using(api, tmp_path / "batches", begin)
    assert not [*(tmp_path / "batches").iterdir()]


def test_all_visitors_share_the_places(
    api: Api, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those whose batch rests are forgotten, not lost."""
    monkeypatch.setattr(batches_module, "MAX_AT_ONCE", 1)
    monkeypatch.setattr(batches_module, "MAX_RESTING", 1)
    visitors = [f"visitor {number}" for number in range(4)]

    async def together(batches: Batches) -> None:
        for visitor in visitors:
            await batches.start(visitor, pictures, QUESTION, "")
        for visitor in visitors:
            assert (await ended(batches, visitor)).progress.done == 2
        for visitor in visitors:
            assert (await batches.look(visitor)).progress.done == 2  # type: ignore[union-attr]

    using(api, tmp_path / "batches", together)
    assert api.most == 1


def test_what_is_no_picture_begins_nothing(api: Api, tmp_path: Path) -> None:
    """And what cannot be read any more is not there."""
    (tmp_path / "more.zip").write_bytes(b"PK no zip")

    async def begin(batches: Batches) -> Any:
        with pytest.raises(BatchError, match="no picture"):
            await batches.start(ANNA, [tmp_path / "more.zip"], QUESTION, "")
        return await batches.look(ANNA)

    assert using(api, tmp_path / "batches", begin) is None
    assert not api.asked


def test_a_folder_of_the_operators(api: Api, pictures: list[Path], tmp_path: Path) -> None:
    """Itself, and those right below it; nothing is copied, and a new process goes on with it."""
    shared = tmp_path / "shared"
    for name in ("cats", "dogs", ".git"):
        (shared / name).mkdir(parents=True)
    pictures[0].rename(shared / "cats" / "tom.png")
    (shared / "cats" / ".old").mkdir()
    pictures[1].rename(shared / "cats" / ".old" / "hidden.png")
    kept = tmp_path / "kept"

    async def start(batches: Batches) -> list[str]:
        await batches.start(ANNA, [], replace(QUESTION, folder="cats"), "")
        await ended(batches, ANNA)
        return batches.folders()

    async def look(batches: Batches) -> Snapshot | None:
        return await batches.look(ANNA)

    assert using(api, kept, start, shared=shared) == [".", "cats", "dogs"]
    assert [path.name for path in kept.rglob("*.png")] == []
    found = using(api, kept, look, shared=shared)
    assert [(result.file, result.answer) for result in found.results] == [("tom.png", "Red.")]
    (shared / "cats" / "tom.png").rename(shared / "cats" / "tim.png")
    found = using(api, kept, look, shared=shared)
    assert (found.progress.done, found.progress.total, found.progress.rest) == (0, 1, 1)


@pytest.mark.parametrize("folder", ["..", "../kept", "/etc", "cats/..", ".git", "none", "dogs"])
def test_no_other_folder_is_read(
    api: Api, pictures: list[Path], tmp_path: Path, folder: str
) -> None:
    """The message tells no path of this machine."""
    shared = tmp_path / "shared"
    for name in ("cats", "dogs", ".git"):
        (shared / name).mkdir(parents=True)
    pictures[0].rename(shared / ".git" / "a.png")

    async def start(batches: Batches) -> None:
        await batches.start(ANNA, [], replace(QUESTION, folder=folder), "")

    with pytest.raises(BatchError) as caught:
        using(api, tmp_path / "kept", start, shared=shared)
    assert str(tmp_path) not in str(caught.value)
    assert api.asked == []
    with pytest.raises(BatchError):
        using(api, tmp_path / "kept", start)
