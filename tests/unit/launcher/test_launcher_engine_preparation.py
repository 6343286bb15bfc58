"""launcher.engine_preparation: what is done about an earlier engine before a new one is started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_runs import LIMIT_S, Run, Runs, is_gone, server, settings_in
from support import free_port, wait_for

from launcher.engine_causes import OUT_OF_MEMORY, Cause
from launcher.engine_preparation import EX_CONFIG, EX_SOFTWARE, EX_TEMPFAIL, Settings
from launcher.engine_state import SAME_GIVE_UP_S, CrashLedger
from launcher.leftovers import TAG, tag_of

EARLIER = Cause("disk", "the disk is full", "free some space")
# Half of the longest wait of each of these tests: a stop does not wait for its end.
QUICK_S = 12.0

# One card of 80 GiB, all of which a process holds for as long as a file exists.
DRIVER = """\
import os
from types import SimpleNamespace as Record
class NVMLError(Exception):
    pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return "GPU-1"
def nvmlDeviceGetName(handle): return "NVIDIA Fake"
def nvmlDeviceGetMigMode(handle): raise NVMLError
def is_held():
    return os.path.exists(os.environ["FAKE_HOLD"])
def nvmlDeviceGetMemoryInfo(handle):
    return Record(total=80 << 30, free=0 if is_held() else 80 << 30)
def nvmlDeviceGetComputeRunningProcesses(handle):
    holder = Record(pid=int(os.environ["FAKE_HOLDER"]), usedGpuMemory=79 << 30)
    return [holder] if is_held() else []
