"""launcher.supervisord: one that answers, but only that it is shutting down."""

from __future__ import annotations

import os
import signal
import subprocess
import xmlrpc.client
from collections.abc import Iterator

import pytest
from support import wait_for

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.supervisord import Supervisord

SHUTTING_DOWN = xmlrpc.client.Fault(6, "SHUTDOWN_STATE")


class FakeRpc:
    """supervisord's end of the socket, which answers, or raises, as a test says."""

    def __init__(self, answer: int | Exception) -> None:
        self._answer = answer

    def getPID(self) -> int:  # noqa: N802  (supervisord's name)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.fixture
def process(paths: Paths) -> Iterator[subprocess.Popen[bytes]]:
    """A process that plays supervisord, as the pid file says, with our file on its command line."""
    script = "trap 'sleep 0.5; exit' TERM; sleep 60 & echo up; wait"
    command = ["sh", "-c", script, "supervisord", "-c", str(paths.supervisord_conf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == b"up\n"
        paths.pidfile.write_text(f"{found.pid}\n")
        yield found
        os.killpg(found.pid, signal.SIGKILL)


def supervisord_that(
    answer: int | Exception, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> Supervisord:
    monkeypatch.setattr(Supervisord, "_rpc", lambda _: FakeRpc(answer))
    return Supervisord(paths)


def test_one_that_shuts_down_says_so_to_whoever_wants_something(
    process: subprocess.Popen[bytes], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words of ours: the ones of the protocol tell nobody what to do."""
    with pytest.raises(LauncherError, match="is being stopped; `launch up` when that is done"):
        supervisord_that(SHUTTING_DOWN, paths, monkeypatch).pid()


def test_one_that_shuts_down_is_known_by_its_pid_file(
    process: subprocess.Popen[bytes], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no orders, so it is not running, but it is still there."""
    found = supervisord_that(SHUTTING_DOWN, paths, monkeypatch)
    assert not found.is_running()
    stopping = found.stopping()
    assert stopping is not None
    assert process.pid == stopping.pid


@pytest.mark.parametrize(
    "answer",
    [
        4711,
        xmlrpc.client.Fault(1, "UNKNOWN_METHOD"),
        ConnectionRefusedError(),
        FileNotFoundError(),
        xmlrpc.client.ProtocolError("unix://", 500, "oops", {}),
    ],
)
def test_one_that_runs_or_does_not_answer_is_not_stopping(
    answer: int | Exception,
    process: subprocess.Popen[bytes],
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only supervisord's own word for it counts, not a pid file."""
    found = supervisord_that(answer, paths, monkeypatch)
    assert found.stopping() is None
    assert found.wait_until_stopped(0) is False


@pytest.mark.parametrize("content", [None, "", "x", "-1", "{ended}"])
def test_without_its_process_there_is_nothing_to_wait_for(
    content: str | None, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing or broken pid file, or one of a process that is gone, is as good as the end."""
    if content is not None:
        with subprocess.Popen(["true"]) as ended:
            pass
        paths.pidfile.write_text(content.format(ended=ended.pid))
    assert supervisord_that(SHUTTING_DOWN, paths, monkeypatch).wait_until_stopped(0) is False


def test_waiting_lasts_until_the_process_is_gone(
    process: subprocess.Popen[bytes], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a new one may be started."""
    found = supervisord_that(SHUTTING_DOWN, paths, monkeypatch)
    process.terminate()
    assert found.wait_until_stopped(10) is True
    assert found.stopping() is None


def test_one_that_does_not_end_is_reported(
    process: subprocess.Popen[bytes], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has its process and where to look."""
    found = supervisord_that(SHUTTING_DOWN, paths, monkeypatch)
    with pytest.raises(LauncherError) as caught:
        found.wait_until_stopped(0.01)
    expected = (
        f"supervisord (process {process.pid}) is still stopping after 0 s;"
        " its log tells what it waits for: `launch logs supervisord`"
    )
    assert expected == str(caught.value)


def test_another_process_with_its_id_is_not_ours(paths: Paths) -> None:
    """A pid file that outlived its process names a stranger one day."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        paths.pidfile.write_text(f"{stranger.pid}\n")
        found = Supervisord(paths)
        os.kill(stranger.pid, signal.SIGSTOP)
        assert (found.process(), found.is_stopped()) == (None, False)
        stranger.kill()


def test_one_that_was_stopped_is_there_and_does_not_run(
    process: subprocess.Popen[bytes], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked anything, because it would never answer."""
    found = supervisord_that(AssertionError("asked"), paths, monkeypatch)
    assert not found.is_stopped()
    process.send_signal(signal.SIGSTOP)
    wait_for(found.is_stopped, 60, "a stop")
    assert not found.is_running()
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: not found.is_stopped(), 60, "that it runs on")
