"""launcher.engine: verdicts and counts, and small runs of the real program with a shell as vLLM."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import free_port, wait_for

from launcher import engine
from launcher.engine import (
    EX_CONFIG,
    EX_SOFTWARE,
    EX_TEMPFAIL,
    GOOD_RUN_S,
    MAX_CRASHES,
    CrashLedger,
    Engine,
    Settings,
    StateFile,
)
from launcher.engine_log import Cause

LIMIT_S = 15.0
MEMORY = "out of memory: lower VLLM_CPU_KVCACHE_SPACE"
UNKNOWN_OPTION = "vLLM does not know --x; correct engine.options"

HEALTHY_ONCE = """\
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
print("MemoryError", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).handle_request()
print("KeyError: 'later'", flush=True)
sys.exit(3)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> CrashLedger:
    return CrashLedger(tmp_path / "crashes.json")


def test_a_new_ledger_has_no_crash(ledger: CrashLedger) -> None:
    """Before the first start there is no file."""
    assert (ledger.count(), ledger.last_cause()) == (0, "unknown cause")


def test_crashes_are_counted_with_the_last_cause(ledger: CrashLedger, tmp_path: Path) -> None:
    """The count outlives the process that wrote it."""
    for cause in ("first", "second"):
        ledger.add(cause)
    again = CrashLedger(tmp_path / "crashes.json")
    assert (again.count(), again.last_cause()) == (2, "second")


def test_a_cleared_ledger_begins_anew(ledger: CrashLedger, tmp_path: Path) -> None:
    """Nothing is left of it, and clearing twice is no error."""
    ledger.add("first")
    ledger.clear()
    ledger.clear()
    assert (ledger.count(), [*tmp_path.iterdir()]) == (0, [])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"count": "3"}', '{"times": [1, 2, 3]}'])
def test_a_broken_ledger_counts_nothing(content: str, ledger: CrashLedger, tmp_path: Path) -> None:
    """Garbage, or the file of an older version, keeps no engine from starting."""
    (tmp_path / "crashes.json").write_text(content)
    assert ledger.count() == 0
    ledger.add("x")
    assert (ledger.count(), ledger.last_cause()) == (1, "x")


def test_a_ledger_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A crash is not made worse by a full disk."""
    ledger = CrashLedger(tmp_path / "missing" / "crashes.json")
    ledger.add("x")
    ledger.clear()
    assert ledger.count() == 0


def test_a_state_is_replaced_whole_and_private(tmp_path: Path) -> None:
    """Readers see the last state only, and nothing temporary stays."""
    path = tmp_path / "engine.json"
    times = iter([10.0, 11.0, 12.0])
    state = StateFile(path, clock=lambda: next(times))
    state.write("loading", "a")
    state.write("failed", "b", evidence="c")
    assert json.loads(path.read_text()) == {
        "phase": "failed",
        "message": "b",
        "started_at": 10.0,
        "changed_at": 12.0,
        "pid": os.getpid(),
        "evidence": "c",
    }
    assert (path.stat().st_mode & 0o777, [*tmp_path.iterdir()]) == (0o600, [path])


def settings_in(folder: Path, port: int = 1) -> Settings:
    return Settings(folder / "engine.json", folder / "crashes.json", port, 5.0, 5.0, ["true"])


def engine_that_said(folder: Path, *lines: str) -> Engine:
    found = Engine(settings_in(folder))
    for line in lines:
        found._log.feed(line)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_signal_is_its_own_cause(number: int, tmp_path: Path) -> None:
    """Whatever the log says, vLLM did not end by it."""
    expected = Cause(f"vLLM was killed by signal {int(number)}", "")
    assert expected == engine_that_said(tmp_path, "MemoryError")._cause(-number)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["MemoryError"], Cause(MEMORY, "MemoryError", known=True)),
        (["KeyError: 'secret'"], Cause("{unknown}", "KeyError: 'secret'")),
        (["all is well"], Cause("{unknown}", "")),
        ([], Cause("{unknown}", "")),
    ],
)
def test_only_a_known_cause_is_told_to_everyone(
    lines: list[str], expected: Cause, tmp_path: Path
) -> None:
    """The log's own line is evidence for this machine, and never the message."""
    unknown = "vLLM ended by itself (exit 3); its log says why"
    found = engine_that_said(tmp_path, *lines)._cause(3)
    assert found.message == expected.message.format(unknown=unknown)
    assert (expected.evidence, expected.known) == (found.evidence, found.known)


