"""Whatever is killed or stopped: afterwards one engine serves, and nothing else is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from deployments import (
    LAUNCH,
    Deployment,
    engine_child,
    get_quietly,
    own_processes,
    pids,
    states,
    status,
)
from support import wait_for

BACK_S = 60.0


class Stream(threading.Thread):
    """A streamed chat of ``words`` words; ``text`` is what came, whole or not."""

    def __init__(self, deployment: Deployment, words: str = "hello") -> None:
        super().__init__(daemon=True)
        document = {"model": "one", "messages": [{"role": "user", "content": words}]}
        body = json.dumps({**document, "stream": True}).encode()
        self._request = urllib.request.Request(
            f"{deployment.url}/api/v1/chat/completions",
            body,
            {"content-type": "application/json"},
        )
        self.text = ""
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=90) as response:
                for line in response:
                    self.text += line.decode()
        except urllib.error.HTTPError as error:
            self.text += error.read().decode()
        except OSError as error:
            self.text += f"broken off: {error}"

    def end(self) -> str:
        self.join(60)
        assert not self.is_alive(), "the stream never ended"
        return self.text


def chat(deployment: Deployment) -> None:
    """An ordinary question is answered within 2 s."""
    began = time.monotonic()
    text = Stream(deployment).end()
    assert text.endswith("data: [DONE]\n\n"), text
    assert "error" not in text
    assert time.monotonic() - began < 2


def supervisord_of(deployment: Deployment) -> psutil.Process:
    return psutil.Process(int((deployment.home / "run" / "supervisord.pid").read_text()))


def assert_one_service(deployment: Deployment) -> None:
    """All processes of the installation are below its supervisord, with one engine's parent."""
    wait_for(lambda: get_quietly(f"{deployment.url}/readyz") == 200, BACK_S, "ready again")
    chat(deployment)
    supervisord = supervisord_of(deployment)
    known = {p.pid for p in [supervisord, *supervisord.children(recursive=True)]}
    wait_for(
        lambda: {p.pid for p in own_processes(deployment)} <= known, 15, "nothing else is left"
    )
    parents = [p for p in supervisord.children() if "launcher.engine" in p.cmdline()]
    assert len(parents) == 1
    assert len(parents[0].children()) == 1


def victim(deployment: Deployment, name: str) -> psutil.Process:
    if name == "engine":
        return engine_child(deployment)
    if name == "child":
        return engine_child(deployment).children()[0]
    return psutil.Process(pids(deployment)["vllm" if name == "parent" else name])


def still_there(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run. An ended one waits for whoever is its parent then, which is not ours."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def with_child(deployment: Deployment) -> Deployment:
    """An engine with a child in a session of its own, that can be killed as often as we like."""
    deployment.script(leave_child=True)
    deployment.edit("engine", good_run_s=0.1)
    result = deployment.up()
    assert result.returncode == 0, result.stderr
    return deployment


@pytest.mark.fault(28, "nothing of the old engine is left when the new one starts")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", ["engine", "parent", "webui"])
def test_program_that_is_ended_comes_back(
    with_child: Deployment, name: str, number: signal.Signals
) -> None:
    """By itself, and what it left behind is gone."""
    chosen = victim(with_child, name)
    below = [chosen, *chosen.children(recursive=True)]
    chosen.send_signal(number)
    wait_for(lambda: still_there([chosen]) == [], 20, "it has ended")
    assert_one_service(with_child)
    assert still_there(below) == []


@pytest.mark.fault(28, "nothing of the old engine is left when the new one starts")
def test_early_kills_are_no_reason_to_give_up(with_child: Deployment) -> None:
    """Killed twice within supervisord's startsecs, the engine's parent is started all the same."""
    for _ in range(2):
        old = wait_for(lambda: pids(with_child)["vllm"], 20, "it has a process")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda old=old: pids(with_child)["vllm"] != old, 20, "another one")
    assert_one_service(with_child)


@pytest.mark.parametrize("name", ["parent", "webui"])
def test_stopped_program_is_woken_by_its_neighbour(with_child: Deployment, name: str) -> None:
    """SIGSTOP: it runs on, and is the same process as before."""
    before = pids(with_child)
    chosen = victim(with_child, name)
    chosen.suspend()
    wait_for(lambda: chosen.status() != psutil.STATUS_STOPPED, 40, "it was woken")
    assert_one_service(with_child)
    assert pids(with_child) == before


@pytest.mark.fault(35, "the next `up` ends what is left and starts one engine")
def test_killed_supervisord_takes_all_with_it(with_child: Deployment) -> None:
    """Nothing serves unwatched, and ``up`` starts anew over the stale socket and pid file."""
    old = own_processes(with_child)
    supervisord_of(with_child).kill()
    result = with_child.up()
    assert result.returncode == 0, result.stderr
    assert still_there(old) == []
    assert_one_service(with_child)


@pytest.mark.fault(35, "the next `up` ends what is left and starts one engine")
def test_without_supervisord_the_programs_end_by_themselves(with_child: Deployment) -> None:
    """The kernel tells them, with no line of log needed; a down then finds nothing."""
    supervisord_of(with_child).kill()
    wait_for(lambda: own_processes(with_child) == [], 30, "all have ended")
    assert with_child.launch("down").stdout == "Nothing is running.\n"


