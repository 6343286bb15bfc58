"""launcher.errors: whatever a command raises becomes one line and an exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import ConfigError, LauncherError, run_guarded


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "launcher.log"


@pytest.mark.parametrize("code", [0, 1, 78])
def test_a_command_that_returns_decides_its_own_exit_code(
    code: int, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed or written."""
    assert code == run_guarded(lambda: code, log)
    assert capsys.readouterr() == ("", "")
    assert not log.exists()


class OtherError(LauncherError):
    exit_code = 78


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LauncherError("port 80 is taken"), 1, "step3vl: port 80 is taken\n"),
        (ConfigError("a.yaml:\n  line 1: x"), 2, "step3vl: a.yaml:\n  line 1: x\n"),
        (OtherError("no"), 78, "step3vl: no\n"),
        (KeyboardInterrupt(), 130, "step3vl: interrupted\n"),
    ],
)
def test_an_expected_error_is_its_message_and_its_code(
    error: BaseException,
    code: int,
    line: str,
    log: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message goes to standard error, and no log is begun for it."""
    assert code == run_guarded(raising(error), log)
    assert ("", line) == capsys.readouterr()
    assert not log.exists()


def test_an_unexpected_error_is_one_line_and_a_traceback_in_the_log(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody meets a traceback, and it is not lost for the bug report."""
    assert run_guarded(raising(ZeroDivisionError("half of nothing")), log) == 1
    expected = f"step3vl: unexpected ZeroDivisionError: half of nothing (details: {log})\n"
    assert ("", expected) == capsys.readouterr()
    written = log.read_text()
    assert "Traceback (most recent call last):" in written
    assert written.endswith("ZeroDivisionError: half of nothing\n")


def test_the_log_keeps_earlier_tracebacks(log: Path) -> None:
    """A second error is added below the first, each with its time and command line."""
    for word in ("first", "second"):
        run_guarded(raising(RuntimeError(word)), log)
    heads = [line for line in log.read_text().splitlines() if line.startswith("--- ")]
    assert len(heads) == 2
    assert all(head.endswith(str(sys.argv)) for head in heads)
    assert log.read_text().index("first") < log.read_text().index("second")


def test_a_log_that_cannot_be_written_does_not_hide_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line comes all the same, and points to no log."""
    (tmp_path / "file").write_text("")
    assert run_guarded(raising(RuntimeError("x")), tmp_path / "file" / "launcher.log") == 1
    assert capsys.readouterr().err == "step3vl: unexpected RuntimeError: x\n"


def test_a_reader_that_went_away_is_no_error(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch logs vllm | head` ends like a program killed by SIGPIPE, without a word."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert run_guarded(raising(BrokenPipeError()), log) == 141
    assert stderr.closed
    assert not log.exists()


def test_a_program_that_asks_to_exit_is_let_go(log: Path) -> None:
    """argparse's exit for --help is not an error of ours."""
    with pytest.raises(SystemExit) as caught:
        run_guarded(raising(SystemExit(0)), log)
    assert caught.value.code == 0
