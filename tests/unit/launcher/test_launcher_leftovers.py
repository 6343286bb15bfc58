"""launcher.leftovers: processes known by their tag, found, woken and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import wait_for

from launcher.leftovers import (
    TAG,
    UNDER_SUPERVISORD,
    descendants,
    environment_of,
    has_ended,
    kill_all,
    parent_of,
    state_of,
    tag_of,
    tagged,
    wake,
)

LIMIT_S = 60.0
RENAME = "import ctypes, time; ctypes.CDLL(None).prctl(15, {name!r}); print(1, flush=True); {then}"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes with a tag; those that are left are killed by their id."""
    started: list[subprocess.Popen[str]] = []

    def run(tag: str | None, *command: str, **more: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **({TAG: tag} if tag is not None else {}), **more}
        process = subprocess.Popen(
            command or ("sleep", "60"), env=environment, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        # Until exec it is a copy of this process, without a tag.
        words = (command or ("sleep",))[0].encode()
        wait_for(lambda: words in command_line(process.pid), LIMIT_S, "exec")
        return process

    yield run
    for process in started:
        process.kill()
        process.wait(LIMIT_S)
        assert process.stdout is not None
        process.stdout.close()


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def tag(tmp_path: Path) -> str:
    """Of this test's own installation."""
    return tag_of(tmp_path, "vllm")


def test_a_tag_is_one_of_installation_and_program(tmp_path: Path) -> None:
    """Nobody else's engine is ever taken for ours; and the same folder has always the same tag."""
    runs = [tmp_path / name for name in ("a", "b", "ü", "a b", "\udcff")]
    tags = {tag_of(run, program) for run in runs for program in ("vllm", "webui")}
    assert len(tags) == 10
    assert tag_of(tmp_path / "a", "vllm") == tag_of(tmp_path / "a", "vllm")
    assert all(set(t) <= set("0123456789abcdef-vlmweui") for t in tags)


def test_a_relative_folder_has_the_tag_of_the_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From wherever the command is typed."""
    monkeypatch.chdir(tmp_path)
    assert tag_of(Path("run"), "vllm") == tag_of(tmp_path / "run", "vllm")


def test_only_processes_with_the_tag_are_found(tag: str, start: Start, tmp_path: Path) -> None:
    """Not those of another installation or program, nor those without any tag."""
    other, webui = tag_of(tmp_path / "other", "vllm"), tag_of(tmp_path, "webui")
    ours, theirs, beside = (start(t).pid for t in (tag, other, webui))
    start(None)
    start(f"{tag}x")
    start(None, OTHER=f"{TAG}={tag}")
    assert tagged([tag]) == {ours}
    assert tagged([tag, webui]) == {ours, beside}
    assert tagged([other, "none"]) == {theirs}
    assert tagged([]) == set()


def test_what_a_tagged_process_started_has_its_tag(tag: str, start: Start) -> None:
    """In another session too, and after its parent is gone."""
    process = start(tag, "sh", "-c", "setsid sleep 60 & echo $!; wait")
    grandchild = int(first_line(process))
    assert tagged([tag]) == {process.pid, grandchild}
    process.kill()
    process.wait(LIMIT_S)
    assert tagged([tag]) == {grandchild}
    os.kill(grandchild, signal.SIGKILL)
    wait_for(lambda: not tagged([tag]), LIMIT_S, "nothing left")


def test_this_process_is_not_its_own_leftover(tag: str) -> None:
    """The engine's parent has the tag that it looks for."""
    script = (
        "import os\nfrom launcher.leftovers import TAG, tagged\nprint(tagged([os.environ[TAG]]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, TAG: tag},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (found.stdout, found.stderr) == ("set()\n", "")


def test_a_program_started_by_hand_is_no_service(tag: str, start: Start) -> None:
    """Only what supervisord started is ended with it."""
    start(tag)
    kept = start(tag, **{UNDER_SUPERVISORD: "vllm"})
    assert tagged([tag], under_supervisord=True) == {kept.pid}


def test_an_ended_process_is_no_leftover(tag: str, start: Start) -> None:
    """One that nobody has collected yet holds nothing any more."""
    process = start(tag)
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: state_of(process.pid) == "Z", LIMIT_S, "its end")
    assert tagged([tag]) == set()


def test_what_is_not_there_has_no_state_and_no_environment() -> None:
    """Processes end while one looks."""
    ended = subprocess.Popen(["true"])
    ended.wait(LIMIT_S)
    pid = ended.pid
    assert (state_of(pid), parent_of(pid), environment_of(pid)) == ("", 0, {})
    assert descendants(pid) == []


def test_a_processs_environment_is_read_whole(start: Start) -> None:
    """Values may hold anything but NUL: an equals sign, a new line, bytes that are no text."""
    values = {"A": "b=c", "B": "x\ny", "C": "\udcff", "D": ""}
    found = environment_of(start("x", **values).pid)
    assert values == {name: found[name] for name in values}


@pytest.mark.parametrize("name", [b"a) Z 1 (b", b"\xff\xfe", "演示".encode()[:-1], b" ", b"x\ny"])
def test_a_processs_name_may_hold_anything(name: bytes, tag: str, start: Start) -> None:
    """The kernel cuts names at 15 bytes, in the middle of a character too."""
    script = RENAME.format(name=name, then="time.sleep(60)")
    process = start(tag, sys.executable, "-c", script)
    assert first_line(process) == "1\n"
    assert parent_of(process.pid) == os.getpid()
    assert state_of(process.pid) in {"R", "S"}
    assert process.pid in descendants(os.getpid())
    assert tagged([tag]) == {process.pid}


def test_a_process_has_ended_with_the_last_of_its_threads(start: Start) -> None:
    """Until then it holds its ports and its memory, though it is a zombie already."""
    script = (
        "import ctypes, signal, socket, threading, time\n"
        "held = socket.create_server(('127.0.0.1', 0))\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "print(held.getsockname()[1], flush=True)\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process = start("x", sys.executable, "-c", script)
    port = int(first_line(process))
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: state_of(process.pid) == "Z", LIMIT_S, "the end of its first thread")
    assert not has_ended(process.pid)
    socket.create_connection(("127.0.0.1", port), LIMIT_S).close()
    process.kill()
    wait_for(lambda: has_ended(process.pid), LIMIT_S, "its end")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), LIMIT_S)
    assert state_of(process.pid) == "Z"
    process.wait(LIMIT_S)
    assert has_ended(process.pid)
    assert not has_ended(os.getpid())


