"""What ``/readyz`` and ``/startupz`` answer, whatever the engine and its parent are up to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from deployments import Engine, answers
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from support import wait_for

from webui.engine_status import EngineProbe
from webui.gateway.engine_client import EngineClient
from webui.health import Health

REQUEST = Request({"type": "http"})
NOBODY = "http://127.0.0.1:9"


def asked(
    question: str, state: Path | None = None, engine: str = NOBODY, model: str = "one"
) -> tuple[JSONResponse, dict[str, Any]]:
    """The answer to ``live``, ``ready`` or ``started``, and its document."""

    async def run() -> JSONResponse:
        with closing(EngineClient(engine, connect_s=1, silence_s=60)) as client:
            health = Health(EngineProbe(client, model, state))
            answer: JSONResponse = await getattr(health, question)(REQUEST)
            return answer

    answer = asyncio.run(run())
    return answer, json.loads(bytes(answer.body))


def written(path: Path, **state: Any) -> Path:
    path.write_text(json.dumps({"pid": os.getpid(), **state}))
    return path


@pytest.fixture
def engine(engine_process: Engine) -> Engine:
    """The stand-in, and it listens."""
    wait_for(lambda: answers(f"{engine_process.url}/health"), 30, "the engine listens")
    return engine_process


def test_ready(engine: Engine, tmp_path: Path) -> None:
    """With the engine's own word, and its parent's."""
    answer, document = asked("ready", written(tmp_path / "s", phase="ready"), engine.url)
    assert (answer.status_code, document["status"]) == (200, "ready")


def test_not_ready_says_why_and_when_to_come_again(tmp_path: Path) -> None:
    """In the words of the engine's parent, with the cause and its mending."""
    cause = {"code": "disk", "message": "the disk is full", "fix": "free 3 GB"}
    path = written(
        tmp_path / "state", phase="failed", message="it failed", cause=cause, evidence="/secret"
    )
    answer, document = asked("ready", path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert document == {"status": "failed", "message": "it failed", "cause": cause}
    assert asked("started", path)[1] == document


def test_nobody_there_is_down() -> None:
    """Without an engine and without a file."""
    for question in ("ready", "started"):
        answer, document = asked(question)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert document == {"status": "down", "message": "the engine is not running"}
    assert asked("live")[0].status_code == 200


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        ("waiting", 503),
        ("starting", 503),
        ("loading", 503),
        ("warming up", 503),
        ("opening the port", 503),
        ("ready", 200),
        ("stalled", 200),
        ("stopping", 503),
        ("stopped", 503),
        ("failed", 503),
    ],
)
def test_startup_in_each_phase(tmp_path: Path, phase: str, status: int) -> None:
    """What the parent wrote, and how far it is."""
    path = written(
        tmp_path / "state",
        phase=phase,
        message="words",
        started_at=time.time() - 10,
        shards={"done": 1, "total": 2},
    )
    answer, document = asked("started", path)
    assert answer.status_code == status
    assert (status == 503) == ("retry-after" in answer.headers)
    assert (document["status"], document["message"]) == (phase, "words")
    assert 10 <= document["seconds"] < 60
    assert document["shards"] == {"done": 1, "total": 2}


def test_an_engine_without_the_model_is_not_ready(engine: Engine) -> None:
    """It answers, and every request would be refused."""
    answer, document = asked("ready", engine=engine.url, model="three")
    assert answer.status_code == 503
    assert document["message"] == "the engine serves one, two and not three"


def test_a_frozen_engine_is_told_in_time(engine: Engine, tmp_path: Path) -> None:
    """Its sockets still take connections; its parent's word is given where there is one."""
    believed = written(tmp_path / "believed", phase="ready")
    path = written(tmp_path / "state", phase="stalled", message="no token for 31 s")
    engine.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer, document = asked("ready", believed, engine.url)
        assert time.monotonic() - began < 3
        assert answer.status_code == 503
        assert document == {"status": "down", "message": "the engine does not answer"}
        assert asked("ready", path, engine.url)[1] == {
            "status": "stalled",
            "message": "no token for 31 s",
        }
    finally:
        engine.process.send_signal(signal.SIGCONT)
    assert asked("ready", engine=engine.url)[0].status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = ("phase", "message", "started_at", "changed_at", "pid", "shards", "cause")
PHASE = st.sampled_from(["failed", "stopped", "ready", "loading"])
HALF_SANE = st.fixed_dictionaries(
    {"evidence": st.just("/secret")},
    optional={
        **dict.fromkeys(FIELDS, JSON),
        "phase": PHASE | JSON,
        "pid": st.just(os.getpid()) | JSON,
        "cause": st.dictionaries(st.sampled_from(["code", "message", "fix"]), JSON),
        "shards": st.dictionaries(st.sampled_from(["done", "total"]), JSON),
    },
)


@settings(deadline=None, max_examples=100)
@given(HALF_SANE.map(lambda state: json.dumps(state).encode()) | st.binary())
def test_no_state_file_breaks_an_answer(content: bytes) -> None:
    """Whatever stands in it, there is a status, a message, and nothing of the evidence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.json"
        path.write_bytes(content)
        for question in ("ready", "started"):
            answer, document = asked(question, path)
            assert answer.status_code in {200, 503}
            assert isinstance(document["status"], str)
            assert document["message"]
            assert "/secret" not in bytes(answer.body).decode()
