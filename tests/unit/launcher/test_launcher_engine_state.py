"""launcher.engine_state: the state file and the count of crashes, whatever lies in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engine_causes import Cause
from launcher.engine_state import (
    LONGEST_BACK_OFF_S,
    SAME_GIVE_UP_S,
    CrashLedger,
    StateFile,
    read_document,
    write_document,
)

FIRST = Cause("disk", "the disk is full", "free some space")
SECOND = Cause("killed", "vLLM was killed by signal 9")

Clock = Callable[[], float]


class FakeClock:
    """Says what a test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "crashes.json"


@pytest.fixture
def ledger(file: Path) -> CrashLedger:
    return CrashLedger(file)


def ledger_of(count: int, file: Path, limit: int = 3, clock: Clock | None = None) -> CrashLedger:
    """With so many crashes in it."""
    found = CrashLedger(file, limit, clock or FakeClock())
    for _ in range(count):
        found.add(FIRST)
    return found


def test_a_new_ledger_has_no_crash(ledger: CrashLedger) -> None:
    """Before the first start there is no file."""
    assert (ledger.count(), ledger.last_cause(), ledger.back_off_s()) == (0, None, 0.0)
    assert not ledger.must_give_up()


def test_crashes_are_counted_with_the_last_cause(ledger: CrashLedger, file: Path) -> None:
    """The count outlives the process that wrote it; the log's own line is not kept."""
    for cause in (FIRST, Cause(SECOND.code, SECOND.what, SECOND.fix, "a line")):
        ledger.add(cause)
    again = CrashLedger(file)
    assert (again.count(), again.last_cause()) == (2, SECOND)


def test_a_cleared_ledger_begins_anew(ledger: CrashLedger, tmp_path: Path) -> None:
    """Nothing is left of it, and clearing twice is no error."""
    ledger.add(FIRST)
    ledger.clear()
    ledger.clear()
    assert (ledger.count(), [*tmp_path.iterdir()]) == (0, [])


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "\x00", '{"count": "3"}', '{"count": null}', '{"count": 2.5}'),
        *('{"count": -2}', '{"count": [1]}', '{"times": [1, 2, 3]}', '{"count": 1e999}'),
    ],
)
def test_a_broken_ledger_counts_nothing(content: str, ledger: CrashLedger, file: Path) -> None:
    """Garbage, or the file of an older version, keeps no engine from starting."""
    file.write_text(content)
    assert (ledger.count(), ledger.back_off_s()) == (0, 0.0)
    assert (ledger.last_cause(), ledger.must_give_up()) == (None, False)
    ledger.add(FIRST)
    assert (ledger.count(), ledger.last_cause()) == (1, FIRST)


def test_bytes_that_are_no_text_count_nothing(ledger: CrashLedger, file: Path) -> None:
    """A torn file is not always text."""
    file.write_bytes(b"\xff\xfe{")
    assert ledger.count() == 0


@pytest.mark.parametrize("lost", ["code", "what", "fix"])
def test_a_count_without_its_cause_still_counts(lost: str, file: Path) -> None:
    """Only the words are missing then."""
    document = {"count": 3, "code": "disk", "what": "x", "fix": "y", lost: 7}
    file.write_text(json.dumps(document))
    ledger = CrashLedger(file)
    assert (ledger.count(), ledger.last_cause(), ledger.must_give_up()) == (3, None, True)


def test_a_ledger_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A crash is not made worse by a full disk."""
    ledger = CrashLedger(tmp_path / "missing" / "crashes.json")
    ledger.add(FIRST)
    ledger.clear()
    assert ledger.count() == 0


@pytest.mark.parametrize(
    ("crashes", "seconds"), [(0, 0), (1, 0), (2, 5), (3, 25), (4, 60), (9, 60)]
)
def test_each_crash_makes_the_next_start_wait_longer(
    crashes: int, seconds: float, file: Path
) -> None:
    """Not without end: supervisord's own limit of patience is the person's."""
    assert ledger_of(crashes, file).back_off_s() == seconds


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**7))
def test_however_many_crashes_the_wait_is_bounded(crashes: int) -> None:
    """crash_limit may be 1000, and a float holds no 5 ** 999."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "crashes.json"
        file.write_text(json.dumps({"count": crashes}))
        assert 0 <= CrashLedger(file).back_off_s() <= LONGEST_BACK_OFF_S


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_it_gives_up_at_the_limit_and_not_before(limit: int, tmp_path: Path) -> None:
    """The limit is engine.crash_limit."""
    assert not ledger_of(limit - 1, tmp_path / "a", limit).must_give_up()
    assert ledger_of(limit, tmp_path / "b", limit).must_give_up()


