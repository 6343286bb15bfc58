"""Is the engine there, and if not, what is it doing?"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeGuard

from webui.gateway.engine_client import EngineClient, EngineGoneError, EngineRefusedError
from webui.settings import Settings

CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 2.0
LOOK_AGAIN_S = 1.0
RETRY_AFTER_S = 5
RETRY_FAILED_S = 30

MAX_STATE_BYTES = 65_536
MAX_TEXT = 500
# After that, in seconds since 1970, nothing was started.
END_OF_TIME = 1e11

PHASES: Final = frozenset(
    {
        "waiting",
        "starting",
        "loading",
        "warming up",
        "opening the port",
        "ready",
        "stalled",
        "stopping",
        "stopped",
        "failed",
    }
)
# The last words of a parent that has ended.
LAST: Final = frozenset({"stopped", "failed"})
# In which an engine that has started is.
STARTED: Final = frozenset({"ready", "stalled"})
# In which its parent knows better than an engine that says it is well.
UNFIT: Final = frozenset({"stalled", "stopping"})


@dataclass(frozen=True)
class Cause:
    """Why the engine failed, or why the run before this one ended."""

    code: str
    message: str
    fix: str


@dataclass(frozen=True)
class EngineStatus:
    """``message`` is for people, in the same words that ``launch status`` uses."""

    ready: bool
    """Or only started, where that was the question."""
    phase: str
    message: str
    seconds: float | None = None
    """Since its start."""
    shards: tuple[int, int] | None = None
    """Of its weights: those that are loaded, and all."""
    cause: Cause | None = None

    @property
    def retry_after(self) -> int:
        """Seconds after which asking again makes sense."""
        return RETRY_FAILED_S if self.phase in LAST else RETRY_AFTER_S

    def document(self) -> dict[str, Any]:
        """For programs; what is not known is left out."""
        known: dict[str, Any] = {"status": self.phase, "message": self.message}
        if self.seconds is not None:
            known["seconds"] = round(self.seconds, 1)
        if self.shards is not None:
            known["shards"] = {"done": self.shards[0], "total": self.shards[1]}
        if self.cause is not None:
            known["cause"] = asdict(self.cause)
        return known


READY = EngineStatus(ready=True, phase="ready", message="ready")
DOWN = EngineStatus(ready=False, phase="down", message="the engine is not running")
SILENT = EngineStatus(ready=False, phase="down", message="the engine does not answer")
CLOSING = EngineStatus(
    ready=False, phase="stopping", message="the service is being stopped or restarted"
)


def engine_client(settings: Settings) -> EngineClient:
    """Of the engine that the settings name."""
    return EngineClient(
        settings.upstream,
        connect_s=CONNECT_TIMEOUT_S,
        silence_s=settings.upstream_idle_s,
        authorization=authorization(settings),
    )


def authorization(settings: Settings) -> str:
    """The header that engines on other machines want; empty where there are none."""
    if settings.engine_key_file is None:
        return ""
    return f"Bearer {settings.engine_key_file.read_text().strip()}"


class EngineProbe:
    """Asks the engine itself; what its parent wrote explains a "no", or overrules a "yes".

    Args:
        model: that the engine must serve.
        state_file: what the parent writes; None where there is none.
    """

    def __init__(self, engine: EngineClient, model: str, state_file: Path | None) -> None:
        self._engine = engine
        self._model = model
        self._state_file = state_file
        self._looked_at = float("-inf")
        self._unfit: EngineStatus | None = None
        self.closing = False
        """Whether this process takes no more requests, however well the engine is."""

    async def status(self) -> EngineStatus:
        """Whether a request would be answered now; known within ``PROBE_TIMEOUT_S``."""
        explained = self.explanation()
        if explained.phase in UNFIT:
            return explained
        healthy, names = await asyncio.gather(self._is_healthy(), self._names())
        if not healthy:
            return self.explanation()
        if names is None:  # a router without an engine is well
            return self.explanation()
        if self._model not in names:
            served = ", ".join(names)[:MAX_TEXT] or "nothing"
            message = f"the engine serves {served} and not {self._model}"
            return EngineStatus(ready=False, phase="other model", message=message)
        return READY

    async def startup(self) -> EngineStatus:
        """Whether the engine has started, however well it is since then."""
        state = _read_state(self._state_file)
        if state is not None and state.phase in STARTED:
            return replace(state, ready=True)
        if await self._is_healthy():
            return replace(READY, seconds=state.seconds if state else None)
        return state or DOWN

    def explanation(self) -> EngineStatus:
        """Why it is not ready, as far as its parent wrote it down."""
        if self.closing:
            return CLOSING
        state = _read_state(self._state_file)
        if state is not None and state.phase == "ready":
            return SILENT  # its parent has not noticed yet what we just did
        return state or DOWN

    def unfit(self) -> EngineStatus | None:
        """Why an engine that takes requests should get none: it hangs, or is being stopped. As its
        parent wrote it, at most a second ago."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._looked_at = now
            state = _read_state(self._state_file)
            self._unfit = state if state is not None and state.phase in UNFIT else None
        return self._unfit

    async def _is_healthy(self) -> bool:
        return await self._get("/health") is not None

    async def _names(self) -> list[str] | None:
        """Of the models that the engine serves; None if it does not say."""
        body = await self._get("/v1/models")
        try:
            listing = json.loads(body or b"")
            return [str(model["id"]) for model in listing["data"]]
        except (ValueError, LookupError, TypeError):
            return None

    async def _get(self, path: str) -> bytes | None:
        """What is there; None if that is no answer, or an error."""
        try:
            async with (
                asyncio.timeout(PROBE_TIMEOUT_S),
                await self._engine.request("GET", path) as answer,
            ):
                return await answer.read() if answer.status == 200 else None
        except (TimeoutError, EngineRefusedError, EngineGoneError):
            return None


def _read_state(path: Path | None) -> EngineStatus | None:
    """What the engine's parent wrote, unless it is gone without a last word.

    Of the file, nothing is taken for granted: another version may have written it.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            state = json.loads(file.read(MAX_STATE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(state, dict):
        return None
    phase = state.get("phase")
    if not isinstance(phase, str) or phase not in PHASES:
        phase = "unknown"
    if phase not in LAST and not _is_alive(state.get("pid")):
        return None
    return EngineStatus(
        ready=False,
        phase=phase,
        message=_text(state.get("message")) or phase,
        seconds=_age(state.get("started_at")),
        shards=_shards(state.get("shards")),
        cause=_cause(state.get("cause")),
    )


def _is_alive(pid: Any) -> bool:
    return _is_count(pid) and Path(f"/proc/{pid}").exists()


def _age(started: Any) -> float | None:
    """In seconds, of something that started at that time."""
    if not isinstance(started, (int, float)) or not 0 <= started < END_OF_TIME:
        return None
    return max(0.0, time.time() - started)


def _shards(given: Any) -> tuple[int, int] | None:
    if not isinstance(given, dict):
        return None
    done, total = given.get("done"), given.get("total")
    return (done, total) if _is_count(done) and _is_count(total) and done <= total else None


def _cause(given: Any) -> Cause | None:
    if not isinstance(given, dict) or not (message := _text(given.get("message"))):
        return None
    return Cause(_text(given.get("code")) or "unknown", message, _text(given.get("fix")))


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**31


def _text(value: Any) -> str:
    """Of a bounded length, and without the halves of characters that no encoding can carry."""
    return value[:MAX_TEXT].encode(errors="replace").decode() if isinstance(value, str) else ""
