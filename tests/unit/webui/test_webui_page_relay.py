"""webui.page_relay: requests on their way to the page's process, and answers on their way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.page_relay import PageRelay, State
from webui.private_socket import serving

LIMIT_S = 20.0


class Answer:
    """What a client gets, as far as it has come, and what it still sends."""

    def __init__(self, scope: Scope, *body: bytes) -> None:
        self.scope = scope
        self.body = b""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False
        self.came = asyncio.Event()
        self._left = asyncio.Queue[Message]()
        for piece in body:
            self.send_on(piece)

    def send_on(self, piece: bytes) -> None:
        """Of the body, of which an empty piece is the end."""
        self._left.put_nowait({"type": "http.request", "body": piece, "more_body": bool(piece)})

    def leave(self) -> None:
        self._left.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        message = await self._left.get()
        if message["type"] == "http.disconnect":
            self.leave()  # it is still away when asked again
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message["body"]
            self.is_whole = not message.get("more_body", False)
        self.came.set()


def scope_of(path: str, method: str = "GET", *headers: tuple[bytes, bytes], **more: Any) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"box.example"), *headers],
        "client": ("192.0.2.7", 1),
        **more,
    }


def relayed(
    app: ASGIApp, tmp_path: Path, work: Callable[[PageRelay], Coroutine[Any, Any, Any]]
) -> Any:
    """What ``work`` returns, with a relay to a page that is this application."""

    @asynccontextmanager
    async def relay() -> AsyncIterator[PageRelay]:
        async with serving(app, tmp_path / "page.sock", behind_proxy=True):
            relay = PageRelay(tmp_path / "page.sock")
            try:
                yield relay
            finally:
                await relay.close()

    async def run() -> Any:
        async with asyncio.timeout(LIMIT_S), relay() as found:
            return await work(found)

    return asyncio.run(run())


def answer_to(app: ASGIApp, tmp_path: Path, scope: Scope, *body: bytes) -> Answer:
    """Of one request."""

    async def work(relay: PageRelay) -> Answer:
        answer = Answer(scope, *body)
        await relay(scope, answer.receive, answer.send)
        return answer

    answer: Answer = relayed(app, tmp_path, work)
    return answer


async def whole_body(receive: Receive) -> bytes:
    body, is_more = b"", True
    while is_more:
        message = await receive()
        body, is_more = body + message["body"], message.get("more_body", False)
    return body


def test_a_request_arrives_as_it_was_sent(tmp_path: Path) -> None:
    """Path and query undecoded, headers that come twice; only who asks is told by the gateway."""
    seen: list[Scope] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope | {"body": await whole_body(receive)})
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    headers = [
        (b"cookie", b"a=1"),
        (b"cookie", b"b=\xc3\xa9"),
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-forwarded-proto", b"https"),
        (b"connection", b"keep-alive, upgrade"),
        (b"upgrade", b"h2c"),
        (b"content-length", b"6"),
    ]
    scope = scope_of("/a%2Fb/%00x", "PUT", *headers, query_string=b"c=%20d&e=[\x80]")
    assert answer_to(page, tmp_path, scope, b"abc", b"def", b"").status == 204
    [found] = seen
    assert (found["method"], found["body"]) == ("PUT", b"abcdef")
    assert (found["raw_path"], found["query_string"]) == (b"/a%2Fb/%00x", b"c=%20d&e=[%80]")
    assert found["client"][0] == "192.0.2.7"
    assert found["scheme"] == "https"
    kept = [*headers[:2], headers[3], headers[6], (b"host", b"box.example")]
    assert sorted(found["headers"]) == sorted([*kept, (b"x-forwarded-for", b"192.0.2.7")])


def test_a_path_without_its_prefix_is_encoded_again(tmp_path: Path) -> None:
    """Behind a proxy the undecoded path is not known."""
    seen: list[Scope] = []

    async def page(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    answer_to(page, tmp_path, scope_of("/图 ?#%.png", raw_path=None))
    assert seen[0]["path"] == "/图 ?#%.png"


def test_an_answer_arrives_as_it_was_sent(tmp_path: Path) -> None:
    """Compressed or not, a redirect, and headers that come twice."""
    headers = [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"location", b"/elsewhere"),
        (b"content-encoding", b"gzip"),
        (b"content-length", b"9"),
    ]

    async def page(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b"not gzip."})

    answer = answer_to(page, tmp_path, scope_of("/"))
    assert (answer.status, answer.body, answer.is_whole) == (307, b"not gzip.", True)
    assert answer.headers == headers


def test_pieces_pass_as_they_come(tmp_path: Path) -> None:
    """Both ways: nothing waits for a whole request or a whole answer."""

    async def page(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        is_more = True
        while is_more:
            message = await receive()
            is_more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body"})

    async def work(relay: PageRelay) -> bytes:
        scope = scope_of("/", "POST", (b"content-length", b"3"))
        answer = Answer(scope)
        relaying = asyncio.create_task(relay(scope, answer.receive, answer.send))
        for number in range(3):
            answer.send_on(b"%d" % number)
            while not answer.body.endswith(b"%d" % number):
                answer.came.clear()
                await answer.came.wait()
        answer.send_on(b"")
        await relaying
        return answer.body

    assert relayed(page, tmp_path, work) == b"012"


@pytest.mark.parametrize("sends", [False, True])
def test_the_page_learns_that_its_client_has_left(tmp_path: Path, sends: bool) -> None:
    """In the middle of an answer, or of what it sends."""
    begun, told = asyncio.Event(), asyncio.Event()

    async def page(_scope: Scope, receive: Receive, send: Send) -> None:
        if not sends:
            await whole_body(receive)
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    async def work(relay: PageRelay) -> bool:
        scope = scope_of("/", "POST", (b"content-length", b"9"))
        answer = Answer(scope, b"half") if sends else Answer(scope, b"all of it", b"")
        relaying = asyncio.create_task(relay(scope, answer.receive, answer.send))
        await begun.wait()
        answer.leave()
        await relaying
        await told.wait()
        return answer.is_whole

    assert relayed(page, tmp_path, work) is False


def test_an_early_refusal_reaches_a_client_that_still_sends(tmp_path: Path) -> None:
    """As the page refuses a picture that is too large."""

    async def page(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})

    async def work(relay: PageRelay) -> Answer:
        scope = scope_of("/", "POST", (b"content-length", b"1000"))
        answer = Answer(scope, b"begin")
        await relay(scope, answer.receive, answer.send)
        return answer

    answer = relayed(page, tmp_path, work)
    assert (answer.status, answer.body, answer.is_whole) == (413, b"too large", True)


def test_an_answer_that_breaks_off_is_not_made_whole(tmp_path: Path) -> None:
    """The server in front then breaks its own off."""

    async def page(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    answer = answer_to(page, tmp_path, scope_of("/"))
    assert (answer.status, answer.body, answer.is_whole) == (200, b"half", False)


@pytest.mark.parametrize(
    ("path", "method", "broken", "status"),
    [
        ("/", "GET", False, 200),
        ("/", "GET", True, 500),
        ("/", "POST", False, 503),
        ("/config", "GET", True, 503),
    ],
)
def test_without_a_page_visitors_are_told(
    tmp_path: Path, path: str, method: str, broken: bool, status: int
) -> None:
    """A person by a page that reloads itself, a program by when to come again."""

    async def run() -> Answer:
        relay = PageRelay(tmp_path / "nobody.sock")
        relay.is_broken = broken
        answer = Answer(scope_of(path, method))
        await relay(answer.scope, answer.receive, answer.send)
        assert await relay.state(1.0) is State.ABSENT
        await relay.close()
        return answer

    answer = asyncio.run(run())
    assert (answer.status, answer.is_whole) == (status, True)
    if status == 503:
        assert (b"retry-after", b"2") in answer.headers
    else:
        assert b'http-equiv="refresh"' in answer.body
        assert (b"could not start" in answer.body) == broken


@pytest.mark.parametrize(("status", "state"), [(200, State.ANSWERS), (500, State.SILENT)])
def test_it_is_seen_whether_the_page_answers(tmp_path: Path, status: int, state: State) -> None:
    """One that listens and says nothing hangs."""
    asked: list[str] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        if len(asked) == 1:
            await receive()
            await receive()  # up to the end of the connection
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    async def work(relay: PageRelay) -> list[State]:
        return [await relay.state(0.1), await relay.state(LIMIT_S)]

    assert relayed(page, tmp_path, work) == [State.SILENT, state]
    assert asked == ["/livez", "/livez"]


def test_hanging_up_ends_what_is_passed_on(tmp_path: Path) -> None:
    """Before the page itself is ended: a tab holds a connection for as long as it is open."""

    async def page(_scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await receive()

    async def work(relay: PageRelay) -> bool:
        answer = Answer(scope_of("/"))
        relaying = asyncio.create_task(relay(answer.scope, answer.receive, answer.send))
        await answer.came.wait()
        relay.hang_up()
        await relaying
        return answer.is_whole

    assert relayed(page, tmp_path, work) is False
