"""webui.chat.desk: what one tab has open, while events run side by side."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from webui.chat.conversation import Conversation, Turn
from webui.chat.desk import Desk, Wish
from webui.chat.handlers import Handlers
from webui.chat.history import History
from webui.chat.history_handlers import HistoryHandlers
from webui.chat.session import ChatSession
from webui.client.tasks import Task
from webui.guarded_page import OWNER_COOKIE

ASKED = Conversation((Turn("q", answer="a"),), "key")
DONE = Conversation((Turn("q", answer="a", done=True),), "key")


def test_an_answer_is_wanted_until_something_else_is_put_here() -> None:
    """It then changes nothing any more, not even at its end."""
    desk = Desk()
    with desk.answering(ASKED) as is_wanted:
        assert is_wanted()
        assert desk.is_answering
        assert desk.put(Conversation()) == DONE
        assert not is_wanted()
        assert not desk.is_answering
    assert desk.talk == Conversation()


def test_a_later_answer_does_not_care_for_the_end_of_an_earlier_one() -> None:
    """Which comes when gradio has cancelled it."""
    desk = Desk()
    with desk.answering(ASKED) as first:
        desk.put(Conversation())
        later = desk.answering(ASKED)
        second = later.__enter__()
    assert (first(), second(), desk.is_answering) == (False, True, True)
    assert desk.talk == ASKED
    later.__exit__(None, None, None)
    assert (desk.is_answering, desk.talk) == (False, DONE)


def test_nothing_more_comes_after_an_answer_that_was_broken_off() -> None:
    """However it ends."""
    desk = Desk()
    with pytest.raises(ZeroDivisionError), desk.answering(ASKED):
        raise ZeroDivisionError
    assert (desk.is_answering, desk.talk) == (False, DONE)


class Nobody:
    """A session that has no tasks and nothing to say."""

    model = "model"
    tasks: Mapping[str, Task] = {}


def failing(desk: Desk) -> Coroutine[Any, Any, tuple[Any, ...]]:
    """The answer's event fails while this has been typed."""
    request = cast(gr.Request, SimpleNamespace(headers={}))
    handlers = Handlers(cast(ChatSession, Nobody()), Path("unused"), None)
    return handlers.failed(request, {"text": "typed since", "files": []}, None, desk)


def waiting() -> Desk:
    """Something has been asked here."""
    desk = Desk()
    desk.wish = Wish(ASKED, Turn("next"), draft=({"text": "next", "files": []}, None, ""))
    return desk


def test_a_question_that_somebody_comes_to_answer_is_no_draft() -> None:
    """gradio calls an answer that was stopped a failure, when the next is on its way perhaps."""
    desk = waiting()

    async def fail() -> tuple[Any, ...]:
        failed = asyncio.create_task(failing(desk))
        await asyncio.sleep(0)
        assert desk.take_wish() is not None
        return await failed

    assert asyncio.run(fail()) == (gr.skip(),) * 8
    assert desk.given_back is None


def test_a_question_that_nobody_comes_to_answer_is_a_draft_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before what has been typed since."""
    monkeypatch.setattr("webui.chat.handlers.NOBODY_COMES_S", 0.1)
    desk = waiting()
    field, *_ = asyncio.run(failing(desk))
    assert field.value["text"] == "next\ntyped since"
    assert not desk.is_answering


def test_an_answer_that_broke_gives_the_field_back() -> None:
    """Its question was taken; gradio calls nothing else after an error."""
    desk = Desk()
    field, *_ = asyncio.run(failing(desk))
    assert (field.submit_btn, field.stop_btn) == (True, False)


def test_a_click_means_what_was_shown() -> None:
    """Also where the talk has been shown with a question more than lies on the desk yet."""
    desk = Desk()
    turns = tuple(Turn(f"q{number}", answer="a", done=True) for number in range(20))
    desk.put(Conversation(turns[:-1], "key"))
    desk.messages("en")
    assert (desk.hidden, desk.turn_at(0)) == (0, 0)
    desk.messages("en", Conversation(turns, "key"))
    assert (desk.hidden, desk.turn_at(0)) == (10, 10)
    desk.shows_all = True
    desk.messages("en")
    assert (desk.hidden, desk.turn_at(0)) == (0, 0)


def test_every_tab_has_its_own() -> None:
    """gradio copies the first one."""
    first = Desk()
    second = copy.deepcopy(first)
    first.put(ASKED)
    assert second.talk == Conversation()


def test_a_desk_is_untouched_until_something_is_asked_or_opened() -> None:
    """A question that has been taken and not answered yet counts."""
    desk = Desk()
    assert desk.is_untouched
    desk.wish = Wish(Conversation(), Turn("q"))
    assert not desk.is_untouched
    desk.wish = None
    desk.put(DONE)
    assert not desk.is_untouched


def test_a_turn_is_taken_out_and_not_its_twin() -> None:
    """Of two equal ones the one that was clicked goes; what is not there changes nothing."""
    turns = (Turn("q", answer="a"), Turn("other"), Turn("q", answer="a"))
    talk = Conversation(turns, "key")
    left = talk.without(turns[2])
    assert left == Conversation(turns[:2], "key")
    assert left.turns[0] is turns[0]
    assert talk.without(Turn("q", answer="a")) == talk


def test_a_question_asked_while_the_page_opens_is_not_lost() -> None:
    """The conversation that the browser had open is looked for in a thread, which may take long."""
    desk = Desk()

    class Slow:
        def load(self, _owner: str, _key: str) -> Conversation:
            desk.wish = Wish(Conversation(), Turn("q"))
            return DONE

        def entries(self, _owner: str, _words: str) -> list[object]:
            return []

    request = SimpleNamespace(cookies={OWNER_COOKIE: "me"}, headers={})
    handlers = HistoryHandlers(cast(History, Slow()))
    asyncio.run(handlers.opened(cast(gr.Request, request), "key", desk))
    assert desk.wish is not None
    assert desk.talk == Conversation()
