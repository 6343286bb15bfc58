"""webui.chat.desk: what one tab has open, while events run side by side."""

from __future__ import annotations

import copy

import pytest

from webui.chat.conversation import Conversation, Turn
from webui.chat.desk import Desk

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


def test_every_tab_has_its_own() -> None:
    """gradio copies the first one."""
    first = Desk()
    second = copy.deepcopy(first)
    first.put(ASKED)
    assert second.talk == Conversation()
