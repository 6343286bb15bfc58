"""The page has a process of its own: what happens to it does not happen to the API, and the other
way round nothing of it is left.

Each test has a WebUI of its own, over a stand-in engine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from deployments import Engine, Webui, answers, running_webui
from support import wait_for

from launcher.leftovers import TAG
from webui.page_process import ANSWER_S, LOOK_S, MOST_SILENT
from webui.private_socket import API, PAGE

PATIENCE_S = 120  # for the start of a page, on a machine that is busy
AT_ONCE_S = 2.0
JSON = {"content-type": "application/json"}
HELLO = [{"role": "user", "content": "hello"}]
# Numbers of the page's events: a question is taken, and then answered.
SEND, ANSWER = 0, 1

Start = Callable[..., AbstractContextManager[Webui]]


@pytest.fixture
def start(engine_process: Engine, tmp_path: Path) -> Start:
    """Starts a WebUI with these settings, and waits for its page."""

    @contextlib.contextmanager
    def starting(**settings: str) -> Iterator[Webui]:
        patient = {"WEBUI_UPSTREAM_IDLE_S": "60", **settings}
        with running_webui(tmp_path, engine_process, **patient) as webui:
            engine_process.script()
            wait_until_shown(webui)
            yield webui

    return starting


def wait_until_shown(webui: Webui) -> None:
    wait_for(lambda: answers(f"{webui.url}/config"), PATIENCE_S, "the page is there")


def page_of(webui: Webui) -> psutil.Process:
    [child] = psutil.Process(webui.process.pid).children()
    return child


def connected(webui: Webui, limit_s: float = PATIENCE_S) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(
        "127.0.0.1", int(webui.url.rpartition(":")[2]), timeout=limit_s
    )


def ask(
    webui: Webui, path: str, body: Any = None, limit_s: float = PATIENCE_S
) -> tuple[int, http.client.HTTPMessage, str]:
    """One exchange on a connection of its own: status, headers, text."""
    with contextlib.closing(connected(webui, limit_s)) as connection:
        document = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, document, JSON)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


def chat(webui: Webui, limit_s: float = PATIENCE_S, **more: Any) -> str:
    body = {"model": "one", "messages": HELLO, "thinking": "off", **more}
    status, _, text = ask(webui, "/v1/chat/completions", body, limit_s)
    assert status == 200
    return text


@contextlib.contextmanager
def question(webui: Webui) -> Iterator[socket.socket]:
    """Asked on the page, as a browser does; its answer comes on this connection."""
    draft = [{"text": "count", "files": []}, [], None, ""]
    controls = [None, "auto", True, 0.7, 1, 2048, ""]
    for path, number, values in (("run/predict", SEND, draft), ("queue/join", ANSWER, controls)):
        order = {"data": values, "fn_index": number, "session_hash": "visitor"}
        assert ask(webui, f"/gradio_api/{path}", order)[0] == 200
    with contextlib.closing(connected(webui)) as connection:
        connection.request("GET", "/gradio_api/queue/data?session_hash=visitor")
        assert connection.getresponse().status == 200
        assert connection.sock is not None
        yield connection.sock


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.fault(41, "the API goes on, the page is back within seconds")
def test_a_page_that_is_killed_comes_back(start: Start) -> None:
    """An answer of the API that runs meanwhile has no gap, and visitors are told to wait."""
    with start() as webui, ThreadPoolExecutor(1) as pool:
        webui.engine.script(words=60, delay_s=0.1)
        stream = pool.submit(chat, webui, stream=True)
        wait_for(webui.engine.seen, PATIENCE_S, "the engine answers")
        page_of(webui).kill()
        wait_for(lambda: "is starting" in ask(webui, "/")[2], AT_ONCE_S, "visitors are told")
        status, headers, _ = ask(webui, "/config")
        assert (status, headers["retry-after"]) == (503, "2")
        assert ask(webui, "/readyz")[0] == 200
        text = stream.result()
        words = [int(word) for word in re.findall(r'"content":" ?(\d+)"', text)]
        assert words == [*range(1, 60)]
        assert text.endswith("data: [DONE]\n\n")
        wait_until_shown(webui)
        assert "is starting" not in ask(webui, "/")[2]
        assert "Traceback" not in webui.log.read_text()


@pytest.mark.fault(41, "the API answers at once; the page is replaced, visitors wait no longer")
def test_a_page_that_hangs_is_replaced(start: Start) -> None:
    """Stopped, as a deadlock would have it; who asks meanwhile gets an answer in the end."""
    with start() as webui, ThreadPoolExecutor(2) as pool:
        hung = page_of(webui)
        hung.suspend()
        limit_s = LOOK_S + MOST_SILENT * (LOOK_S + ANSWER_S) + PATIENCE_S / 10
        visitor = pool.submit(ask, webui, "/", None, limit_s)
        other = pool.submit(ask, webui, "/config", None, limit_s)
        for _ in range(20):
            began = time.monotonic()
            chat(webui, AT_ONCE_S)
            assert time.monotonic() - began < AT_ONCE_S
        assert not visitor.done()
        assert "is starting" in visitor.result()[2]
        assert other.result()[0] == 503
        wait_until_shown(webui)
        assert page_of(webui).pid != hung.pid
        assert has_ended(hung)


@pytest.mark.fault(41, "the API answers at once; the page is replaced, visitors wait no longer")
def test_a_page_that_hangs_does_not_hold_up_a_stop(start: Start) -> None:
    """It is killed."""
    with start() as webui:
        page = page_of(webui)
        page.suspend()
        began = time.monotonic()
        webui.process.send_signal(signal.SIGTERM)
        assert webui.process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < 2 * AT_ONCE_S
        assert has_ended(page)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_gateway_that_is_killed_leaves_nothing(start: Start, hangs: bool) -> None:
    """Not even a page that is stopped; and it carries the tag by which the launcher knows it."""
    with start(**{TAG: "test-webui"}) as webui:
        page = page_of(webui)
        assert page.environ()[TAG] == "test-webui"
        if hangs:
            page.suspend()
        webui.process.kill()
        wait_for(lambda: has_ended(page), AT_ONCE_S, "the page has ended")


def test_a_gateway_that_is_killed_early_leaves_nothing(
    engine_process: Engine, tmp_path: Path
) -> None:
    """While the page still imports its library."""
    with running_webui(tmp_path, engine_process) as webui:
        page = page_of(webui)
        webui.process.kill()
        wait_for(lambda: has_ended(page), AT_ONCE_S, "the page has ended")


@pytest.mark.fault(26, "sockets for this user only; the secret between the processes shows nowhere")
def test_sockets_are_private_and_go_with_the_process(start: Start) -> None:
    """Those that a killed process left are no obstacle. The page is no API's client by accident:
    nothing of the secret that it shares shows in a command line or in the log."""
    with TemporaryDirectory() as folder:
        sockets = Path(folder)
        (sockets / API).write_text("left by another")
        with start(WEBUI_SOCKETS=folder) as webui:
            for name in (API, PAGE):
                mode = (sockets / name).stat().st_mode
                assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
            secret = page_of(webui).environ()["WEBUI_UPLOAD_SECRET"]
            assert len(secret) > 40
            assert secret not in " ".join(page_of(webui).cmdline()) + webui.log.read_text()
        assert not [*sockets.iterdir()]


def test_the_gateway_knows_nothing_of_the_pages_library() -> None:
    """So it answers before that is imported, and shares no lock of the interpreter with it."""
    program = (
        "import sys, webui.__main__;"
        "print(*{'gradio', 'fastapi', 'openai', 'pandas', 'numpy'} & {*sys.modules})"
    )
    command = [sys.executable, "-P", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


def test_the_api_goes_first(start: Start) -> None:
    """Where the cores are full; the engine's share is not the page's either."""
    with start() as webui:
        assert page_of(webui).nice() > psutil.Process(webui.process.pid).nice()


def test_a_closed_tab_ends_the_engines_work(start: Start) -> None:
    """At once, through both processes."""
    with start() as webui:
        webui.engine.script(words=1000, delay_s=0.05)
        with question(webui) as answer:
            received = b""
            while received.count(b"process_generating") < 5:
                received += answer.recv(65_536)
        wait_for(lambda: webui.engine.seen()[-1]["outcome"] == "aborted", 1.0, "it is told")


@pytest.mark.fault(24, "an upload passes through the gateway piece by piece")
def test_a_large_upload_is_not_held_in_memory(start: Start) -> None:
    """Of the gateway; it is written as it comes, by the page."""
    size = 150_000_000
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + bytes(size) + b"\r\n--x--\r\n"
    with start(WEBUI_MAX_UPLOAD_MB="200") as webui:
        before = peak_memory(webui.process.pid)
        with contextlib.closing(connected(webui)) as connection:
            headers = {"content-type": "multipart/form-data; boundary=x"}
            connection.request("POST", "/gradio_api/upload", body, headers)
            response = connection.getresponse()
            assert response.status == 200
            [path] = json.loads(response.read())
        assert Path(path).stat().st_size == size
        assert peak_memory(webui.process.pid) - before < 30_000_000


def peak_memory(pid: int) -> int:
    """That a process has ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return 1024 * int(found[1])


@pytest.mark.fault(41, "the API goes on, the page is back within seconds")
def test_a_page_that_cannot_start_is_told(engine_process: Engine, tmp_path: Path) -> None:
    """After some tries, with where to look; the API knows nothing of it."""
    broken = tmp_path / "gradio" / "__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise ImportError('half an installation')")
    with running_webui(tmp_path, engine_process, PYTHONPATH=str(tmp_path)) as webui:
        wait_for(lambda: ask(webui, "/")[0] == 500, PATIENCE_S, "visitors are told")
        assert "could not start" in ask(webui, "/")[2]
        chat(webui, AT_ONCE_S)
        assert "half an installation" in webui.log.read_text()
        broken.unlink()
        broken.parent.rmdir()
        wait_until_shown(webui)
