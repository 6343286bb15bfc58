"""launcher.engine: verdicts and counts, and small runs of the real program."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engine_runs import LIMIT_S, Run, Runs, is_gone, server, settings_in
from support import free_port, wait_for

from launcher.engine import Engine
from launcher.engine_causes import OUT_OF_MEMORY, UNKNOWN, Cause
from launcher.engine_preparation import EX_CONFIG, EX_SOFTWARE, EX_TEMPFAIL
from launcher.engine_state import CrashLedger, read_document
from launcher.leftovers import TAG

MEMORY = "out of memory: lower VLLM_CPU_KVCACHE_SPACE"
UNKNOWN_OPTION = "vLLM does not know --x: correct engine.options"
EARLIER = Cause("disk", "earlier")
NOT_READY = Cause("not_ready", "not ready after 5 s")
STALLED = Cause("stalled", "no progress for 120 s while requests ran")

# Ends at the second request, which the parent sends only after it has read that the first was well.
HEALTHY_ONCE = """\
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
print("MemoryError", flush=True)
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page)
server.handle_request()
server.handle_request()
print("KeyError: 'later'", flush=True)
sys.exit(3)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> CrashLedger:
    return CrashLedger(tmp_path / "crashes.json")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One that runs nothing; it takes this process's signals, which are given back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield Engine(settings_in(tmp_path), ["true"])
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def feed(engine: Engine, *lines: str) -> None:
    for line in lines:
        engine._log.feed(line)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_signal_is_its_own_cause(number: int, engine: Engine) -> None:
    """Whatever the log says, vLLM did not end by it."""
    feed(engine, "MemoryError")
    expected = Cause("killed", f"vLLM was killed by signal {int(number)}")
    assert expected == engine._cause(-number)


@pytest.mark.parametrize(
    ("lines", "code", "message", "evidence"),
    [
        (["MemoryError"], OUT_OF_MEMORY, MEMORY, "MemoryError"),
        (["KeyError: 'secret'"], UNKNOWN, None, "KeyError: 'secret'"),
        (["all is well"], UNKNOWN, None, ""),
        ([], UNKNOWN, None, ""),
    ],
)
def test_only_a_known_cause_is_told_to_everyone(
    lines: list[str], code: str, message: str | None, evidence: str, engine: Engine
) -> None:
    """The log's own line is evidence for this machine, and never the message."""
    feed(engine, *lines)
    found = engine._cause(3)
    expected = message or "vLLM ended by itself (exit 3); its log says why"
    assert (code, expected, evidence) == (found.code, found.message, found.evidence)


@pytest.mark.parametrize(
    ("line", "ready_s", "ended_for", "code", "count"),
    [
        ("MemoryError", None, None, EX_SOFTWARE, 3),
        ("x", None, None, EX_SOFTWARE, 3),
        ("x", 595, None, EX_SOFTWARE, 3),
        ("x", 605, None, EX_SOFTWARE, 1),
        ("x: error: unrecognized arguments: --x", None, None, EX_CONFIG, 2),
        ("x: error: unrecognized arguments: --x", 605, None, EX_SOFTWARE, 1),
        ("x", 595, STALLED, EX_SOFTWARE, 3),
        ("x", 605, STALLED, EX_SOFTWARE, 1),
        ("x", None, NOT_READY, EX_TEMPFAIL, 2),
    ],
)
def test_a_crash_is_counted_where_it_may_happen_again(
    line: str,
    ready_s: float | None,
    ended_for: Cause | None,
    code: int,
    count: int,
    engine: Engine,
    ledger: CrashLedger,
) -> None:
    """Not one that is certain, nor a slow start; and a good run forgets what was before."""
    for _ in range(2):
        ledger.add(EARLIER)
    feed(engine, line)
    if ready_s is not None:
        engine._ready_since = time.time() - ready_s
    assert code == engine._verdict(1, ended_for)
    assert count == ledger.count()


@pytest.mark.parametrize("ended_for", [NOT_READY, STALLED])
def test_an_engine_that_was_ended_says_what_for(
    ended_for: Cause, engine: Engine, tmp_path: Path
) -> None:
    """And not that it was killed: that was us."""
    feed(engine, "MemoryError")
    engine._verdict(-9, ended_for)
    state = read_document(tmp_path / "engine.json")
    assert (state["phase"], state["message"]) == ("failed", ended_for.message)
    assert state["cause"]["code"] == ended_for.code