"""


@pytest.fixture
def ledger(tmp_path: Path) -> CrashLedger:
    return CrashLedger(tmp_path / "crashes.json")


@pytest.fixture
def tag(tmp_path: Path) -> str:
    return tag_of(tmp_path, "vllm")


Sleeper = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """Start processes that carry a tag, in sessions of their own."""
    started: list[subprocess.Popen[bytes]] = []

    def run(tag: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, TAG: tag}
        process = subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait(LIMIT_S)


def test_settings_are_one_argument_that_reads_back(tmp_path: Path) -> None:
    """Paths with spaces and quotes included."""
    settings = settings_in(tmp_path / "a 'b\" ü", port=8123, gpu_share=0.5)
    assert settings == Settings(**json.loads(settings.as_argument()))


def test_what_an_earlier_engine_left_is_ended_before_the_start(
    start: Runs, tag: str, sleeper: Sleeper, tmp_path: Path
) -> None:
    """By its tag: another installation's, and another program's, are not touched."""
    left, deaf = sleeper(tag), sleeper(tag)
    others = [sleeper(tag_of(tmp_path / "other", "vllm")), sleeper(tag_of(tmp_path, "webui"))]
    deaf.send_signal(signal.SIGSTOP)
    script = f"if [ -e /proc/{left.pid}/exe ]; then echo there; else echo gone; fi; exit 1"
    run = start("sh", "-c", script, tag=tag)
    assert run.end() == EX_SOFTWARE
    pids = sorted([left.pid, deaf.pid])
    said, what, *_ = run.log.splitlines()
    assert said == f"step3vl: ended what an earlier engine had left: processes {pids}"
    assert what == "gone"
    assert [process.poll() for process in others] == [None, None]


def test_without_a_tag_nothing_is_ended(start: Runs, tag: str, sleeper: Sleeper) -> None:
    """A parent that does not know its own processes leaves all of them alone."""
    left = sleeper(tag)
    assert start("sh", "-c", "exit 1").end() == EX_SOFTWARE
    assert left.poll() is None


def test_what_survives_a_killed_parent_is_ended_by_the_next(
    start: Runs, tag: str, ledger: CrashLedger
) -> None:
    """The child goes with its parent; its own child in another session is found by the tag."""
    port = free_port()
    words = "exec " + " ".join(f"'{word}'" for word in server(port))
    first = start("sh", "-c", f"setsid sleep 60 & echo other=$!; {words}", tag=tag, port=port)
    first.reached("ready")
    child, other = first.number_after("pid"), first.number_after("other")
    first.process.kill()
    first.end()
    wait_for(lambda: is_gone(child), LIMIT_S, "the child's end")
    assert not is_gone(other)
    second = start(*server(port), tag=tag, port=port)
    second.reached("ready")
    assert is_gone(other)
    assert f"what an earlier engine had left: processes [{other}]" in second.log
    found = ledger.last_cause()
    assert found is not None
    assert (ledger.count(), found.code) == (1, "killed")


def left_by_a_killed_one(folder: Path, **state: object) -> None:
    """The state file of a parent that had no last word."""
    document = {"pid": os.getpid(), "message": "x", **state}
    (folder / "engine.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("state", "count"),
    [
        ({"phase": "starting"}, 2),
        ({"phase": "loading"}, 2),
        ({"phase": "ready"}, 2),
        ({"phase": "ready", "ready_since": "x"}, 2),
        ({"phase": "ready", "ready_since": 595}, 2),
        ({"phase": "ready", "ready_since": 605}, 1),
        ({"phase": "stalled", "ready_since": 605}, 1),
        ({"phase": "stopping"}, 1),
        ({"phase": "waiting"}, 1),
        ({"phase": "stopped"}, 1),
        ({"phase": "failed"}, 1),
    ],
)
def test_a_parent_that_was_killed_is_counted(
    state: dict[str, object], count: int, start: Runs, ledger: CrashLedger, tmp_path: Path
) -> None:
    """It could not count itself; not while it stopped, and a good run forgets what was before."""
    ledger.add(EARLIER)
    since = state.get("ready_since")
    ago = {"ready_since": time.time() - since} if isinstance(since, int) else {}
    left_by_a_killed_one(tmp_path, **{**state, **ago})
    run = start("true", crash_limit=1)
    assert run.end() == EX_CONFIG
    assert run.verdict[1].startswith(f"crashed {count} times, not starting again; the last time:")
    assert count == ledger.count()


def test_one_that_was_killed_while_it_stopped_is_not_counted(
    start: Runs, ledger: CrashLedger
) -> None:
    """As supervisord does when the time for a stop is over."""
    first = start("sh", "-c", 'trap "" TERM; echo up; exec sleep 60', stop_timeout=LIMIT_S)
    first.said("up")
    first.process.terminate()
    first.reached("stopping")
    first.process.kill()
    first.end()
    second = start("sh", "-c", "echo up; exec sleep 60")
    second.said("up")
    assert ledger.count() == 0


def test_after_the_last_counted_crash_nothing_is_started(
    start: Runs, ledger: CrashLedger, tmp_path: Path
) -> None:
    """It gives up with the last cause, as often as supervisord tries; by hand it is a new start."""
    for _ in range(3):
        ledger.add(EARLIER)
    trace = tmp_path / "started"
    for _ in range(2):
        run = start("touch", str(trace))
        assert run.end() == EX_CONFIG
        expected = f"crashed 3 times, not starting again; the last time: {EARLIER.message}"
        assert ("failed", expected) == run.verdict
        assert run.state["cause"]["fix"] == EARLIER.fix
    assert not trace.exists()
    document = json.loads((tmp_path / "crashes.json").read_text())
    document["given_up_at"] -= SAME_GIVE_UP_S
    (tmp_path / "crashes.json").write_text(json.dumps(document))
    assert start("touch", str(trace)).end() == EX_SOFTWARE
    assert trace.exists()


def test_before_the_last_counted_crash_it_waits_and_is_started(
    start: Runs, ledger: CrashLedger
) -> None:
    """Meanwhile everyone can read how long, and why the run before ended."""
    for _ in range(2):
        ledger.add(EARLIER)
    began = time.monotonic()
    run = start("sh", "-c", "echo up; exec sleep 60", crash_limit=3)
    run.reached("waiting")
    words = f"starting again in 5 s; {EARLIER.message}"
    assert words == run.state["message"]
    assert run.state["cause"]["code"] == "disk"
    run.said("up")
    assert time.monotonic() - began >= 5.0
    assert f"step3vl: {words}" in run.log.splitlines()


def test_a_stop_does_not_wait_for_the_back_off(start: Runs, ledger: CrashLedger) -> None:
    """25 s after the third crash; it is a stop, and nothing was started."""
    for _ in range(3):
        ledger.add(EARLIER)
    run = start("sh", "-c", "echo up; exec sleep 60", crash_limit=9)
    run.reached("waiting")
    assert run.state["message"].startswith("starting again in 25 s")
    run.process.terminate()
    assert run.end(QUICK_S) == 0
    assert run.verdict == ("stopped", "stopped")
    assert "up" not in run.log.splitlines()


def test_a_taken_port_is_told_with_its_holder(start: Runs, ledger: CrashLedger) -> None:
    """Early enough for supervisord to give up; starting again would not help, so it is no crash."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = start("sh", "-c", "echo up", port=port)
        assert run.end() == EX_CONFIG
    fix = "write another engine.port, or end the program that holds it"
    assert ("failed", f"port {port} is taken: {fix}") == run.verdict
    assert run.state["cause"] == {"code": "port", "message": f"port {port} is taken", "fix": fix}
    assert f"(process {os.getpid()})" in run.state["evidence"]
    assert run.state["evidence"] in run.log
    assert run.state["changed_at"] - run.state["started_at"] < 5.0
    assert "up" not in run.log.splitlines()
    assert ledger.count() == 0


