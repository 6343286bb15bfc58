"""Is the engine there, and if not, what is it doing?"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

PROBE_TIMEOUT_S = 2.0
RETRY_AFTER_S = 5
RETRY_FAILED_S = 30


@dataclass(frozen=True)
class EngineStatus:
    """``message`` is for people, in the same words that ``launch status`` uses."""

    ready: bool
    phase: str
    message: str
    seconds: float | None = None

    @property
    def retry_after(self) -> int:
        """Seconds after which asking again makes sense."""
        return RETRY_FAILED_S if self.phase in {"failed", "stopped"} else RETRY_AFTER_S


class EngineProbe:
    """Asks the engine itself; what its parent wrote only explains a "no"."""

    def __init__(
        self, session: aiohttp.ClientSession, upstream: str, state_file: Path | None
    ) -> None:
        self._session = session
        self._health = f"{upstream}/health"
        self._state_file = state_file

    async def status(self) -> EngineStatus:
        """Ready if ``/health`` says so now."""
        if await self._is_healthy():
            return EngineStatus(ready=True, phase="ready", message="ready")
        return self.explanation()

    async def _is_healthy(self) -> bool:
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        try:
            async with self._session.get(self._health, timeout=timeout) as response:
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError):
            return False

    def explanation(self) -> EngineStatus:
        """Why it is not ready, as far as its parent wrote it down."""
        state = _read_state(self._state_file)
        if state is None:
            return EngineStatus(ready=False, phase="down", message="the engine is not running")
        phase = str(state.get("phase", "unknown"))
        if phase == "ready":  # its parent has not noticed yet what we just did
            return EngineStatus(ready=False, phase="down", message="the engine does not answer")
        return EngineStatus(
            ready=False,
            phase=phase,
            message=str(state.get("message", phase)),
            seconds=_age(state),
        )


def _read_state(path: Path | None) -> dict[str, Any] | None:
    """The state file, unless it is missing or was left by a parent that is gone."""
    if path is None:
        return None
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(state, dict):
        return None
    alive = Path(f"/proc/{state.get('pid')}").exists()
    return state if alive or state.get("phase") in {"failed", "stopped"} else None


def _age(state: dict[str, Any]) -> float | None:
    started = state.get("started_at")
    return max(0.0, time.time() - started) if isinstance(started, (int, float)) else None
