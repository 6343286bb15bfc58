"""Comments in a silent stream: between events, whatever the reader does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from webui.gateway.relay import KEEP_ALIVE, Heartbeat

SECONDS = 0.05


class Reader:
    """An ASGI ``send`` that can be made to wait."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.ready = asyncio.Event()
        self.ready.set()

    async def send(self, message: Any) -> None:
        self.got.append(message["body"])
        await self.ready.wait()


async def passed_on(chunks: list[bytes], *, slow: bool = False) -> list[bytes]:
    """What went out, with a silence of several beats after each chunk."""
    reader = Reader()
    heartbeat = Heartbeat(reader.send, SECONDS)
    beating = asyncio.create_task(heartbeat.run())
    for chunk in chunks:
        if slow:
            reader.ready.clear()
        passing = asyncio.create_task(heartbeat.pass_on(chunk))
        await asyncio.sleep(3.5 * SECONDS)
        reader.ready.set()
        await passing
    beating.cancel()
    return reader.got


@pytest.mark.parametrize("chunks", [[b"data: 1\n\n"], [b"data: 1\n", b"\n"]])
def test_comments_come_after_whole_events(chunks: list[bytes]) -> None:
    """Also when the end of one came in two pieces."""
    got = asyncio.run(passed_on(chunks))
    assert got[: len(chunks)] == chunks
    assert set(got[len(chunks) :]) == {KEEP_ALIVE}


def test_no_comment_inside_an_event() -> None:
    """However long the rest of it takes."""
    chunks = [b'data: {"a', b'": 1}\n\n']
    got = asyncio.run(passed_on(chunks))
    assert got[:2] == chunks


def test_no_comment_behind_a_reader_that_holds_up_half_an_event() -> None:
    """The comment would be written into the middle."""
    chunks = [b"data: 0\n\n", b'data: {"a', b'": 1}\n\n']
    got = asyncio.run(passed_on(chunks, slow=True))
    assert b"".join(part for part in got if part != KEEP_ALIVE) == b"".join(chunks)
    assert got.index(chunks[2]) == got.index(chunks[1]) + 1
