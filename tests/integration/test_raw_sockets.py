"""Slow clients, hostile clients and malformed requests, as bytes on real sockets.

After each test an ordinary question is answered within two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import re
import resource
import selectors
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from deployments import Engine, Webui, running_webui
from raw_corpus import BODY, CL, HOST, NOT_OFFERED, PATH, REFUSED, START, TAKEN, TE, get, plain
from support import free_port, wait_for

from webui.engine_status import engine_client
from webui.settings import Settings

HEAD_S = 0.8
BODY_S = 1.2
SLACK_S = 5  # for a machine that is busy
FEW_FILES = 256


@pytest.fixture(scope="module")
def guarded_process(
    engine_process: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Webui]:
    """A WebUI with short deadlines, and with few files unless it asks for more."""
    deadlines = {"WEBUI_HEADER_TIMEOUT_S": str(HEAD_S), "WEBUI_BODY_TIMEOUT_S": str(BODY_S)}
    with contextlib.ExitStack() as stack:
        with file_limit(FEW_FILES):
            folder = tmp_path_factory.mktemp("guarded")
            webui = stack.enter_context(running_webui(folder, engine_process, **deadlines))
        # Its import takes memory, which is not to be mistaken for a client's.
        wait_for(lambda: shows_the_page(webui), 60, "the page is there too")
        yield webui


def shows_the_page(webui: Webui) -> bool:
    with urllib.request.urlopen(webui.url, timeout=10) as response:
        return b"The page is starting" not in response.read()


@contextlib.contextmanager
def file_limit(soft: int) -> Iterator[None]:
    """Of open files, for this process and those that it starts."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.fixture
def guarded(guarded_process: Webui) -> Iterator[Webui]:
    """With an engine that behaves; afterwards it still answers, and holds no connection."""
    guarded_process.engine.script()
    yield guarded_process
    guarded_process.engine.script()
    assert chat(guarded_process) < 2
    wait_for(lambda: not clients_of(guarded_process), 5, "no connection is left over")


def chat(webui: Webui, patience: float = 2) -> float:
    """Ask an ordinary question; the seconds until it was answered."""
    began = time.monotonic()
    with contextlib.closing(
        http.client.HTTPConnection(*address(webui), timeout=patience)
    ) as connection:
        connection.request("POST", PATH.decode(), BODY, {"Connection": "close"})
        response = connection.getresponse()
        assert response.status == 200
        assert json.load(response)["choices"][0]["message"]["content"]
    return time.monotonic() - began


def address(webui: Webui) -> tuple[str, int]:
    return "127.0.0.1", int(webui.url.rpartition(":")[2])


def connect(webui: Webui) -> socket.socket:
    return socket.create_connection(address(webui), 10)


def clients_of(webui: Webui) -> set[int]:
    """The other sides' ports of connections that the WebUI holds."""
    port = address(webui)[1]
    return {
        connection.raddr.port
        for connection in psutil.Process(webui.process.pid).net_connections("tcp4")
        if connection.laddr.port == port and connection.raddr
    }


def rest_of(connection: socket.socket, seconds: float = 8) -> bytes:
    """What comes until the other side closes, which it must within ``seconds``."""
    deadline = time.monotonic() + seconds
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while True:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            if not (data := connection.recv(65_536)):
                break
            received += data
    return received


def send_while_taken(connection: socket.socket, pieces: Iterator[bytes]) -> None:
    """Send on until the other side stops taking, or there is no more."""
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)


def exchange(webui: Webui, request: bytes) -> bytes:
    with connect(webui) as connection:
        send_while_taken(connection, iter([request]))
        return rest_of(connection)


def answered(connection: socket.socket) -> Any:
    """The document of a good answer, read to its end and no further."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.status == 200
    return json.load(response)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> Any:
    """OpenAI's error in an answer, which must be small and say that the connection ends."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert len(body) < 4096
    return json.loads(body)["error"]


@contextlib.contextmanager
def little_memory(webui: Webui, megabytes: float = 10) -> Iterator[None]:
    """Assert that the WebUI's memory never rises by more."""
    Path(f"/proc/{webui.process.pid}/clear_refs").write_text("5")
    before = peak_memory(webui)
    yield
    assert peak_memory(webui) - before < megabytes * 1e6


