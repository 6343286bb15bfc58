"""The page's logic without a page: talk, pictures, what is shown of the engine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import png

from webui.chat import session as session_module
from webui.chat.conversation import Conversation, Figures, Turn, api_messages
from webui.chat.engine import Delta, EngineError
from webui.chat.options import Options
from webui.chat.session import ChatSession, Clock, Update, Visitor
from webui.chat.view import chatbot_messages, figures_line, turn_at
from webui.client.tasks import TASKS
from webui.engine_status import EngineProbe, EngineStatus
from webui.pictures import PictureError, data_url, media_type


def named(path: Path) -> str:
    """A picture as a request has it."""
    return data_url(path.read_bytes(), path.name)


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
    [message] = api_messages(Conversation((Turn("which?", tuple(paths)),)), named)
    urls = [part["image_url"]["url"] for part in message["content"][:2]]
    assert urls == [named(path) for path in paths]
    assert message["content"][2] == {"type": "text", "text": "which?"}


def test_answers_go_back_without_their_thinking(red: Path) -> None:
    """Every turn is sent again, with its pictures; reasoning is not."""
    talk = Conversation((Turn("a", (red,), "hmm", "an answer", True), Turn("b")))
    messages = api_messages(talk, named)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "an answer"
    assert "hmm" not in json.dumps(messages)


def test_a_system_prompt_stands_before_the_talk() -> None:
    """Once, however many turns there are; none where it is empty."""
    talk = Conversation((Turn("a", answer="b"), Turn("c")))
    first, *others = api_messages(talk, named, "Be brief.")
    assert first == {"role": "system", "content": "Be brief."}
    assert others == api_messages(talk, named)


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
    assert base64.b64decode(named(path).split(",")[1]) == path.read_bytes()


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


QUESTION, ENGLISH = Turn("q"), Visitor()
READY = EngineStatus(True, "ready", "ready")


def updates(
    monkeypatch: pytest.MonkeyPatch,
    deltas: list[Delta | EngineError],
    status: EngineStatus = READY,
    *,
    turn: Turn = QUESTION,
    visitor: Visitor = ENGLISH,
    seen: list[dict[str, Any]] | None = None,
) -> list[Update]:
    """What the page is told when the engine says ``deltas`` to each question."""

    async def stream(_client: Any, key: str, fields: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        if seen is not None:
            seen.append({"key": key, **fields})
        for delta in deltas:
            if isinstance(delta, EngineError):
                raise delta
            yield delta

    monkeypatch.setattr(session_module, "stream_answer", stream)
    monkeypatch.setattr(session_module, "REDRAW_S", 0)
    monkeypatch.setattr(session_module, "CHANGES_A_SECOND", 1e9)
    session = ChatSession(None, "model", FakeProbe(status), str, TASKS)  # type: ignore[arg-type]

    async def collect() -> list[Update]:
        asked = session.send(Conversation(), turn, Options(), visitor)
        return [update async for update in asked]

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
    words = "The model is not ready yet: loading the model: part 1 of 2"
    assert last == Update(Conversation(), words, unanswered=True)


def test_a_chinese_visitor_is_told_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own words, which have the details, stand behind."""
    loading = EngineStatus(False, "loading", "part 1 of 2")
    chinese = Visitor("zh")
    last = updates(monkeypatch, [EngineError("connection")], loading, visitor=chinese)[-1]
    assert last.problem == "模型尚未就绪：正在加载模型 (part 1 of 2)"
    for code, words in (("engine_restarted", "请重新提问"), ("unheard_of", "拒绝了请求：why")):
        last = updates(monkeypatch, [EngineError("why", code)], visitor=chinese)[-1]
        assert words in str(last.problem)


def test_a_picture_that_cannot_be_used_is_told_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its name, in the visitor's language."""
    (tmp_path / "notes.png").write_bytes(b"no picture")
    turn = Turn("q", (tmp_path / "notes.png",))
    for visitor, words in ((Visitor("zh"), "无法读取图片（notes.png"), (Visitor(), "notes.png is")):
        seen: list[dict[str, Any]] = []
        [update] = updates(monkeypatch, [], turn=turn, visitor=visitor, seen=seen)
        assert str(update.problem).startswith(words)
        assert (update.unanswered, seen) == (True, [])