def test_down_ends_what_a_killed_supervisord_left(deployment: Deployment) -> None:
    """Also an engine that ignores its stop."""
    deployment.script(ignore_term=True, leave_child=True)
    assert deployment.up().returncode == 0
    supervisord_of(deployment).kill()
    result = deployment.launch("down")
    assert result.stdout.startswith("Ended what an earlier supervisord had left: processes ")
    assert own_processes(deployment) == []


def test_stopped_supervisord_is_told_and_woken(with_child: Deployment) -> None:
    """No command hangs: ``status`` says it, ``up`` lets it run on."""
    supervisord = supervisord_of(with_child)
    supervisord.suspend()
    assert "supervisord has been stopped (SIGSTOP)" in with_child.launch("status").stdout
    result = with_child.up()
    assert f"Process {supervisord.pid} had been stopped; it runs on." in result.stdout
    assert result.returncode == 0, result.stderr
    assert_one_service(with_child)


@pytest.mark.fault(29, "not ready while nothing moves, then restarted; never while it is busy")
@pytest.mark.timeout(300)
def test_hanging_engine_is_restarted_and_a_busy_one_is_not(deployment: Deployment) -> None:
    """A long prefill moves only the KV cache: left alone. A stopped engine is ended in time."""
    deployment.script(prefill_s=45, words=3)
    deployment.edit("engine", stalled_after_s=20, hung_after_s=30)
    assert deployment.up().returncode == 0
    busy, engine = Stream(deployment), engine_child(deployment)
    unready = 0
    while busy.is_alive():
        unready += get_quietly(f"{deployment.url}/readyz") != 200
        time.sleep(0.5)
    assert busy.text.endswith("data: [DONE]\n\n")
    assert (unready, engine.is_running()) == (0, True)

    hanging = Stream(deployment)
    wait_for(lambda: 'running{engine="0"} 1' in metrics(deployment), 10, "it is at work")
    engine.suspend()
    began = time.monotonic()
    wait_for(lambda: get_quietly(f"{deployment.url}/readyz") == 503, 20, "not ready")
    told = wait_for(lambda: stalled_words(deployment), 20, "status says why")
    assert told.startswith("no progress for 20 s")
    wait_for(lambda: not engine.is_running(), 40, "it was ended")
    assert time.monotonic() - began < 32
    assert '"code": "engine_restarted"' in hanging.end()
    deployment.script()
    assert deployment.up().returncode == 0
    assert_one_service(deployment)


def metrics(deployment: Deployment) -> str:
    with urllib.request.urlopen(f"{deployment.engine_url}/metrics", timeout=5) as response:
        return str(response.read())


def stalled_words(deployment: Deployment) -> str:
    message = str(status(deployment)["programs"]["vllm"]["message"])
    return message if "no progress" in message else ""


@pytest.mark.fault(31, "ends with 78 within 5 s and names the holder; no other port is taken")
def test_engine_whose_port_is_taken_names_the_holder(deployment: Deployment) -> None:
    """Started beside a stranger: FATAL, and ``status`` says who it is."""
    with socket.create_server(("127.0.0.1", deployment.engine_port)):
        arguments = ["exec", "vllm", "--config", str(deployment.config)]
        result = deployment.launch(*arguments)
    assert result.returncode == 78
    assert f"(process {os.getpid()})" in result.stdout
    assert "port" in json.loads((deployment.home / "run/engine.json").read_text())["message"]


@pytest.mark.fault(34, "streams end whole or with a typed event, then everything is gone")
@pytest.mark.parametrize("outer_kill_s", [None, 10.0])
def test_sigterm_of_supervisord_ends_streams_properly(
    deployment: Deployment, outer_kill_s: float | None
) -> None:
    """As a container's stop does it, also where everything is killed after ten seconds."""
    deployment.script(delay_s=0.2, words=400)
    deployment.edit("webui", stop_timeout_s=8)
    assert deployment.up().returncode == 0
    streams = [Stream(deployment) for _ in range(3)]
    wait_for(lambda: all("content" in s.text for s in streams), 20, "they have begun")
    supervisord = supervisord_of(deployment)
    began = time.monotonic()
    supervisord.terminate()
    wait_for(lambda: get_quietly(f"{deployment.url}/readyz") == 503, 5, "it says that it stops")
    if outer_kill_s is None:
        assert supervisord.wait(60) in {0, None}
    else:
        wait_for(lambda: time.monotonic() - began >= outer_kill_s, 15, "the outer limit")
        for process in [supervisord, *own_processes(deployment)]:
            process.kill()
    for stream in streams:
        assert '"code": "shutting_down"' in stream.end()
        assert stream.text.endswith("data: [DONE]\n\n")
    wait_for(lambda: own_processes(deployment) == [], 10, "nothing is left")
    assert time.monotonic() - began < 60


def test_contradictory_stop_times_are_refused(deployment: Deployment) -> None:
    """What cannot end in time is named with its numbers, before anything starts."""
    deployment.edit("service", stop_limit_s=10)
    result = deployment.launch("check", "--config", str(deployment.config))
    assert result.returncode == 2
    assert "a stop may take 15 s, more than service.stop_limit_s (10)" in result.stderr


def test_two_parents_never_run_two_engines(with_child: Deployment, tmp_path: Path) -> None:
    """A second one by hand is refused and leaves the service alone."""
    before = pids(with_child)
    with (tmp_path / "log").open("w+") as log:
        command = [*LAUNCH, "exec", "vllm"]
        second = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            assert second.wait(60) == 78
        finally:
            second.kill()
        log.seek(0)
        assert "another engine of this installation runs" in log.read()
    assert pids(with_child) == before
    assert states(with_child)["vllm"] == "RUNNING"
