"""Tokens for the thought and for the answer, from whatever a request says of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webui.gateway.errors import ApiError
from webui.gateway.thinking import EFFORTS, Allowance, Thinking, put_in

THINKING = Thinking("auto", {"low": 10, "auto": 40, "high": 100})


@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        ({}, 40),
        ({"thinking": "off"}, 0),
        ({"thinking": "low"}, 10),
        ({"thinking": "high"}, 100),
        ({"thinking": "auto"}, 40),
        ({"thinking": {"type": "disabled"}}, 0),
        ({"thinking": {"type": "enabled"}}, 40),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, 7),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "minimal"}, 0),
        ({"reasoning_effort": "low"}, 10),
        ({"reasoning_effort": "medium"}, 40),
        ({"reasoning_effort": "high"}, 100),
        ({"reasoning_effort": None}, 40),
        ({"model": "x:fast"}, 0),
        ({"model": "x:deep"}, 100),
        ({"thinking_token_budget": 3}, 3),
        # The most exact one wins.
        ({"model": "x:deep", "reasoning_effort": "low"}, 10),
        ({"reasoning_effort": "low", "thinking": "off"}, 0),
        ({"thinking": "high", "thinking_token_budget": 3}, 3),
    ],
)
def test_every_way_to_say_it(document: dict[str, Any], tokens: int) -> None:
    """The request's own words for it are taken out; the engine would not know them."""
    assert THINKING.taken_from(document) == Allowance(tokens, None)
    assert not document.keys() & {"thinking", "reasoning_effort"}
    assert document.get("model", "x") == "x"


@pytest.mark.parametrize(
    "document",
    [
        {"thinking": "much"},
        {"thinking": ["off"]},
        {"thinking": True},
        {"thinking": {"type": "other"}},
        {"thinking": {"type": "enabled", "budget_tokens": -1}},
        {"reasoning_effort": "hard"},
        {"reasoning_effort": ["low"]},
        {"thinking_token_budget": -1},
        {"thinking_token_budget": "5"},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"max_completion_tokens": 1.5},
    ],
)
def test_anything_else_is_refused_by_name(document: dict[str, Any]) -> None:
    """The error names the field, and what could be there."""
    [name] = document
    with pytest.raises(ApiError) as caught:
        THINKING.taken_from(document)
    assert (caught.value.status, caught.value.code) == (400, "invalid_parameter")
    assert (caught.value.param or "").startswith(name)


def test_openai_knows_no_other_efforts() -> None:
    """Every value that the installed client can send has a meaning."""
    from typing import get_args

    from openai.types.shared import ReasoningEffort

    assert set(get_args(get_args(ReasoningEffort)[0])) <= set(EFFORTS)


def test_max_tokens_counts_the_answer() -> None:
    """The engine's limit is that, the budget, and the token between the two."""
    document = {"max_tokens": 200, "max_completion_tokens": 300}
    put_in(document, THINKING.taken_from(document))
    assert document == {"thinking_token_budget": 40, "max_tokens": 341}


@given(
    thinking=st.integers(0, 50_000),
    answer=st.none() | st.integers(1, 50_000),
    room=st.integers(0, 70_000),
)
def test_a_thought_leaves_the_answer_its_part(thinking: int, answer: int | None, room: int) -> None:
    """It never grows, and where it must shrink the answer loses nothing to it."""
    allowance = Allowance(thinking, answer)
    within = allowance.within(room)
    assert 0 <= within.thinking <= thinking
    assert within.answer == answer
    if room >= allowance.wanted:
        assert within == allowance
    if within.thinking:
        assert room - within.thinking > min(answer or 1024, room // 2)
