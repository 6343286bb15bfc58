"""What `up` and `down` do about what is already there, before they start or after they stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_runs import is_gone
from support import free_port, wait_for

from launcher import lifecycle
from launcher.errors import LauncherError
from launcher.leftovers import TAG, UNDER_SUPERVISORD, state_of, tag_of
from launcher.paths import Paths
from launcher.programs import ENGINE, WEBUI
from launcher.supervisord import Supervisord

Service = Callable[[str, bool], subprocess.Popen[bytes]]


@pytest.fixture
def service(paths: Paths) -> Iterator[Service]:
    """Start a process that passes for a program of this installation, under supervisord or not."""
    started: list[subprocess.Popen[bytes]] = []

    def run(program: str, managed: bool) -> subprocess.Popen[bytes]:
        environment = {**os.environ, TAG: tag_of(paths.run, program)}
        environment |= {UNDER_SUPERVISORD: program} if managed else {}
        command = ["sh", "-c", "echo up; exec sleep 60"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def test_what_outlived_its_supervisord_is_ended(
    service: Service, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both programs, and said with their ids; what somebody started by hand is left alone."""
    ours = [service(ENGINE, True), service(WEBUI, True)]
    by_hand = service(WEBUI, False)
    assert lifecycle._end_leftovers(paths, 0.1) is True
    assert [is_gone(process.pid) for process in ours] == [True, True]
    assert by_hand.poll() is None
    pids = sorted(process.pid for process in ours)
    said = capsys.readouterr().out
    assert said == f"Ended what an earlier supervisord had left: processes {pids}\n"


def test_another_installation_is_left_alone(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its programs have the same names, and another run folder."""
    stranger = service(ENGINE, True)
    elsewhere = Paths(etc=tmp_path / "etc", run=tmp_path / "other")
    assert lifecycle._end_leftovers(elsewhere, 0.1) is False
    assert stranger.poll() is None
    assert capsys.readouterr().out == ""


def test_what_cannot_be_ended_is_an_error(
    service: Service, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start beside it would fail for want of memory; its id is in the message."""
    process = service(ENGINE, True)
    monkeypatch.setattr(lifecycle, "kill_all", lambda find, _: (set(find()), set(find())))
    with pytest.raises(LauncherError, match=rf"processes \[{process.pid}\] of an earlier start"):
        lifecycle._end_leftovers(paths, 0.1)


def test_what_was_stopped_is_woken(
    service: Service, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """supervisord by its pid file, its programs by their tags; each is named once."""
    running, stopped = service(ENGINE, True), service(WEBUI, True)
    conf = str(paths.supervisord_conf)
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait", conf], start_new_session=True) as own:
        paths.pidfile.write_text(str(own.pid))
        for process in (stopped, own):
            process.send_signal(signal.SIGSTOP)
            wait_for(lambda pid=process.pid: state_of(pid) == "T", 60, "a stop")
        lifecycle._wake_all(Supervisord(paths), paths)
        for process in (stopped, own, running):
            wait_for(lambda pid=process.pid: state_of(pid) in {"R", "S"}, 60, "that it runs on")
        os.killpg(own.pid, signal.SIGKILL)
    said = capsys.readouterr().out.splitlines()
    expected = [f"Process {pid} had been stopped; it runs on." for pid in (own.pid, stopped.pid)]
    assert sorted(expected) == sorted(said)


def test_where_nothing_was_stopped_nothing_is_said(
    service: Service, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is there a supervisord that could have been."""
    service(ENGINE, True)
    lifecycle._wake_all(Supervisord(paths), paths)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ours", [True, False])
def test_only_a_port_of_our_own_service_may_be_taken(ours: bool, paths: Paths) -> None:
    """By its tag, whatever its name; nobody's port is not ours."""
    environment = {**os.environ, UNDER_SUPERVISORD: WEBUI}
    environment |= {TAG: tag_of(paths.run, WEBUI)} if ours else {}
    port = free_port()
    assert not lifecycle._is_ours(port, paths)
    script = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(1, flush=True)"
    command = [sys.executable, "-c", f"{script}; s.accept()"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lifecycle._is_ours(port, paths) is ours
        holder.kill()
