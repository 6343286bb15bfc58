"""The page's logic without a page: talk, pictures, what is shown of the engine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import png

from webui.chat import session as session_module
from webui.chat.conversation import Conversation, Turn, api_messages, chatbot_messages
from webui.chat.engine import Delta, EngineError
from webui.chat.session import ChatSession, Update, finished
from webui.engine_status import EngineProbe, EngineStatus
from webui.pictures import PictureError, data_url, media_type


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(png(64, 48, "red"))
    return path


def test_pictures_stand_before_the_words_in_their_order(tmp_path: Path) -> None:
    """The first picture that was attached is the first that the model sees."""
    paths = []
    for colour in ("red", "blue"):
        path = tmp_path / f"{colour}.png"
        path.write_bytes(png(8, 8, colour))
        paths.append(path)
    [message] = api_messages(Conversation((Turn("which?", tuple(paths)),)))
    urls = [part["image_url"]["url"] for part in message["content"][:2]]
    assert urls == [data_url(path) for path in paths]
    assert message["content"][2] == {"type": "text", "text": "which?"}


def test_answers_go_back_without_their_thinking(red: Path) -> None:
    """Every turn is sent again, with its pictures; reasoning is not."""
    talk = Conversation((Turn("a", (red,), "hmm", "an answer", True), Turn("b")))
    roles = [message["role"] for message in api_messages(talk)]
    assert roles == ["user", "assistant", "user"]
    assert api_messages(talk)[1]["content"] == "an answer"
    assert "hmm" not in json.dumps(api_messages(talk))


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn("q"), [("user", "q"), ("assistant", "…")]),
        (Turn("q", reasoning="r"), [("user", "q"), ("pending", "r"), ("assistant", "…")]),
        (Turn("q", (), "r", "a"), [("user", "q"), ("done", "r"), ("assistant", "a")]),
        (Turn("q", (), "r", "", True), [("user", "q"), ("done", "r")]),
    ],
)
def test_thinking_is_a_fold_that_closes_with_the_answer(
    turn: Turn, expected: list[tuple[str, str]]
) -> None:
    """The fold is open while there is only thought."""
    shown = [
        (message.get("metadata", {}).get("status", message["role"]), message["content"])
        for message in chatbot_messages([turn])
    ]
    assert shown == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_kinds_are_told_by_content(tmp_path: Path, kind: str) -> None:
    """A wrong name does not matter, and the bytes are sent as they are."""
    path = tmp_path / "picture.txt"
    Image.new("RGB", (40, 30), "green").save(path, kind)
    assert media_type(path) == f"image/{kind.lower()}"
    assert base64.b64decode(data_url(path).split(",")[1]) == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"just text", "is not a picture"),
        (png(16, 16, "red")[:30], "is not a picture"),
        (png(16000, 2, "red"), "too large"),
        (png(2, 16000, "red"), "too large"),
    ],
)
def test_unusable_pictures_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    """What cannot be read, or would be padded to a giant, is refused by its header."""
    path = tmp_path / "holiday.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=f"^holiday.png .*{words}"):
        media_type(path)


def test_unsupported_kind_says_what_is_supported(tmp_path: Path) -> None:
    """A TIFF is a picture, but not one that the engine gets."""
    path = tmp_path / "scan.tiff"
    Image.new("RGB", (40, 30)).save(path)
    with pytest.raises(PictureError, match="TIFF file; use one of AVIF, BMP, GIF, JPEG, PNG, WEBP"):
        media_type(path)


class FakeProbe(EngineProbe):
    def __init__(self, status: EngineStatus) -> None:
        self._status = status

    async def status(self) -> EngineStatus:
        return self._status


READY = EngineStatus(True, "ready", "ready")


def updates(
    monkeypatch: pytest.MonkeyPatch, deltas: list[Delta | EngineError], status: EngineStatus = READY
) -> list[Update]:
    """What the page is told when the engine says ``deltas``."""

    async def stream(*_: Any) -> AsyncIterator[Delta]:
        for delta in deltas:
            if isinstance(delta, EngineError):
                raise delta
            yield delta

    monkeypatch.setattr(session_module, "stream_answer", stream)
    monkeypatch.setattr(session_module, "REDRAW_S", 0)
    session = ChatSession(None, "model", FakeProbe(status))  # type: ignore[arg-type]

    async def collect() -> list[Update]:
        return [update async for update in session.send(Conversation(), " q ", [])]

    return asyncio.run(collect())


def test_answer_grows_and_is_done_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece shows; only the last update is final."""
    seen = updates(monkeypatch, [Delta("h", ""), Delta("m", ""), Delta("", "yes")])
    turns = [update.conversation.turns[-1] for update in seen]
    assert [(t.question, t.reasoning, t.answer, t.done) for t in turns] == [
        ("q", "", "", False),
        ("q", "h", "", False),
        ("q", "hm", "", False),
        ("q", "hm", "yes", False),
        ("q", "hm", "yes", True),
    ]


def test_engine_that_is_not_there_gives_the_draft_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn remains of a question that nobody answered, and the reason is the engine's state."""
    loading = EngineStatus(False, "loading", "loading the model: part 1 of 2")
    last = updates(monkeypatch, [EngineError("connection")], loading)[-1]
    assert last == Update(
        Conversation(), "The model is not ready: loading the model: part 1 of 2.", unanswered=True
    )


def test_broken_answer_keeps_what_had_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived stays, with a sentence about the rest."""
    last = updates(monkeypatch, [Delta("", "half"), EngineError("It went away.")])[-1]
    assert last.conversation == finished(Conversation((Turn("q", answer="half"),)))
    assert (last.problem, last.unanswered) == ("It went away. What had come is kept.", False)


def test_banner_cannot_carry_markup() -> None:
    """Words from a log are shown as words."""
    status = EngineStatus(False, "failed", "<img src=x onerror=alert(1)>")
    session = ChatSession(None, "<b>", FakeProbe(status))  # type: ignore[arg-type]
    assert "<img" not in asyncio.run(session.banner())
