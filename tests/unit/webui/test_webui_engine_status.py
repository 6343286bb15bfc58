"""What is said of an engine, from its own answers and from what its parent wrote."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from webui.engine_status import PHASES, Cause, EngineProbe, EngineStatus
from webui.gateway.engine_client import EngineClient

GONE = 2**22 + 1
"""No process has this number."""
CAUSE = {"code": "out_of_memory", "message": "out of GPU memory", "fix": "lower max-model-len"}


def written(path: Path, **more: Any) -> Path:
    """A state file of a parent that lives: this process."""
    state = {"phase": "loading", "message": "loading the model", "pid": os.getpid()}
    path.write_text(json.dumps(state | more))
    return path


def explained(path: Path) -> EngineStatus:
    return EngineProbe(None, "one", path).explanation()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "phase", "message"),
    [
        ({"started_at": 0}, "loading", "loading the model"),
        ({"phase": "ready"}, "down", "the engine does not answer"),
        ({"pid": GONE}, "down", "the engine is not running"),
        ({"pid": GONE, "phase": "stalled"}, "down", "the engine is not running"),
        ({"pid": GONE, "phase": "failed", "message": "no disk"}, "failed", "no disk"),
        ({"phase": "waiting", "message": "for memory"}, "waiting", "for memory"),
    ],
)
def test_explanation_believes_only_the_living(
    tmp_path: Path, state: dict[str, Any], phase: str, message: str
) -> None:
    """A state file whose writer was killed explains nothing; a last word does."""
    status = explained(written(tmp_path / "engine.json", **state))
    assert (status.ready, status.phase, status.message) == (False, phase, message)


def test_explanation_knows_how_long_it_has_been(tmp_path: Path) -> None:
    """Seconds count from the start of the engine."""
    seconds = explained(written(tmp_path / "engine.json", started_at=time.time() - 100)).seconds
    assert seconds is not None
    assert 100 <= seconds < 160


def test_explanation_tells_shards_and_the_last_cause(tmp_path: Path) -> None:
    """A start that follows a crash says both: how far it is, and why there is another one."""
    path = written(tmp_path / "engine.json", shards={"done": 1, "total": 4}, cause=CAUSE)
    status = explained(path)
    assert status.shards == (1, 4)
    assert status.cause == Cause(**CAUSE)
    document = status.document()
    assert document["shards"] == {"done": 1, "total": 4}
    assert document["cause"] == CAUSE


def test_evidence_is_for_this_machine_only(tmp_path: Path) -> None:
    """It may hold paths and lines of the log."""
    path = written(tmp_path / "engine.json", evidence="/secret", phase="failed", cause=CAUSE)
    assert "/secret" not in str(explained(path))


@pytest.mark.parametrize("content", [None, "", "[1]", "{", "\ufeff{}", "[" * 60_000])
def test_unreadable_state_is_no_state(tmp_path: Path, content: str | None) -> None:
    """A missing or torn file means that nothing is known."""
    path = tmp_path / "engine.json"
    if content is not None:
        path.write_text(content)
    assert explained(path).message == "the engine is not running"


@pytest.mark.parametrize(
    "more",
    [
        {"pid": "self"},
        {"pid": True},
        {"pid": -1},
        {"pid": 10**4000},
        {"pid": [1]},
        {"phase": 7, "pid": None},
    ],
)
def test_a_number_that_is_no_process_does_not_live(tmp_path: Path, more: dict[str, Any]) -> None:
    """Whatever stands there, it is not looked up as a path."""
    assert explained(written(tmp_path / "engine.json", **more)).phase == "down"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"phase": 7}, ("unknown", "loading the model", None, None, None)),
        ({"phase": "dancing"}, ("unknown", "loading the model", None, None, None)),
        ({"message": None}, ("loading", "loading", None, None, None)),
        ({"message": "a\ud800b"}, ("loading", "a?b", None, None, None)),
        ({"started_at": float("nan")}, ("loading", "loading the model", None, None, None)),
        ({"started_at": -(10**400)}, ("loading", "loading the model", None, None, None)),
        ({"shards": {"done": 5, "total": 4}}, ("loading", "loading the model", None, None, None)),
        ({"shards": [1, 4]}, ("loading", "loading the model", None, None, None)),
        ({"cause": {"code": "port"}}, ("loading", "loading the model", None, None, None)),
        (
            {"cause": {"code": 1, "message": "m", "fix": None}},
            ("loading", "loading the model", None, None, Cause("unknown", "m", "")),
        ),
    ],
)
def test_wrong_fields_are_left_out(tmp_path: Path, more: dict[str, Any], expected: Any) -> None:
    """And the others are believed."""
    status = explained(written(tmp_path / "engine.json", **more))
    told = (status.phase, status.message, status.seconds, status.shards, status.cause)
    assert told == expected


Answer = Callable[[web.Request], Awaitable[web.Response]]


def models(*names: str) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in names]})

    return answer


async def well(_request: web.Request) -> web.Response:
    return web.Response()


async def broken(_request: web.Request) -> web.Response:
    return web.json_response({"data": None})


async def unwell(_request: web.Request) -> web.Response:
    return web.Response(status=500)


async def silent(_request: web.Request) -> web.Response:
    await asyncio.sleep(3600)
    raise AssertionError


@asynccontextmanager
async def probe_of(
    health: Answer, listing: Answer, state: Path | None
) -> AsyncIterator[EngineProbe]:
    """Over an engine that answers like this."""
    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/v1/models", listing)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    engine = EngineClient(f"http://127.0.0.1:{port}", connect_s=1, silence_s=60)
    yield EngineProbe(engine, "one", state)
    engine.close()
    await runner.cleanup()


def status_of(health: Answer, listing: Answer, state: Path | None = None) -> EngineStatus:
    async def run() -> EngineStatus:
        async with probe_of(health, listing, state) as probe:
            return await probe.status()

    return asyncio.run(run())


def startup_of(health: Answer, state: Path | None = None) -> EngineStatus:
    async def run() -> EngineStatus:
        async with probe_of(health, models("one"), state) as probe:
            return await probe.startup()

    return asyncio.run(run())


def test_an_engine_that_serves_the_model_is_ready() -> None:
    """Without a file of its parent too."""
    assert status_of(well, models("zero", "one")).ready


def test_an_engine_with_another_model_is_not_ready() -> None:
    """And is told apart from one that is not there."""
    status = status_of(well, models("two", "three"))
    assert (status.ready, status.phase) == (False, "other model")
    assert status.message == "the engine serves two, three and not one"


@pytest.mark.parametrize(
    ("health", "listing"), [(unwell, models("one")), (well, unwell), (well, broken)]
)
def test_half_an_engine_is_not_ready(health: Answer, listing: Answer) -> None:
    """Each of the two must answer, and in its own form."""
    status = status_of(health, listing)
    assert (status.ready, status.phase) == (False, "down")


def test_a_silent_engine_is_noticed_within_three_seconds() -> None:
    """Both questions are asked at the same time."""
    began = time.monotonic()
    assert not status_of(silent, silent).ready
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("phase", sorted(PHASES))
def test_the_parent_overrules_an_engine_that_says_it_is_well(tmp_path: Path, phase: str) -> None:
    """It alone sees that nothing moves, or that the engine is about to go; all else it may only
    not have noticed yet."""
    path = written(tmp_path / "engine.json", phase=phase, message="no token for 31 s")
    status = status_of(well, models("one"), path)
    assert status.ready == (phase not in {"stalled", "stopping"})
    assert status.message == ("ready" if status.ready else "no token for 31 s")


@pytest.mark.parametrize("phase", sorted(PHASES))
def test_startup_asks_only_whether_it_has_begun(tmp_path: Path, phase: str) -> None:
    """A stalled engine has started; one that only loads has not, and says how far it is."""
    path = written(tmp_path / "engine.json", phase=phase, message="in its own words")
    status = startup_of(unwell, path)
    assert status.ready == (phase in {"ready", "stalled"})
    assert (status.phase, status.message) == (phase, "in its own words")


def test_startup_believes_the_engine_before_its_parent(tmp_path: Path) -> None:
    """Who answers has started; nobody else's word is needed for it."""
    path = written(tmp_path / "engine.json", cause=CAUSE, started_at=time.time() - 5)
    status = startup_of(well, path)
    assert (status.ready, status.phase, status.cause) == (True, "ready", None)
    assert status.seconds is not None
    assert startup_of(well).ready
    nothing = startup_of(unwell)
    assert (nothing.ready, nothing.phase) == (False, "down")


def test_a_process_that_stops_is_not_ready_whatever_the_engine(tmp_path: Path) -> None:
    """Its own end comes before all that is known of the engine."""

    async def run() -> EngineStatus:
        path = written(tmp_path / "engine.json", phase="stalled")
        async with probe_of(well, models("one"), path) as probe:
            probe.closing = True
            return await probe.status()

    status = asyncio.run(run())
    assert (status.ready, status.phase) == (False, "stopping")
    assert status.message == "the service is being stopped or restarted"


@pytest.mark.parametrize(
    ("phase", "unfit"),
    [("stalled", True), ("stopping", True), ("ready", False), ("loading", False)],
)
def test_engine_that_hangs_or_stops_is_asked_nothing(
    phase: str, unfit: bool, tmp_path: Path
) -> None:
    """It would take requests, and keep or abort them. What it was a second ago is good enough."""
    path = written(tmp_path / "engine.json", phase=phase)
    probe = EngineProbe(None, "one", path)  # type: ignore[arg-type]
    assert (probe.unfit() is not None) is unfit
    written(path, phase="ready" if unfit else "stalled")
    assert (probe.unfit() is not None) is unfit
