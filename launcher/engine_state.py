"""What the engine's parent keeps on disk: what the engine does now, and how often it crashed.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.engine_causes import Cause

STARTING = "starting"
WAITING = "waiting"
"""For memory that somebody holds, or because the last run crashed."""
READY = "ready"
STALLED = "stalled"
STOPPING = "stopping"
STOPPED = "stopped"
FAILED = "failed"

SAME_GIVE_UP_S = 15.0
"""supervisord tries again a few times; what comes later is somebody who starts it by hand."""
LONGEST_BACK_OFF_S = 60.0


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Replace a file whole. A full disk must not take the engine down with it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(document))
        temporary.chmod(0o600)
        temporary.replace(path)


class StateFile:
    """What the engine is doing, for ``up``, the page and the API."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._started = clock()
        self.last_cause: Cause | None = None
        """Why the run before this one ended; told until this one is ready."""
        self.is_ours = True
        """False while another parent runs: what stands in the file is that one's word."""

    def write(self, phase: str, message: str, **more: Any) -> None:
        """Replace the file.

        Args:
            message: for anyone.
            more: ``evidence``, for this machine's own commands only; ``shards``, ``ready_since``.
        """
        if not self.is_ours:
            return
        cause = self.last_cause if phase not in {READY, STOPPED} else None
        if cause is not None:
            more["cause"] = {"code": cause.code, "message": cause.what, "fix": cause.fix}
        document = {
            "phase": phase,
            "message": message,
            "started_at": self._started,
            "changed_at": self._clock(),
            "pid": os.getpid(),
            **more,
        }
        write_document(self._path, document)

    def fail(self, cause: Cause, message: str | None = None) -> None:
        """Write why it ended."""
        self.last_cause = cause
        self.write(FAILED, message or cause.message, evidence=cause.evidence)

    def left_behind(self) -> dict[str, Any] | None:
        """What an earlier parent wrote that was killed before it could say how it ended."""
        document = read_document(self._path)
        ended = document.get("phase") in {None, STOPPED, FAILED}
        return None if ended or document.get("pid") == os.getpid() else document


class CrashLedger:
    """Crashes since the last good run; kept in a file, so that they outlive this process."""

    def __init__(self, path: Path, limit: int = 3, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._limit = limit
        self._clock = clock

    def count(self) -> int:
        count = read_document(self._path).get("count", 0)
        return max(0, count) if isinstance(count, int) else 0

    def last_cause(self) -> Cause | None:
        """Why the last run ended; None if there was no crash."""
        document = read_document(self._path)
        kept = [document.get(name) for name in ("code", "what", "fix")]
        if not self.count() or not all(isinstance(text, str) for text in kept):
            return None
        return Cause(*map(str, kept))

    def add(self, cause: Cause) -> None:
        document = {"code": cause.code, "what": cause.what, "fix": cause.fix}
        write_document(self._path, {"count": self.count() + 1, **document})

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def must_give_up(self) -> bool:
        """Whether it crashed too often to be started again.

        Said for a short while only: whoever starts it later than that does so by hand, and has
        perhaps mended something.
        """
        if self.count() < self._limit:
            return False
        document = read_document(self._path)
        since = document.get("given_up_at")
        if not isinstance(since, (int, float)):
            write_document(self._path, {**document, "given_up_at": self._clock()})
            return True
        if 0 <= self._clock() - since < SAME_GIVE_UP_S:
            return True
        self.clear()
        return False

    def back_off_s(self) -> float:
        """How long to wait before the next start, in seconds: none after the first crash, then 5,
        25, at most 60."""
        crashes = min(self.count(), 9)  # no float holds 5 ** 999
        return min(LONGEST_BACK_OFF_S, 5.0 ** (crashes - 1)) if crashes > 1 else 0.0
