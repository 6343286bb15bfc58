"""What visitors may do to the page: ask it for files and addresses, fill its disk and its queue."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from deployments import Engine, Webui, answers, running_webui
from fault_report import Saw
from support import free_port, png, wait_for

from webui.chat.page import CONCURRENT_ANSWERS, WAITING_ANSWERS
from webui.guarded_page import MAX_BODY_MB, MAX_UPLOADS_BYTES, UPLOAD_PATH

JOIN_PATH = "/gradio_api/queue/join"
JSON = {"content-type": "application/json"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
PATIENCE_S = 30
# Numbers of the page's events: a question is taken, and then answered.
SEND, ANSWER = 0, 1
# Thinking, the model's own sampling, temperature, top-p, tokens of the answer, system prompt.
CONTROLS = ("auto", True, 0.7, 1, 2048, "")


@pytest.fixture(scope="module")
def attacked_process(
    tmp_path_factory: pytest.TempPathFactory, engine_process: Engine
) -> Iterator[Webui]:
    folder = tmp_path_factory.mktemp("attacked")
    with running_webui(folder, engine_process, WEBUI_UPSTREAM_IDLE_S="120") as webui:
        wait_for(lambda: answers(f"{webui.url}/config"), 90, "the page is there")
        yield webui


@pytest.fixture
def attacked(attacked_process: Webui) -> Iterator[Webui]:
    """A WebUI of its own, with its page loaded; afterwards the API answers as before."""
    attacked_process.engine.script()
    yield attacked_process
    attacked_process.engine.script()
    wait_for(lambda: chat(attacked_process) < 2, PATIENCE_S, "the API answers within two seconds")


def chat(webui: Webui) -> float:
    """Ask an ordinary question of the API; the seconds until it was answered."""
    began = time.monotonic()
    body = b'{"model": "one", "messages": [{"role": "user", "content": "hello"}]}'
    assert exchange(webui, "POST", "/v1/chat/completions", body, JSON)[0] == 200
    return time.monotonic() - began


@pytest.fixture
def canary() -> Iterator[int]:
    """A port on which nobody may call."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        server.setblocking(False)
        yield port
        with pytest.raises(BlockingIOError):
            server.accept()