@pytest.mark.parametrize("ended_for", [None, Cause("stopped", "it did not stop in time")])
def test_a_stop_is_no_failure_however_it_ends(
    ended_for: Cause | None, engine: Engine, ledger: CrashLedger, tmp_path: Path
) -> None:
    """Also where vLLM had to be killed, or said an error on its way out."""
    ledger.add(EARLIER)
    feed(engine, "MemoryError")
    engine._stop.ask()
    assert engine._verdict(-9, ended_for) == 0
    state = read_document(tmp_path / "engine.json")
    assert (state["phase"], "cause" in state, ledger.count()) == ("stopped", False, 0)


@pytest.mark.parametrize(
    ("script", "exit_code", "code", "message", "evidence"),
    [
        ("echo MemoryError; exit 1", EX_SOFTWARE, OUT_OF_MEMORY, MEMORY, "MemoryError"),
        ("exit 0", EX_SOFTWARE, UNKNOWN, "vLLM ended by itself (exit 0); its log says why", ""),
        (
            "echo \"KeyError: 'x'\"; exit 4",
            EX_SOFTWARE,
            UNKNOWN,
            "vLLM ended by itself (exit 4); its log says why",
            "KeyError: 'x'",
        ),
        ("kill -KILL $$", EX_SOFTWARE, "killed", "vLLM was killed by signal 9", ""),
        (
            "echo 'INFO: error: unrecognized arguments: --y' >&2; exit 2",
            EX_SOFTWARE,
            UNKNOWN,
            "vLLM ended by itself (exit 2); its log says why",
            "",
        ),
        (
            "echo 'x.py: error: unrecognized arguments: --x' >&2; exit 2",
            EX_CONFIG,
            "options",
            UNKNOWN_OPTION,
            "x.py: error: unrecognized arguments: --x",
        ),
    ],
)
def test_an_engine_that_ends_by_itself_has_failed(
    script: str, exit_code: int, code: str, message: str, evidence: str, start: Runs
) -> None:
    """Exit code, state file and log tell the same cause, whatever vLLM's own exit code says."""
    run = start("sh", "-c", script)
    assert exit_code == run.end()
    assert ("failed", message) == run.verdict
    assert (code, evidence) == (run.state["cause"]["code"], run.state["evidence"])
    assert f"step3vl: {message}" in run.log.splitlines()[-2:]


def test_each_crash_is_counted_with_its_cause(start: Runs, ledger: CrashLedger) -> None:
    """Those of the first seconds too: supervisord starts it again after them."""
    start("sh", "-c", "echo MemoryError; exit 1").end()
    found = ledger.last_cause()
    assert found is not None
    assert (ledger.count(), found.code, found.message) == (1, OUT_OF_MEMORY, MEMORY)


def test_a_program_that_is_not_there_is_named(start: Runs) -> None:
    """Starting it again would not help."""
    run = start("/no/such/program")
    assert run.end() == EX_CONFIG
    assert run.verdict == ("failed", "the engine's program cannot be run")
    run.said("step3vl: /no/such/program: No such file or directory")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_is_passed_on_once_and_is_no_failure(
    number: int, start: Runs, ledger: CrashLedger
) -> None:
    """The child gets SIGTERM, its output is copied to the last line, and the count is forgotten."""
    ledger.add(EARLIER)
    script = "trap 'echo draining; sleep 0.5; exit 9' TERM; echo up; sleep 60 & wait"
    run = start("sh", "-c", script, stop_timeout=LIMIT_S)
    run.said("up")
    run.process.send_signal(number)
    run.said("draining")
    run.process.send_signal(number)
    assert run.end() == 0
    assert run.verdict == ("stopped", "stopped")
    assert run.log.splitlines().count("draining") == 1
    assert ledger.count() == 0


def test_a_child_that_ignores_a_stop_is_killed(start: Runs) -> None:
    """After the time for a stop it is gone, which is still a stop and not a failure."""
    run = start("sh", "-c", 'trap "" TERM; echo pid=$$; exec sleep 60')
    pid = run.number_after("pid")
    began = time.monotonic()
    run.process.terminate()
    run.reached("stopping")
    assert run.end() == 0
    assert time.monotonic() - began >= 1
    assert is_gone(pid)
    assert run.verdict == ("stopped", "stopped")
    assert run.log.splitlines() == [f"pid={pid}", "step3vl: stopping"]