@pytest.mark.parametrize(
    ("line", "early_s", "ready_s", "code", "count"),
    [
        ("MemoryError", 60.0, None, EX_SOFTWARE, 2),
        ("MemoryError", -1.0, None, EX_SOFTWARE, 3),
        ("x", -1.0, None, EX_SOFTWARE, 3),
        ("x", -1.0, GOOD_RUN_S - 5, EX_SOFTWARE, 3),
        ("x", -1.0, GOOD_RUN_S + 5, EX_SOFTWARE, 1),
        ("x: error: unrecognized arguments: --x", -1.0, None, EX_CONFIG, 2),
        ("x: error: unrecognized arguments: --x", -1.0, GOOD_RUN_S + 5, EX_CONFIG, 0),
    ],
)
def test_a_crash_is_counted_where_supervisord_would_start_again(
    line: str,
    early_s: float,
    ready_s: float | None,
    code: int,
    count: int,
    tmp_path: Path,
    ledger: CrashLedger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not an early end, not one for certain; and ten good minutes forget what was before."""
    for _ in range(2):
        ledger.add("earlier")
    monkeypatch.setattr(engine, "EARLY_EXIT_S", early_s)
    found = engine_that_said(tmp_path, line)
    if ready_s is not None:
        found._ready_since = time.monotonic() - ready_s
    assert code == found._verdict(1, timed_out=False)
    assert count == ledger.count()


def test_a_start_that_took_too_long_is_no_crash(tmp_path: Path, ledger: CrashLedger) -> None:
    """supervisord begins it anew, however often."""
    assert engine_that_said(tmp_path)._verdict(-9, timed_out=True) == EX_TEMPFAIL
    state = json.loads((tmp_path / "engine.json").read_text())
    assert (state["phase"], state["message"]) == ("failed", "not ready after 5 s")
    assert ledger.count() == 0


@dataclass
class Run:
    """One run of ``python -m launcher.engine``; its log is a file or a pipe."""

    process: subprocess.Popen[str]
    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / "engine.json").read_text())
        except FileNotFoundError:
            return {}
        assert self.process.pid == found["pid"]
        return found

    @property
    def verdict(self) -> tuple[str, str]:
        return self.state["phase"], self.state["message"]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def end(self) -> int:
        return self.process.wait(LIMIT_S)

    def said(self, words: str) -> None:
        wait_for(lambda: words in self.log, LIMIT_S, f"{words!r} in the log")

    def number_after(self, name: str) -> int:
        """A process id that the child printed as ``name=pid``."""
        whole = wait_for(lambda: self.log.rpartition("\n")[0], LIMIT_S, "a whole line")
        return int(whole.partition(f"{name}=")[2].split()[0])


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start engines; whatever is left of them in the end is killed by its process id."""
    runs: list[Run] = []

    def run(*command: str, port: int = 0, piped: bool = False, **files: Path) -> Run:
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "launcher.engine"),
                    *("--state", files.get("state", tmp_path / "engine.json")),
                    *("--crashes", files.get("crashes", tmp_path / "crashes.json")),
                    *("--port", str(port or free_port()), "--start-timeout", "60"),
                    *("--stop-timeout", "1", "--", *command),
                ],
                stdout=subprocess.PIPE if piped else log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        runs.append(Run(process, tmp_path))
        return runs[-1]

    yield run
    for one in runs:
        kill(one.process)


def kill(process: subprocess.Popen[str]) -> None:
    """End a process that we started, and all below it."""
    if process.poll() is None:
        below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait(LIMIT_S)
    if process.stdout is not None:
        process.stdout.close()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize(
    ("script", "code", "message", "evidence"),
    [
        ("echo MemoryError; exit 1", EX_SOFTWARE, MEMORY, "MemoryError"),
        ("exit 0", EX_SOFTWARE, "vLLM ended by itself (exit 0); its log says why", ""),
        (
            "echo \"KeyError: 'x'\"; exit 4",
            EX_SOFTWARE,
            "vLLM ended by itself (exit 4); its log says why",
            "KeyError: 'x'",
        ),
        ("kill -KILL $$", EX_SOFTWARE, "vLLM was killed by signal 9", ""),
        (
            "echo 'INFO: error: unrecognized arguments: --y' >&2; exit 2",
            EX_SOFTWARE,
            "vLLM ended by itself (exit 2); its log says why",
            "",
        ),
        (
            "echo 'x.py: error: unrecognized arguments: --x' >&2; exit 2",
            EX_CONFIG,
            UNKNOWN_OPTION,
            "x.py: error: unrecognized arguments: --x",
        ),
    ],
)
def test_an_engine_that_ends_by_itself_has_failed(
    script: str, code: int, message: str, evidence: str, start: Start
) -> None:
    """Exit code, state file and log tell the same cause, whatever vLLM's own exit code says."""
    run = start("sh", "-c", script)
    assert code == run.end()
    assert ("failed", message) == run.verdict
    assert evidence == run.state["evidence"]
    assert f"step3vl: {message}" == run.log.splitlines()[-1]


def test_an_early_end_is_not_counted(start: Start, ledger: CrashLedger) -> None:
    """Within five seconds supervisord gives up by itself."""
    ledger.add("earlier")
    start("sh", "-c", "echo MemoryError; exit 1").end()
    assert (ledger.count(), ledger.last_cause()) == (1, "earlier")