def exchange(
    webui: Webui, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Status and text of an answer."""
    address = urlsplit(webui.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")


def put(webui: Webui, visitor: str, *, files: Any = (), gallery: Any = ()) -> tuple[int, str]:
    """Write a question as the page does; nobody is asked yet."""
    draft = {"text": f"I am {visitor}", "files": [*files]}
    values = [draft, [*gallery], None, ""]
    data = {"data": values, "fn_index": SEND, "session_hash": visitor}
    return exchange(webui, "POST", "/gradio_api/run/predict", json.dumps(data).encode(), JSON)


def join(webui: Webui, visitor: str) -> tuple[int, str]:
    """Write a question and have it asked, and do not wait for its answer."""
    assert put(webui, visitor)[0] == 200
    data = {"data": [None, *CONTROLS], "fn_index": ANSWER, "session_hash": visitor}
    return exchange(webui, "POST", JOIN_PATH, json.dumps(data).encode(), JSON)


def file_part(content: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
    return head + b"Content-Type: image/png\r\n\r\n" + content


def upload(webui: Webui, content: bytes) -> int:
    body = file_part(content) + b"\r\n--x--\r\n"
    return exchange(webui, "POST", UPLOAD_PATH, body, MULTIPART)[0]


def uploads_of(webui: Webui) -> Path:
    return webui.log.parent / "uploads"


FORBIDDEN = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../../etc/passwd",
    "/gradio_api/file=..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/gradio_api/file=%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/gradio_api/file=/etc/passwd%00.png",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file={folder}/webui.json",
    "/gradio_api/file={folder}/uploads/../webui.json",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/file/etc/passwd",
    "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/assets/../../../../../../../etc/passwd",
    "/svelte/..%2f..%2f..%2f..%2fetc/passwd",
    "/gradio_api/file=http://127.0.0.1:{canary}/x",
    "/gradio_api/file=https://127.0.0.1:{canary}/x",
    "/gradio_api/file=HTTP://127.0.0.1:{canary}/x",
    "/gradio_api/file=//127.0.0.1:{canary}/x",
    "/gradio_api/file%3Dhttp://127.0.0.1:{canary}/x",
    "/gradio_api/file/http://127.0.0.1:{canary}/x",
    "/gradio_api/proxy=http://127.0.0.1:{canary}/x",
    "/gradio_api/proxy%3Dhttp://127.0.0.1:{canary}/x",
    "/gradio_api//proxy=http://127.0.0.1:{canary}/x",
    "/proxy=http://127.0.0.1:{canary}/x",
]


@pytest.mark.fault(23, "403 or 404; nothing is read, nobody is called")
@pytest.mark.parametrize("path", FORBIDDEN)
def test_the_page_gives_no_file_and_calls_nobody(attacked: Webui, canary: int, path: str) -> None:
    """Whatever its library would do for a demo on somebody's own machine."""
    path = path.format(folder=attacked.log.parent, canary=canary)
    status, text = exchange(attacked, "GET", path)
    assert status in {403, 404}
    assert "root:" not in text
    assert '"pid"' not in text


@pytest.mark.fault(23, "a picture that was not uploaded never reaches the engine")
@pytest.mark.parametrize("place", ["files", "gallery"])
def test_a_question_names_no_file_and_no_address(
    attacked: Webui, canary: int, tmp_path: Path, place: str
) -> None:
    """Only what was uploaded is taken; a question after it is answered."""
    (tmp_path / "private.png").write_bytes(png(40, 30, "red"))
    for path in (str(tmp_path / "private.png"), f"http://127.0.0.1:{canary}/x.png"):
        file: Any = {"path": path, "url": path, "mime_type": "image/png"}
        file["meta"] = {"_type": "gradio.FileData"}
        named = [file] if place == "files" else [{"image": file, "caption": None}]
        status, text = put(attacked, "thief", **{place: named})
        assert (status, "private" in text) == (500, False)
    assert join(attacked, "honest")[0] == 200
    wait_for(attacked.engine.seen, PATIENCE_S, "a question is asked")
    asked = [json.dumps(seen["body"]) for seen in attacked.engine.seen()]
    assert ["I am honest" in body for body in asked] == [True], asked


@pytest.mark.fault(24, "413 for a file beyond the limit; nothing of it is kept")
def test_large_uploads_are_refused(attacked: Webui, saw: Saw) -> None:
    """200 of 50 MB each, twenty at a time, where a file may have one."""
    before = sorted(uploads_of(attacked).rglob("*"))
    head = (
        f"POST {UPLOAD_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n"
        f"Content-Type: {MULTIPART['content-type']}\r\n\r\n"
    )

    def one(_: int) -> bytes:
        address = urlsplit(attacked.url)
        with socket.create_connection((address.hostname, address.port), PATIENCE_S) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(head.encode() + file_part(bytes(1_200_000)))
            return connection.recv(12)

    with ThreadPoolExecutor(20) as pool, slowest_call(attacked) as slowest:
        assert Counter(pool.map(one, range(200))) == {b"HTTP/1.1 413": 200}
    assert slowest[0] < 2
    wait_for(
        lambda: sorted(uploads_of(attacked).rglob("*")) == before, PATIENCE_S, "nothing is left"
    )
    saw(f"200 of 200 got 413; the API's slowest call meanwhile {slowest[0]:.1f} s")


@pytest.mark.fault(24, "413 or 411 for a request beyond any use")
def test_what_is_no_file_has_a_limit_too(attacked: Webui) -> None:
    """The page's library would read it all into memory; a length must be said."""
    for path in (JOIN_PATH, "/gradio_api/run/send", "/login"):
        headers = JSON | {"content-length": str(MAX_BODY_MB * 1_000_000 + 1)}
        assert exchange(attacked, "POST", path, b"{", headers)[0] == 413
        headers = JSON | {"transfer-encoding": "chunked"}
        assert exchange(attacked, "POST", path, b"1\r\n{\r\n", headers)[0] == 411
    headers = MULTIPART | {"content-length": "300000000"}
    for path in (UPLOAD_PATH, f"{UPLOAD_PATH}/"):
        assert exchange(attacked, "POST", path, b"--x", headers)[0] == 413


@pytest.mark.fault(24, "507 when the uploads of all visitors reach 2 GB")
def test_uploads_of_all_have_a_limit(attacked: Webui) -> None:
    """What is uploaded counts at once; when old ones are deleted, there is room again."""
    uploads_of(attacked).mkdir(exist_ok=True)
    full = uploads_of(attacked) / "full"
    assert upload(attacked, bytes(900_000)) == 200
    with full.open("wb") as file:
        file.truncate(MAX_UPLOADS_BYTES - 2_800_000)  # takes no room on the disk
    wait_for(lambda: upload(attacked, bytes(900_000)) == 507, PATIENCE_S, "it is full")
    assert exchange(attacked, "GET", "/config")[0] == 200
    full.unlink()
    wait_for(lambda: upload(attacked, bytes(900_000)) == 200, PATIENCE_S, "there is room")


@pytest.mark.fault(24, "503 `queue full` beyond what can wait; the API goes on")
def test_the_queue_has_an_end(attacked: Webui, saw: Saw) -> None:
    """A thousand questions at once; later the page takes questions again."""
    attacked.engine.script(words=6, delay_s=10)
    with ThreadPoolExecutor(30) as pool, slowest_call(attacked) as slowest:
        results = list(pool.map(lambda n: join(attacked, f"visitor {n}"), range(1000)))
    refused = [text for status, text in results if status == 503]
    taken = [text for status, text in results if status == 200]
    assert len(refused) + len(taken) == 1000
    assert WAITING_ANSWERS <= len(taken) <= WAITING_ANSWERS + CONCURRENT_ANSWERS
    assert all("Queue is full" in text for text in refused)
    assert len(attacked.engine.seen()) <= CONCURRENT_ANSWERS
    assert slowest[0] < 2
    attacked.engine.script(words=1)
    wait_for(lambda: join(attacked, "later")[0] == 200, 120, "there is room again")
    wait_for(lambda: "I am later" in json.dumps(attacked.engine.seen()), 120, "it is asked")
    saw(f"{len(taken)} taken, {len(refused)} refused; the API's slowest call {slowest[0]:.1f} s")


@contextlib.contextmanager
def slowest_call(webui: Webui) -> Iterator[list[float]]:
    """Of the API, one after the other while the block runs, in seconds; it must have had some."""
    slowest, calls, done = [0.0], [0], threading.Event()

    def call() -> None:
        while not done.is_set():
            began = time.monotonic()
            body = b'{"model": "one", "prompt": "two words"}'
            assert exchange(webui, "POST", "/v1/tokenize", body, JSON)[0] == 200
            slowest[0] = max(slowest[0], time.monotonic() - began)
            calls[0] += 1
            done.wait(0.05)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield slowest
    finally:
        done.set()
        thread.join()
    assert calls[0] > 1