def test_a_port_that_a_leftover_holds_is_not_taken(start: Runs, tag: str) -> None:
    """What holds it is ended first."""
    port = free_port()
    environment = {**os.environ, TAG: tag}
    with subprocess.Popen(server(port), env=environment, stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        left.stdout.readline()
        wait_for(lambda: is_open(port), LIMIT_S, "its port")
        run = start(*server(port), port=port, tag=tag)
        run.reached("ready")
        assert left.wait(LIMIT_S) == -signal.SIGKILL


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def first_and_waiting_second(start: Runs, **changes: object) -> tuple[Run, Run]:
    """A parent whose engine runs, and another one of the same installation."""
    first = start("sh", "-c", "echo up; exec sleep 60", **changes)
    first.said("up")
    second = start("sh", "-c", "echo up; exec sleep 60", **changes)
    second.said("waiting until the engine before this one has stopped")
    return first, second


def test_a_second_parent_waits_and_takes_over(start: Runs, ledger: CrashLedger) -> None:
    """There is one engine at any time."""
    first, second = first_and_waiting_second(start, stop_timeout=LIMIT_S)
    assert "up" not in second.log.splitlines()
    first.process.terminate()
    assert first.end() == 0
    second.said("\nup\n")
    assert (second.process.poll(), ledger.count()) == (None, 0)
    assert second.state["phase"] == "starting"


def test_a_second_parent_takes_over_from_a_killed_one(start: Runs, ledger: CrashLedger) -> None:
    """The kernel gives its lock back, and the one that was killed is counted."""
    first, second = first_and_waiting_second(start, stop_timeout=LIMIT_S)
    first.process.kill()
    first.end()
    second.said("\nup\n")
    found = ledger.last_cause()
    assert found is not None
    assert (ledger.count(), found.code) == (1, "killed")


def test_a_second_parent_does_not_wait_for_ever(start: Runs) -> None:
    """The first one lives; and what stands in the state file is still its word."""
    first, second = first_and_waiting_second(start)
    before = first.state
    assert second.end() == EX_CONFIG
    assert "step3vl: another engine of this installation runs: stop it first" in second.log
    assert first.process.poll() is None
    assert before == first.document


def test_a_second_parent_that_is_stopped_says_nothing_of_the_first(start: Runs) -> None:
    """It ends at once, and the first one runs on."""
    first, second = first_and_waiting_second(start, stop_timeout=LIMIT_S)
    before = first.state
    second.process.terminate()
    assert second.end(QUICK_S) == 0
    assert "up" not in second.log.splitlines()
    assert first.process.poll() is None
    assert before == first.document


@pytest.fixture
def card(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine with a card, held by a process until a file is gone."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "pynvml.py").write_text(DRIVER)
    hold = tmp_path / "hold"
    hold.touch()
    with subprocess.Popen(["sleep", "600"]) as holder:
        yield {
            "PYTHONPATH": str(folder),
            "FAKE_HOLD": str(hold),
            "FAKE_HOLDER": str(holder.pid),
        }
        holder.kill()


def test_memory_that_becomes_free_is_waited_for(
    card: dict[str, str], start: Runs, ledger: CrashLedger
) -> None:
    """The driver takes a while after an engine's end; who holds it can be read meanwhile."""
    run = start("sh", "-c", "echo up", env=card, gpu_share=0.9, memory_timeout=LIMIT_S)
    run.reached("waiting")
    assert run.state["message"] == "waiting for GPU memory that somebody else holds"
    expected = (
        "GPU 0 (NVIDIA Fake): 72.0 GiB are wanted, 0.0 of 80.0 are free and held by sleep"
        f" (process {card['FAKE_HOLDER']}, 79.0 GiB)"
    )
    assert expected == run.state["evidence"]
    assert "up" not in run.log.splitlines()
    Path(card["FAKE_HOLD"]).unlink()
    assert run.end() == EX_SOFTWARE
    assert "up" in run.log.splitlines()
    assert run.state["cause"]["code"] == "unknown"


def test_memory_that_stays_held_ends_the_start(
    card: dict[str, str], start: Runs, ledger: CrashLedger
) -> None:
    """It may be free later, so supervisord tries again; the holder is named, and it is counted."""
    run = start("sh", "-c", "echo up", env=card, gpu_share=0.9, memory_timeout=1.0)
    assert run.end() == EX_TEMPFAIL
    assert run.state["cause"]["code"] == OUT_OF_MEMORY
    assert run.verdict[1].startswith("no GPU memory for 1 s: end what holds it (nvidia-smi), or")
    assert f"sleep (process {card['FAKE_HOLDER']}, 79.0 GiB)" in run.state["evidence"]
    assert run.state["evidence"] in run.log
    assert "up" not in run.log.splitlines()
    assert ledger.count() == 1


def test_a_stop_does_not_wait_for_memory(card: dict[str, str], start: Runs) -> None:
    """It is a stop, and nothing was started."""
    run = start("sh", "-c", "echo up", env=card, gpu_share=0.9, memory_timeout=600.0)
    run.reached("waiting")
    run.process.terminate()
    assert run.end(QUICK_S) == 0
    assert run.verdict == ("stopped", "stopped")
    assert "up" not in run.log.splitlines()


@pytest.mark.parametrize(
    ("changes", "visible"),
    [({"gpu_share": 0.0}, None), ({"gpu_share": 0.9}, ""), ({"gpu_share": 0.9}, "GPU-2")],
)
def test_an_engine_that_uses_no_card_waits_for_none(
    changes: dict[str, float], visible: str | None, card: dict[str, str], start: Runs
) -> None:
    """CUDA_VISIBLE_DEVICES of engine.environment is what decides."""
    hidden = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    run = start("sh", "-c", "echo up", env={**card, **hidden}, **changes)
    assert run.end() == EX_SOFTWARE
    assert "GPU memory" not in run.log
