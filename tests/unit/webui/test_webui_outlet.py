"""A stream on its way out: at once, in order, and with comments where it is silent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from webui.gateway.relay import KEEP_ALIVE, Outlet, begun

SECONDS = 0.05


class Source:
    """An engine's answer that can be told to wait."""

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


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
    reader, source = Reader(), Source()
    outlet = Outlet(reader.send, SECONDS, source)  # type: ignore[arg-type]
    for chunk in chunks:
        if slow:
            reader.ready.clear()
        outlet.pass_on(chunk)
        assert source.paused is slow
        await asyncio.sleep(3.5 * SECONDS)
        reader.ready.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not source.paused
    await outlet.close()
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


def test_what_waits_for_its_client_goes_out_before_the_end() -> None:
    """Closing waits for it; nothing is sent afterwards."""

    async def run() -> tuple[bool, list[bytes]]:
        reader = Reader()
        outlet = Outlet(reader.send, SECONDS, Source())  # type: ignore[arg-type]
        reader.ready.clear()
        outlet.pass_on(b"data: 1\n\n")
        closing = asyncio.create_task(outlet.close())
        await asyncio.sleep(3 * SECONDS)
        waited = not closing.done()
        reader.ready.set()
        await closing
        await asyncio.sleep(3 * SECONDS)
        return waited, reader.got

    assert asyncio.run(run()) == (True, [b"data: 1\n\n"])


async def _in_steps(log: list[str], gate: asyncio.Event) -> None:
    log.append("begun")
    try:
        await gate.wait()
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    log.append("done")


def test_what_need_not_wait_is_done_at_once() -> None:
    """And nothing is left of it."""

    async def run() -> list[str]:
        log: list[str] = []

        async def at_once() -> None:
            log.append("done")

        assert begun(at_once()) is None
        return log

    assert asyncio.run(run()) == ["done"]


def test_the_rest_can_be_awaited() -> None:
    """Where it waits more than once, too."""

    async def run() -> list[str]:
        log, gate = [], asyncio.Event()
        rest = begun(_in_steps(log, gate))
        assert rest is not None
        log.append("waits")
        asyncio.get_running_loop().call_soon(gate.set)
        await rest
        return log

    assert asyncio.run(run()) == ["begun", "waits", "done"]


def test_the_rest_can_be_cancelled() -> None:
    """It learns of it where it waits."""

    async def run() -> list[str]:
        log: list[str] = []
        rest = begun(_in_steps(log, asyncio.Event()))
        assert rest is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await rest
        return log

    assert asyncio.run(run()) == ["begun", "cancelled"]


def test_an_error_after_waiting_is_the_awaiters() -> None:
    """As of any other coroutine."""

    async def run() -> None:
        async def failing() -> None:
            await asyncio.sleep(0)
            raise LookupError

        rest = begun(failing())
        assert rest is not None
        with pytest.raises(LookupError):
            await rest

    asyncio.run(run())