def test_a_task_says_what_it_wants_and_asks_all_its_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A JSON task of which shape; one of three steps goes on by itself, in one conversation."""
    seen: list[dict[str, Any]] = []
    updates(monkeypatch, [Delta("", "{}")], turn=Turn("q", task="invoice"), seen=seen)
    assert seen[0]["response_format"]["json_schema"]["name"] == "invoice"
    seen.clear()
    turn = Turn("first", task="steps")
    last = updates(monkeypatch, [Delta("", "a")], turn=turn, visitor=Visitor("zh", "k"), seen=seen)
    assert [len(request["messages"]) for request in seen] == [1, 3, 5]
    assert {request["key"] for request in seen} == {"k"}
    assert "response_format" not in seen[0]
    questions = [turn.question for turn in last[-1].conversation.turns]
    assert questions[0] == "first"
    assert [words[:3] for words in questions[1:]] == ["第二步", "第三步"]


def test_a_task_stops_at_the_step_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its further questions would build on nothing."""
    seen: list[dict[str, Any]] = []
    deltas = [Delta("", "half"), EngineError("gone")]
    last = updates(monkeypatch, deltas, turn=Turn("first", task="steps"), seen=seen)[-1]
    assert (len(seen), len(last.conversation.turns)) == (1, 1)


def test_broken_answer_keeps_what_had_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived stays, with a sentence about the rest."""
    last = updates(monkeypatch, [Delta("", "half"), EngineError("It went away.")])[-1]
    [turn] = last.conversation.turns
    assert (turn.question, turn.answer, turn.done) == ("q", "half", True)
    words = "The model refused: It went away. What had come is kept."
    assert (last.problem, last.unanswered) == (words, False)


def test_what_an_answer_took_is_timed() -> None:
    """From the question on; the thought is over when the answer begins."""
    times = iter([100.0, 101.5, 102.0, 104.0, 105.0, 106.0])
    clock = Clock(lambda: next(times))
    pieces = (Delta("h"), Delta("m"), Delta("", "y"), Delta("", "es"), Delta(usage=(40, 10)))
    for delta in pieces:
        clock.note(delta)
    expected = Figures(
        first_token_s=1.5, thought_s=2.5, total_s=6.0, prompt_tokens=40, completion_tokens=10
    )
    assert clock.figures == expected
    assert clock.figures.tokens_per_s == 2.0
    assert figures_line(expected, "en") == "1.50 s to the first token · 2 tokens/s · 40 + 10 tokens"
    assert figures_line(expected, "zh") == "首个 token 1.50 秒 · 2 token/秒 · 40 + 10 个 token"
    assert figures_line(Figures(), "en") == ""


def test_an_answer_without_a_thought_has_none() -> None:
    """And nothing of what is not known is shown."""
    times = iter([0.0, 1.0])
    clock = Clock(lambda: next(times))
    clock.note(Delta("", "yes"))
    assert (clock.figures.thought_s, clock.figures.tokens_per_s) == (0.0, None)
    assert figures_line(clock.figures, "en") == "1.00 s to the first token"


def test_every_message_belongs_to_its_turn() -> None:
    """Also where a turn has pictures, a thought and figures."""
    figures = Figures(first_token_s=1.0)
    turns = [
        Turn("a", (Path("x"), Path("y")), "r", "b", True, figures=figures),
        Turn("", (Path("z"),)),
    ]
    shown = chatbot_messages(turns)
    assert [turn_at(turns, n) for n in range(-1, len(shown) + 1)] == [None, *[0] * 6, 1, 1, None]
    assert shown[2]["content"] == "a"
    assert shown[5]["metadata"]["title"] == "1.00 s to the first token"


def test_banner_cannot_carry_markup() -> None:
    """Words from a log are shown as words."""
    status = EngineStatus(False, "failed", "<img src=x onerror=alert(1)>")
    session = ChatSession(None, "<b>", FakeProbe(status), str, TASKS)  # type: ignore[arg-type]
    assert "<img" not in asyncio.run(session.banner())
