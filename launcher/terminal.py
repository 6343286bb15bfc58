"""The one place that prints: plain lines, and a line of progress that moves on a terminal."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO


def say(message: str = "") -> None:
    """A line on standard output."""
    print(message, flush=True)  # noqa: T201


def warn(message: str) -> None:
    """A line on standard error that does not stop anything."""
    print(f"step3vl: warning: {message}", file=sys.stderr, flush=True)  # noqa: T201


class ProgressLine:
    """Rewrites one line on a terminal; elsewhere prints a line for each new text."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._moves = self._stream.isatty()
        self._last = ""

    def show(self, text: str, seconds: float) -> None:
        """``text`` with the seconds that passed."""
        if self._moves:
            columns = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{f'{seconds:5.0f} s  {text}'[:columns]}")
            self._stream.flush()
        elif text != self._last:
            self._stream.write(f"{seconds:5.0f} s  {text}\n")
            self._stream.flush()
        self._last = text

    def end(self) -> None:
        """Leave the line, so that what is printed next starts on its own."""
        if self._moves and self._last:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