def peak_memory(webui: Webui) -> int:
    status = Path(f"/proc/{webui.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.fault(17, "400 or 404; the engine is asked nothing")
@pytest.mark.fault(19, "400 and the end of the connection")
@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_requests_are_refused(guarded: Webui, name: str) -> None:
    """400 and the end of the connection; the engine is asked nothing."""
    answer = exchange(guarded, REFUSED[name])
    assert status_of(answer) == 400
    assert error_of(answer)["code"] == "bad_request"
    assert len(re.findall(rb"HTTP/1.1 \d", answer)) == 1
    assert guarded.engine.seen() == []


@pytest.mark.fault(19, "what has one meaning is served")
@pytest.mark.parametrize("name", TAKEN)
def test_odd_requests_are_served(guarded: Webui, name: str) -> None:
    """No more is refused than must be."""
    with connect(guarded) as connection:
        connection.sendall(TAKEN[name])
        assert "last: raw." in answered(connection)["choices"][0]["message"]["content"]
    [seen] = guarded.engine.seen()
    assert seen["body"]["messages"] == json.loads(BODY)["messages"]


@pytest.mark.fault(17, "400 or 404; the engine is asked nothing")
@pytest.mark.parametrize("target", NOT_OFFERED)
def test_targets_that_are_not_offered(guarded: Webui, target: bytes) -> None:
    """404, whatever they might mean to somebody else."""
    answer = exchange(guarded, get(target, HOST + b"Connection: close\r\n"))
    assert status_of(answer) == 404
    assert guarded.engine.seen() == []


@pytest.mark.fault(19, "no other protocol is spoken")
def test_an_upgrade_is_not_made(guarded: Webui) -> None:
    """The request is answered as it is; what follows belongs to no protocol spoken here."""
    upgrade = HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n"
    answer = exchange(guarded, get(b"/v1/nothing", upgrade) + plain(CL))
    assert status_of(answer) == 404
    assert error_of(answer)["code"] == "not_found"
    assert guarded.engine.seen() == []


LARGE_HEADS = {
    "one header of 64 MiB": (431, [START + HOST + b"A: ", *[b"b" * 2**20] * 64]),
    "a name of 64 MiB": (431, [START + HOST, *[b"b" * 2**20] * 64]),
    "200,000 headers": (431, [START + HOST, *[b"X-Y: z\r\n" * 1000] * 200]),
    "200,000 short headers": (431, [START + HOST, *[b"a:\r\n" * 1000] * 200]),
    "101 headers": (431, [START + HOST, b"a: b\r\n" * 101]),
    "70 KB of headers": (431, [START + HOST + b"A: " + b"b" * 70_000 + b"\r\n" + CL + b"\r\n"]),
    "URL of 1 MB": (414, [b"GET /v1/models?", b"a" * 1_000_000, b" HTTP/1.1\r\n" + HOST]),
    "URL of 9 KB": (414, [get(b"/v1/models?" + b"a" * 9000)]),
    "empty lines without end": (431, [b"\r\n" * 2**19] * 64),
}


@pytest.mark.fault(20, "431 or 414, in less than 10 MB")
@pytest.mark.parametrize("name", LARGE_HEADS)
def test_large_heads_are_refused(guarded: Webui, name: str) -> None:
    """While they still come, and without being kept."""
    status, pieces = LARGE_HEADS[name]
    with little_memory(guarded), connect(guarded) as connection:
        send_while_taken(connection, iter(pieces))
        assert status_of(rest_of(connection)) == status
    assert guarded.engine.seen() == []


@pytest.mark.fault(39, "413, unread")
def test_a_claim_of_a_gigabyte_is_refused_unread(guarded: Webui) -> None:
    """413 before a byte of it is sent; then the connection ends."""
    answer = exchange(guarded, START + HOST + b"Content-Length: 1000000000\r\n\r\n")
    assert status_of(answer) == 413
    assert guarded.engine.seen() == []


@pytest.mark.fault(39, "413, unread")
def test_an_endless_body_is_refused(guarded: Webui) -> None:
    """413 after as much as is allowed; the client that goes on regardless is cut off."""
    chunk = b"%x\r\n%s\r\n" % (65_536, b"x" * 65_536)
    began = time.monotonic()
    with little_memory(guarded, 30), connect(guarded) as connection:
        connection.sendall(START + HOST + TE + b"\r\n")
        send_while_taken(connection, itertools.repeat(chunk))
        assert time.monotonic() - began < 10
        assert rest_of(connection).startswith(b"HTTP/1.1 413 ")


@pytest.mark.fault(39, "400")
@pytest.mark.parametrize(
    "piece", [b"0" * 65_536, b"2;a=" + b"b" * 65_536, b"1;" + b"a" * 99 + b"\r\nx\r\n"]
)
def test_framing_without_end_is_refused(guarded: Webui, piece: bytes) -> None:
    """Zeros before a chunk's size, or extensions after it, are no progress."""
    with little_memory(guarded), connect(guarded) as connection:
        connection.sendall(START + HOST + TE + b"\r\n")
        endless = itertools.repeat(piece if piece.startswith(b"1") else piece[-65_000:])
        connection.sendall(piece)
        send_while_taken(connection, endless)
        assert status_of(rest_of(connection)) == 400
    assert guarded.engine.seen() == []


@pytest.mark.fault(39, "closed, or 408, at a deadline")
def test_a_connection_without_a_request_is_closed(guarded: Webui) -> None:
    """Browsers open some in advance: nothing is said on them."""
    with connect(guarded) as connection:
        assert rest_of(connection, HEAD_S + SLACK_S) == b""


@pytest.mark.fault(39, "closed, or 408, at a deadline")
@pytest.mark.parametrize("first", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"])
def test_a_slow_head_is_refused(guarded: Webui, first: bytes) -> None:
    """A byte now and then does not keep a connection, on its first request or a later one."""
    with connect(guarded) as connection:
        connection.sendall(first)
        if first.strip():
            answered(connection)
        began = time.monotonic()
        drip(connection, START + HOST + b"A: " + b"b" * 1000)
        answer = rest_of(connection)
    assert HEAD_S * 0.9 < time.monotonic() - began < HEAD_S + SLACK_S
    assert status_of(answer) == 408
    assert error_of(answer)["code"] == "request_timeout"


@pytest.mark.fault(39, "closed, or 408, at a deadline")
def test_an_empty_line_does_not_keep_a_connection(guarded: Webui) -> None:
    """After an answer neither: the time for the next head runs."""
    with connect(guarded) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answered(connection)
        connection.sendall(b"\r\n")
        assert rest_of(connection, HEAD_S + SLACK_S) == b""


@pytest.mark.fault(39, "closed, or 408, at a deadline")
@pytest.mark.parametrize("framing", [CL, TE])
def test_a_slow_body_is_refused(guarded: Webui, framing: bytes) -> None:
    """Chunked or not; the engine never hears of it."""
    with connect(guarded) as connection:
        connection.sendall(START + HOST + framing + b"\r\n")
        began = time.monotonic()
        drip(connection, b"1\r\n \r\n" * 1000 if framing is TE else BODY)
        answer = rest_of(connection)
    assert BODY_S * 0.9 < time.monotonic() - began < BODY_S + SLACK_S
    assert status_of(answer) == 408
    assert guarded.engine.seen() == []


def drip(connection: socket.socket, data: bytes) -> None:
    """A byte every tenth of a second, until something comes back."""
    connection.settimeout(0.1)
    for byte in data:
        with contextlib.suppress(TimeoutError):
            connection.recv(1, socket.MSG_PEEK)
            return
        connection.sendall(bytes([byte]))
    pytest.fail("nothing came back")


@pytest.mark.fault(39, "what advances is served")
def test_a_slow_but_honest_upload_is_served(guarded: Webui) -> None:
    """It takes twice the deadline, at 100 KB/s."""
    size = round(100_000 * 2 * BODY_S)
    padding = b" " * (size - len(BODY))
    began = time.monotonic()
    with connect(guarded) as connection:
        connection.sendall(START + HOST + b"Content-Length: %d\r\n\r\n" % size)
        for sent in range(0, len(padding), 10_000):
            time.sleep(max(0.0, began + sent / 100_000 - time.monotonic()))
            connection.sendall(padding[sent : sent + 10_000])
        connection.sendall(BODY)
        assert time.monotonic() - began > 1.5 * BODY_S
        answered(connection)


def test_a_long_answer_has_no_deadline(guarded: Webui) -> None:
    """What the client owes is timed, not what it waits for."""
    guarded.engine.script(words=5, delay_s=BODY_S / 4)
    with connect(guarded) as connection:
        connection.sendall(plain(CL))
        answered(connection)


@pytest.mark.fault(39, "others are answered within a second")
def test_a_thousand_slow_clients_do_not_matter(guarded: Webui) -> None:
    """500 stop in their head, 500 in their body; a good one is answered within a second."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert psutil.Process(guarded.process.pid).rlimit(resource.RLIMIT_NOFILE) == (most, most)
    with file_limit(most), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(guarded)) for _ in range(1000)]
        for connection in slow[:500]:
            connection.sendall(START)
        for connection in slow[500:]:
            connection.sendall(START + HOST + CL + b"\r\n{")
        chat(guarded, 10)  # by then all of them have been let in
        assert max(chat(guarded) for _ in range(20)) < 1
        assert statuses_of(slow, BODY_S + SLACK_S) == {408}
    assert len(guarded.engine.seen()) == 21


def statuses_of(connections: list[socket.socket], seconds: float) -> set[int]:
    """What comes first on each, all within ``seconds``."""
    deadline = time.monotonic() + seconds
    found = set()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.01, deadline - time.monotonic()))
            assert ready, f"{len(selector.get_map())} have had no answer"
            for key, _ in ready:
                selector.unregister(key.fileobj)
                found.add(status_of(key.fileobj.recv(65_536)))
    return found


@pytest.mark.fault(40, "cut off, in less than 10 MB")
def test_a_flood_of_requests_in_advance_is_cut_off(guarded: Webui) -> None:
    """They would be kept until the first is answered."""
    guarded.engine.script(words=100, delay_s=0.1)
    with little_memory(guarded), connect(guarded) as connection:
        send_while_taken(connection, iter([plain(CL), *[get(b"/livez") * 1000] * 100]))
        rest_of(connection)
    wait_for(lambda: [s for s in guarded.engine.seen() if s["outcome"] != "running"], 2, "ended")


def test_a_few_requests_in_advance_are_answered_in_order(guarded: Webui) -> None:
    """Though no client in use sends them so."""
    close = get(b"/v1/nothing", HOST + b"Connection: close\r\n")
    answer = exchange(guarded, plain(CL) + get(b"/livez") + close)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404]


@pytest.mark.fault(19, "400 and the end of the connection")
def test_garbage_after_a_request_never_mixes_with_its_answer(guarded: Webui) -> None:
    """A refusal inside a stream would be taken for a part of it."""
    guarded.engine.script(words=50, delay_s=0.05)
    body = json.dumps(json.loads(BODY) | {"stream": True, "max_tokens": 100}).encode()
    with connect(guarded) as connection:
        connection.sendall(START + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        received = connection.recv(65_536)
        connection.sendall(b"\0garbage\r\n\r\n")
        received += rest_of(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_slow_head_does_not_cut_the_answer_before_it(guarded: Webui) -> None:
    """Half a request in advance: the answer to the first is whole, then the connection ends."""
    guarded.engine.script(words=5, delay_s=HEAD_S / 3)
    with connect(guarded) as connection:
        connection.sendall(plain(CL) + START)
        answer = rest_of(connection, 10)
    assert status_of(answer) == 200
    assert len(re.findall(rb"HTTP/1.1 \d", answer)) == 1
    assert answer.endswith(b"}")


@pytest.mark.fault(36, "forgotten within a second")
@pytest.mark.parametrize("sent", [START, START + HOST + CL + b"\r\n" + BODY[:-1]])
def test_a_client_that_leaves_halfway_is_forgotten(guarded: Webui, sent: bytes) -> None:
    """In its head or its body: within a second, and the engine never hears of it."""
    with connect(guarded) as connection:
        connection.sendall(sent)
        port = connection.getsockname()[1]
        wait_for(lambda: port in clients_of(guarded), 2, "the WebUI holds the connection")
    wait_for(lambda: port not in clients_of(guarded), 1, "the WebUI let it go")
    assert guarded.engine.seen() == []


@pytest.mark.fault(39, "closed, or 408, at a deadline")
def test_a_client_that_reads_nothing_is_let_go(guarded: Webui) -> None:
    """Its answer, larger than the kernel keeps, is not kept for ever."""
    text = "x" * 1_900_000
    document = json.loads(BODY) | {"messages": [{"role": "user", "content": text}], "n": 4}
    body = json.dumps(document).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address(guarded))
        port = connection.getsockname()[1]
        connection.sendall(START + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert status_of(connection.recv(16)) == 200
        wait_for(lambda: port not in clients_of(guarded), 10, "the WebUI let it go")


@pytest.mark.fault(40, "no request meets a connection that the engine closes")
def test_an_idle_connection_to_the_engine_is_dropped_before_the_engine_does() -> None:
    """vLLM closes after 5 s: a request must not meet a connection that is just being closed."""

    async def run() -> tuple[set[int], set[int]]:
        ports: list[int] = []

        async def answer(request: web.Request) -> web.Response:
            ports.append(request.transport.get_extra_info("peername")[1])
            await asyncio.sleep(0.2)  # so that each of the requests needs its own connection
            return web.Response()

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, keepalive_timeout=5)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        settings = Settings(upstream=f"http://127.0.0.1:{port}")
        with contextlib.closing(engine_client(settings)) as engine:

            async def ask() -> None:
                async with await engine.request("GET", "/") as answer:
                    assert await answer.read() == b""
                assert answer.status == 200

            await asyncio.gather(*(ask() for _ in range(50)))
            await asyncio.sleep(4.95)
            first = set(ports)
            await asyncio.gather(*(ask() for _ in range(50)))
        await runner.cleanup()
        return first, set(ports[50:])

    first, second = asyncio.run(run())
    assert len(first) == len(second) == 50
    assert not first & second