def test_who_was_killed_is_waited_for_when_it_is_not_found_any_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is ending has lost its tag, and still holds its port."""
    process = start("x")
    finds = [[process.pid], [], []]
    sent: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, _: sent.append(pid))
        killed, left = kill_all(lambda: finds.pop(0) if finds else [], 0.2)
    assert (killed, left, sent) == ({process.pid}, {process.pid}, [process.pid])


def test_descendants_are_found_to_the_last(start: Start) -> None:
    """Children's children, and nobody beside them."""
    process = start("x", "sh", "-c", "sh -c 'sleep 60 & echo $!; wait' & wait")
    last = int(first_line(process))
    beside = start("x")
    parent, found = parent_of(last), descendants(process.pid)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    assert sorted(found) == sorted([parent, last])
    assert beside.pid not in found


def test_all_are_killed_whatever_they_ignore(tag: str, start: Start) -> None:
    """A child in a session of its own, one that ignores SIGTERM, and one that was stopped."""
    family = start(tag, "sh", "-c", "setsid sleep 60 & echo $!; wait")
    deaf = start(tag, "sh", "-c", 'trap "" TERM HUP INT; echo 1; while :; do sleep 60; done')
    frozen = start(tag)
    bystander = start(f"{tag}x")
    grandchild = int(first_line(family))
    first_line(deaf)
    os.kill(deaf.pid, signal.SIGTERM)
    os.kill(frozen.pid, signal.SIGSTOP)
    killed, left = kill_all(lambda: tagged([tag]), LIMIT_S)
    assert {family.pid, grandchild, deaf.pid, frozen.pid} <= killed
    assert (left, tagged([tag])) == (set(), set())
    assert state_of(bystander.pid) in {"R", "S"}


def test_what_is_started_meanwhile_is_killed_too(tag: str, start: Start) -> None:
    """It looks again until it finds nothing."""
    waves = [[start(tag).pid], [start(tag).pid], []]
    killed, left = kill_all(lambda: waves.pop(0), LIMIT_S)
    assert (len(killed), left, waves) == (2, set(), [])


def test_where_nothing_is_nothing_is_killed_at_once() -> None:
    """A start without leftovers does not wait."""
    began = time.monotonic()
    assert kill_all(list, 60.0) == (set(), set())
    assert time.monotonic() - began < 30


def test_what_cannot_be_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time it says who is left, instead of waiting for ever."""
    sent: list[tuple[int, int]] = []

    def send(pid: int, number: int) -> None:
        sent.append((pid, number))
        raise PermissionError

    pid = os.getpid()
    monkeypatch.setattr(os, "kill", send)
    killed, left = kill_all(lambda: [pid], 0.2)
    assert (killed, left) == ({pid}, {pid})
    assert set(sent) == {(pid, signal.SIGKILL)}


def test_only_stopped_processes_are_woken(start: Start) -> None:
    """Those that run, or are gone, are not touched."""
    stopped, running, ended = start("x"), start("x"), start("x")
    ended.kill()
    ended.wait(LIMIT_S)
    os.kill(stopped.pid, signal.SIGSTOP)
    wait_for(lambda: state_of(stopped.pid) == "T", LIMIT_S, "a stop")
    assert wake([running.pid, stopped.pid, ended.pid]) == [stopped.pid]
    wait_for(lambda: state_of(stopped.pid) in {"R", "S"}, LIMIT_S, "that it runs on")
    assert wake([running.pid, stopped.pid]) == []


ORPHAN = """\
import os, signal, subprocess, sys
from launcher.leftovers import adopt_orphans, parent_of
if sys.argv[1] == "adopt":
    adopt_orphans()
child = subprocess.run(
    ["sh", "-c", "setsid sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True
)
pid = int(child.stdout)
print(parent_of(pid) == os.getpid())
os.kill(pid, signal.SIGKILL)
"""


@pytest.mark.parametrize(("word", "expected"), [("adopt", "True"), ("leave", "False")])
def test_orphans_are_adopted(word: str, expected: str) -> None:
    """What a child leaves behind when it ends becomes ours, instead of init's."""
    found = subprocess.run(
        [sys.executable, "-c", ORPHAN, word], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (found.stdout.strip(), found.stderr) == (expected, "")


TIED = """\
import signal, subprocess, sys
from launcher.leftovers import end_with_parent
def tie():
    end_with_parent(signal.SIGKILL)
child = subprocess.Popen(["sleep", "60"], preexec_fn=tie)
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_ends_with_its_parent(tag: str, start: Start) -> None:
    """However the parent ends; SIGKILL leaves it no time to tell anyone."""
    parent = start(tag, sys.executable, "-c", TIED)
    child = int(first_line(parent))
    assert state_of(child) in {"R", "S"}
    parent.kill()
    wait_for(lambda: state_of(child) in {"", "Z"}, LIMIT_S, "the child's end")
