"""launcher.terminal: lines, and the line of progress."""

from __future__ import annotations

import io
import os
import shutil

import pytest

from launcher.terminal import ProgressLine, say, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 20 columns."""
    size = os.terminal_size((20, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: size)


def test_a_line_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """What a command says can be piped."""
    say("hello")
    assert capsys.readouterr() == ("hello\n", "")


def test_a_warning_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning does not mix with what is piped, and says who warns."""
    warn("careful")
    assert capsys.readouterr() == ("", "step3vl: warning: careful\n")


def test_into_a_file_each_new_text_is_one_line() -> None:
    """A log of a start is short: the same text again is not repeated."""
    stream = io.StringIO()
    line = ProgressLine(stream)
    for text, seconds in (("loading", 1), ("loading", 2), ("warming", 3.6)):
        line.show(text, seconds)
    line.end()
    assert stream.getvalue() == "    1 s  loading\n    4 s  warming\n"


def test_on_a_terminal_one_line_is_rewritten(narrow: None) -> None:
    """Every state replaces the one before, and the end leaves the line empty."""
    stream = Terminal()
    line = ProgressLine(stream)
    line.show("loading", 1)
    line.show("loading", 2)
    line.end()
    expected = ["", "    1 s  loading", "    2 s  loading", ""]
    assert expected == stream.getvalue().split("\r\x1b[K")


def test_a_line_never_wraps(narrow: None) -> None:
    """A text wider than the terminal is cut, or the rewriting would scroll."""
    stream = Terminal()
    ProgressLine(stream).show("x" * 100, 0)
    assert len(stream.getvalue().removeprefix("\r\x1b[K")) == 19


def test_where_nothing_was_shown_nothing_is_cleared() -> None:
    """Ending an unused line prints nothing."""
    stream = Terminal()
    ProgressLine(stream).end()
    assert stream.getvalue() == ""