def test_giving_up_is_said_for_a_while_and_then_forgotten(file: Path) -> None:
    """supervisord's own further tries end at once; who comes later has perhaps mended something."""
    clock = FakeClock()
    ledger = ledger_of(3, file, clock=clock)
    seen = []
    for seconds in (0.0, 1.0, SAME_GIVE_UP_S - 0.1, SAME_GIVE_UP_S):
        clock.now = 1000.0 + seconds
        seen.append(ledger.must_give_up())
    assert seen == [True, True, True, False]
    assert (ledger.count(), ledger.must_give_up()) == (0, False)


def test_trying_while_it_gives_up_does_not_prolong_it(file: Path) -> None:
    """The time counts from the first refusal, and outlives the process."""
    clock = FakeClock()
    ledger_of(3, file, clock=clock).must_give_up()
    clock.now += SAME_GIVE_UP_S / 2
    assert CrashLedger(file, 3, clock).must_give_up()
    clock.now += SAME_GIVE_UP_S / 2
    assert not CrashLedger(file, 3, clock).must_give_up()


def test_a_clock_that_was_set_back_keeps_nothing_shut(file: Path) -> None:
    """A refusal that lies in the future is no reason to refuse for an hour."""
    clock = FakeClock()
    ledger = ledger_of(3, file, clock=clock)
    ledger.must_give_up()
    clock.now -= 3600
    assert not ledger.must_give_up()


@pytest.mark.parametrize("since", ['"x"', "null", "[]", "{}"])
def test_a_broken_time_of_giving_up_begins_anew(since: str, file: Path) -> None:
    """It is then refused from now on for a while, not for ever."""
    clock = FakeClock()
    file.write_text(f'{{"count": 3, "given_up_at": {since}}}')
    ledger = CrashLedger(file, 3, clock)
    assert ledger.must_give_up()
    clock.now += SAME_GIVE_UP_S
    assert not ledger.must_give_up()


def test_a_state_is_replaced_whole_and_private(tmp_path: Path) -> None:
    """Readers see the last state only, and nothing temporary stays."""
    path = tmp_path / "engine.json"
    times = iter([10.0, 11.0, 12.0])
    state = StateFile(path, clock=lambda: next(times))
    state.write("loading", "a", shards={"done": 1, "total": 2})
    state.write("waiting", "b", evidence="c")
    assert read_document(path) == {
        "phase": "waiting",
        "message": "b",
        "started_at": 10.0,
        "changed_at": 12.0,
        "pid": os.getpid(),
        "evidence": "c",
    }
    assert (path.stat().st_mode & 0o777, [*tmp_path.iterdir()]) == (0o600, [path])


def test_a_failure_has_cause_and_fix_apart(tmp_path: Path) -> None:
    """The page can show what to do beside what happened; the evidence is for this machine only."""
    path = tmp_path / "engine.json"
    StateFile(path).fail(Cause("disk", "the disk is full", "free some space", "Errno 28"))
    found = read_document(path)
    assert (found["phase"], found["message"]) == ("failed", "the disk is full: free some space")
    assert found["evidence"] == "Errno 28"
    assert found["cause"] == {"code": "disk", "message": FIRST.what, "fix": FIRST.fix}


@pytest.mark.parametrize(
    ("phase", "told"),
    [
        *(("starting", True), ("waiting", True), ("loading", True), ("failed", True)),
        *(("ready", False), ("stopped", False)),
    ],
)
def test_the_last_cause_is_told_until_an_engine_is_ready(
    phase: str, told: bool, tmp_path: Path
) -> None:
    """During a start one wants to know why the run before it ended; afterwards it is history."""
    path = tmp_path / "engine.json"
    state = StateFile(path)
    state.last_cause = SECOND
    state.write(phase, "x")
    assert ("cause" in read_document(path)) is told


def test_a_state_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A full disk must not take the engine down with it."""
    write_document(tmp_path / "missing" / "engine.json", {"a": 1})
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "3", "\x00"])
def test_what_is_no_document_is_empty(content: str | None, tmp_path: Path) -> None:
    """A missing or torn file means that nothing is known."""
    path = tmp_path / "engine.json"
    if content is not None:
        path.write_text(content)
    assert read_document(path) == {}
    assert StateFile(path).left_behind() is None


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        *(({"phase": phase}, True) for phase in ("starting", "loading", "ready", "stalled")),
        *(({"phase": phase}, True) for phase in ("waiting", "stopping", "warming up")),
        *(({"phase": phase}, False) for phase in ("stopped", "failed", None)),
        ({}, False),
        ({"phase": "ready", "pid": os.getpid()}, False),
    ],
)
def test_a_parent_that_had_no_last_word_was_killed(
    left: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    """Whoever ends in order says so; what this process wrote itself is nobody's end."""
    path = tmp_path / "engine.json"
    document = {"pid": os.getpid() + 1, **left}
    path.write_text(json.dumps(document))
    assert (document if expected else None) == StateFile(path).left_behind()