def test_a_program_that_is_not_there_is_named(start: Start) -> None:
    """Starting it again would not help."""
    run = start("/no/such/program")
    assert run.end() == EX_CONFIG
    assert run.verdict == ("failed", "the engine's program cannot be run")
    run.said("step3vl: /no/such/program: No such file or directory")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_is_passed_on_once_and_is_no_failure(
    number: int, start: Start, ledger: CrashLedger
) -> None:
    """The child gets SIGTERM, its output is copied to the last line, and the count is forgotten."""
    ledger.add("earlier")
    run = start("sh", "-c", "trap 'echo draining; exit 9' TERM; echo up; sleep 60 & wait")
    run.said("up")
    run.process.send_signal(number)
    assert run.end() == 0
    assert run.verdict == ("stopped", "stopped")
    assert run.log.splitlines().count("draining") == 1
    assert ledger.count() == 0


def test_a_child_that_ignores_a_stop_is_killed(start: Start) -> None:
    """After the time for a stop it is gone, which is still a stop and not a failure."""
    run = start("sh", "-c", 'trap "" TERM; echo pid=$$; exec sleep 60')
    pid = run.number_after("pid")
    began = time.monotonic()
    run.process.terminate()
    wait_for(lambda: run.state.get("phase") == "stopping", LIMIT_S, "phase stopping")
    assert run.end() == 0
    assert time.monotonic() - began >= 1
    assert is_gone(pid)
    assert run.verdict == ("stopped", "stopped")
    assert run.log.splitlines() == [f"pid={pid}", "step3vl: stopping"]


@pytest.mark.parametrize("last", ["exit 1", "kill -KILL $$"])
def test_what_a_crash_leaves_behind_is_killed(last: str, start: Start) -> None:
    """A grandchild in a session of its own goes too."""
    run = start("sh", "-c", f"setsid sleep 60 & echo pid=$!; {last}")
    assert run.end() == EX_SOFTWARE
    assert is_gone(run.number_after("pid"))


def test_without_a_reader_the_whole_engine_ends(start: Start) -> None:
    """supervisord was killed: nobody else would stop the child, or its child in another session."""
    script = "setsid sleep 60 & echo $$ $!; while echo more; do sleep 0.05; done"
    run = start("sh", "-c", script, piped=True)
    assert run.process.stdout is not None
    child, grandchild = map(int, run.process.stdout.readline().split())
    assert not is_gone(child)
    assert not is_gone(grandchild)
    run.process.stdout.close()
    assert run.end() == 0
    assert is_gone(child)
    assert is_gone(grandchild)
    assert run.verdict == ("stopped", "stopped")


def test_after_the_last_counted_crash_nothing_is_started(start: Start, tmp_path: Path) -> None:
    """It gives up with the last cause; the next start, by hand, is a fresh attempt."""
    (tmp_path / "crashes.json").write_text(json.dumps({"count": MAX_CRASHES, "cause": MEMORY}))
    trace = tmp_path / "started"
    run = start("touch", str(trace))
    assert run.end() == EX_CONFIG
    expected = f"crashed 3 times, not starting again; the last time: {MEMORY}"
    assert ("failed", expected) == run.verdict
    assert not trace.exists()
    assert start("touch", str(trace)).end() == EX_SOFTWARE
    assert trace.exists()


def test_before_the_last_counted_crash_it_is_started(start: Start, ledger: CrashLedger) -> None:
    """Two crashes are one too few to give up."""
    for _ in range(MAX_CRASHES - 1):
        ledger.add("earlier")
    run = start("sh", "-c", "echo up; exit 1")
    assert run.end() == EX_SOFTWARE
    assert "up" in run.log.splitlines()


def test_a_folder_that_cannot_be_written_does_not_end_the_engine(
    start: Start, tmp_path: Path
) -> None:
    """State and count are lost, vLLM is not, and a stop is still a stop."""
    missing = tmp_path / "missing"
    run = start(
        *("sh", "-c", "echo up; exec sleep 60"),
        state=missing / "engine.json",
        crashes=missing / "crashes.json",
    )
    run.said("up")
    assert run.process.poll() is None
    run.process.terminate()
    assert run.end() == 0
    assert not missing.exists()
    assert "Traceback" not in run.log


def test_the_state_follows_the_log_until_the_engine_is_ready(start: Start) -> None:
    """Each phase is written as vLLM announces it."""
    run = start("sh", "-c", "echo 'Starting to load model x'; exec sleep 60")
    wait_for(
        lambda: (
            (run.state.get("phase"), run.state.get("message")) == ("loading", "loading the model")
        ),
        LIMIT_S,
        "phase loading",
    )


def test_what_was_said_before_ready_explains_no_later_end(start: Start) -> None:
    """An error of the start that did no harm is not the cause of a crash in service."""
    port = free_port()
    run = start(sys.executable, "-c", HEALTHY_ONCE, str(port), port=port)
    assert run.end() == EX_SOFTWARE
    assert run.verdict == ("failed", "vLLM ended by itself (exit 3); its log says why")
    assert "MemoryError" in run.log.splitlines()
    assert run.state["evidence"] == "KeyError: 'later'"
    assert "step3vl: ready" in run.log.splitlines()