def test_a_child_that_still_loads_is_not_waited_for_long(start: Runs) -> None:
    """No answer of it can be lost, and vLLM does not listen while it loads."""
    run = start("sh", "-c", 'trap "" TERM; echo up; exec sleep 60', stop_timeout=LIMIT_S)
    run.said("up")
    began = time.monotonic()
    run.process.terminate()
    assert run.end() == 0
    assert time.monotonic() - began < LIMIT_S
    assert run.verdict == ("stopped", "stopped")


@pytest.mark.parametrize("last", ["exit 1", "kill -KILL $$"])
def test_what_a_crash_leaves_behind_is_killed(last: str, start: Runs) -> None:
    """A grandchild in a session of its own goes too, without a tag or a word from it."""
    run = start("sh", "-c", f"setsid sleep 60 & echo pid=$!; {last}")
    assert run.end() == EX_SOFTWARE
    assert is_gone(run.number_after("pid"))


# Two processes with a block of shared memory each; the second one is killed.
SHARING = """\
import os, signal, sys, time
from multiprocessing.shared_memory import SharedMemory
child = os.fork()
block = SharedMemory(create=True, size=4096)
print(f"block{int(not child)}={block.name}", flush=True)
time.sleep(1 if child else 60)
"""


@pytest.mark.parametrize("last", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_what_those_who_are_killed_have_in_shared_memory_is_freed(last: str, start: Runs) -> None:
    """vLLM has some 10 MB there in each run."""
    run = start(sys.executable, "-c", SHARING + last)
    run.said("block0=")
    run.said("block1=")
    [block] = re.findall(r"block1=(psm_\w+)", run.log)
    assert Path("/dev/shm", block).exists()
    assert run.end() == EX_SOFTWARE
    assert not Path("/dev/shm", block).exists()


def test_what_a_crash_undoes_is_undone_where_it_was_killed(start: Runs, tmp_path: Path) -> None:
    """By itself, an engine that ends has done so."""
    undone = tmp_path / "undone"
    for last, expected in (("exit 1", False), ("kill -KILL $$", True)):
        run = start("sh", "-c", last, undo=["touch", str(undone)])
        assert run.end() == EX_SOFTWARE
        assert undone.exists() == expected


def test_a_child_ends_with_its_parent(start: Runs) -> None:
    """SIGKILL leaves the parent no time to end anything itself."""
    run = start("sh", "-c", "echo pid=$$; exec sleep 60")
    pid = run.number_after("pid")
    run.process.kill()
    run.end()
    wait_for(lambda: is_gone(pid), LIMIT_S, "the child's end")


def test_without_a_reader_the_whole_engine_ends(start: Runs) -> None:
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


def test_a_folder_that_cannot_be_written_does_not_end_the_engine(
    start: Runs, tmp_path: Path
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


def test_the_state_follows_the_log_until_the_engine_is_ready(start: Runs) -> None:
    """Each phase is written as vLLM announces it, and how many parts of the weights there are."""
    lines = "Starting to load model x\\nLoading checkpoint shards:  50%% Completed | 1/2\\r"
    run = start("sh", "-c", f"printf '{lines}'; exec sleep 60")
    wait_for(lambda: run.state.get("shards") == {"done": 1, "total": 2}, LIMIT_S, "a part")
    assert run.verdict == ("loading", "loading the model: part 1 of 2")


def test_what_was_said_before_ready_explains_no_later_end(start: Runs) -> None:
    """An error of the start that did no harm is not the cause of a crash in service."""
    port = free_port()
    run = start(sys.executable, "-c", HEALTHY_ONCE, str(port), port=port, quick=True)
    assert run.end() == EX_SOFTWARE
    assert run.verdict == ("failed", "vLLM ended by itself (exit 3); its log says why")
    assert "MemoryError" in run.log.splitlines()
    assert run.state["evidence"] == "KeyError: 'later'"
    assert "step3vl: ready" in run.log.splitlines()


def test_a_start_that_takes_too_long_is_ended(start: Runs, ledger: CrashLedger) -> None:
    """It is begun anew however often, so it is no crash; the option to raise is named."""
    run = start("sh", "-c", "echo pid=$$; exec sleep 60", start_timeout=1.0)
    assert run.end() == EX_TEMPFAIL
    assert is_gone(run.number_after("pid"))
    assert run.state["cause"]["code"] == "not_ready"
    assert run.verdict[1].startswith("not ready after 1 s: where it only needs longer, raise")
    assert ledger.count() == 0


def ready_engine(start: Runs, *, running: int, moves: bool) -> tuple[Run, int]:
    """A tiny engine that is ready, watched closely; the run and the engine's process id."""
    port = free_port()
    run = start(
        *server(port, running=running, moves=moves),
        port=port,
        quick=True,
        stalled_after=4.0,
        hung_after=7.0,
    )
    run.reached("ready")
    return run, run.number_after("pid")


def ends_as_hung(run: Run, pid: int, ledger: CrashLedger) -> None:
    """First it is told, then it is ended with a cause of its own, and counted."""
    run.reached("stalled")
    assert run.process.poll() is None
    assert run.state["message"] == "no progress for 4 s while requests run"
    assert run.end() == EX_SOFTWARE
    assert is_gone(pid)
    assert (run.state["phase"], run.state["cause"]["code"]) == ("failed", "stalled")
    found = ledger.last_cause()
    assert found is not None
    assert (ledger.count(), found.code) == (1, "stalled")


def test_an_engine_that_hangs_is_told_of_and_ended(start: Runs, ledger: CrashLedger) -> None:
    """It answers, but its requests get no token."""
    run, pid = ready_engine(start, running=1, moves=False)
    ends_as_hung(run, pid, ledger)


@pytest.mark.parametrize("running", [0, 1])
def test_an_engine_that_was_stopped_is_told_of_and_ended(
    running: int, start: Runs, ledger: CrashLedger
) -> None:
    """SIGSTOP: the kernel still accepts connections for it."""
    run, pid = ready_engine(start, running=running, moves=True)
    os.kill(pid, signal.SIGSTOP)
    ends_as_hung(run, pid, ledger)


def test_a_stopped_engine_that_is_woken_in_time_is_ready_again(start: Runs) -> None:
    """The state follows in both directions, and nothing was ended."""
    run, pid = ready_engine(start, running=1, moves=True)
    since = run.state["ready_since"]
    os.kill(pid, signal.SIGSTOP)
    run.reached("stalled")
    os.kill(pid, signal.SIGCONT)
    run.reached("ready")
    assert (run.process.poll(), is_gone(pid)) == (None, False)
    assert since == run.state["ready_since"]


@pytest.mark.parametrize("running", [0, 1])
def test_an_engine_that_works_or_waits_is_left_alone(running: int, start: Runs) -> None:
    """For longer than a hang takes to be ended."""
    run, _ = ready_engine(start, running=running, moves=bool(running))
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(8.0)
    assert "stalled" not in run.log
    assert "no progress" not in run.log
    assert run.state["phase"] == "ready"


def test_a_parent_that_was_stopped_itself_ends_nothing(start: Runs) -> None:
    """In the time in which it did not look it has seen no hang."""
    run, pid = ready_engine(start, running=1, moves=True)
    run.process.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(8.0)
    run.process.send_signal(signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(3.0)
    assert not is_gone(pid)
    assert "no progress" not in run.log


def test_a_stopped_webui_is_woken(start: Runs, tmp_path: Path) -> None:
    """Its port would accept connections and answer none; whatever the file holds is no error."""
    run = start("sh", "-c", "echo up; exec sleep 60", quick=True, tag="ours-vllm")
    run.said("up")
    file = tmp_path / "webui.json"
    for content in ("", "{", '{"pid": "x"}', '{"pid": 4194305}', '{"pid": -1}'):
        file.write_text(content)
    with subprocess.Popen(["sleep", "60"], env={**os.environ, TAG: "ours-webui"}) as webui:
        webui.send_signal(signal.SIGSTOP)
        file.write_text(json.dumps({"pid": webui.pid}))
        run.said(f"step3vl: the WebUI (process {webui.pid}) had been stopped; it runs on")
        assert psutil.Process(webui.pid).status() != psutil.STATUS_STOPPED
        webui.kill()
    assert run.process.poll() is None


def test_the_parent_brings_nothing_but_the_standard_library() -> None:
    """It lives as long as the engine, and what it imports stays in memory as long."""
    script = "import launcher.engine, sys; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    found = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=LIMIT_S
    )
    heavy = {"psutil", "pydantic", "yaml", "supervisor", "pynvml", "aiohttp", "asyncio", "ctypes"}
    assert heavy & set(found.stdout.split()) == {"ctypes"}
