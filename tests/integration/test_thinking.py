"""A model that always thinks, and clients that set a small limit: the answer gets it all."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from deployments import Webui
from integration.test_gateway import HELLO, ask, request
from integration.test_image_names import fresh
from support import wait_for

GIVEN = "1 messages, 0 images, last: hello."


def outcomes(webui: Webui) -> list[str]:
    """How the engine's requests ended."""
    return [seen["outcome"] for seen in webui.engine.seen()]


def last_body(webui: Webui) -> dict[str, Any]:
    """The engine's last chat request."""
    return [seen for seen in webui.engine.seen() if "chat" in seen["path"]][-1]["body"]


def streamed(webui: Webui, **more: Any) -> tuple[str, str, list[str]]:
    """Thought, answer and the reasons of the ends, of a stream."""
    thought, answer, reasons = "", "", []
    for chunk in ask(webui, stream=True, **more):
        for choice in chunk.choices:
            assert getattr(choice.delta, "reasoning_content", None) == getattr(
                choice.delta, "reasoning", None
            )
            assert not hasattr(choice, "token_ids")
            thought += getattr(choice.delta, "reasoning", None) or ""
            answer += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return thought, answer, reasons


def test_the_answer_has_both_names_of_a_thought(webui: Webui) -> None:
    """The engine's and the one that most clients still read."""
    message = ask(webui).choices[0].message
    assert message.reasoning == message.reasoning_content == "Hmm."


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_long_thought_leaves_the_answer_its_tokens(webui: Webui, field: str) -> None:
    """Three words were asked for, three come, however long the model thought before."""
    webui.engine.script(thought=300, words=50)
    choice = ask(webui, **{field: 3}).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("1 messages, 0", "length")
    thought, answer, reasons = streamed(webui, **{field: 10})
    assert (len(thought.split()), answer, reasons) == (
        300,
        f"{GIVEN} 1 2 3 4 5 6 7 8 9",
        ["length"],
    )


def test_an_answer_that_fits_ends_by_itself(webui: Webui) -> None:
    """Exactly as many tokens as allowed is not too many."""
    webui.engine.script(thought=5, words=8)
    assert streamed(webui, max_tokens=8)[1:] == (f"{GIVEN} 1 2 3 4 5 6 7", ["stop"])
    assert streamed(webui, max_tokens=7)[1:] == (f"{GIVEN} 1 2 3 4 5 6", ["length"])


def test_a_cut_stream_stops_the_engine_and_tells_what_was_used(webui: Webui) -> None:
    """The engine's limit would let it go on for the rest of the thought's tokens."""
    webui.engine.script(thought=2, words=2000, delay_s=0.001)
    *_, last = ask(webui, stream=True, max_tokens=4, stream_options={"include_usage": True})
    assert last.usage.completion_tokens == 2 + 1 + 4 + 1
    wait_for(lambda: outcomes(webui) == ["aborted"], 5, "the engine was stopped")


@pytest.mark.parametrize(
    ("more", "budget"),
    [
        ({"reasoning_effort": "low"}, 512),
        ({"extra_body": {"thinking": "off"}}, 0),
        ({"model": "one:fast"}, 0),
        ({"model": "one:deep", "max_tokens": 100}, 8192 - 400 - 100 - 1),
    ],
)
def test_modes_become_budgets(webui: Webui, more: dict[str, Any], budget: int) -> None:
    """The largest is bounded by the context of 8,192 tokens."""
    more = {"model": "one", "messages": HELLO, **more}
    with openai.OpenAI(base_url=f"{webui.url}/v1", api_key="none") as api:
        api.chat.completions.create(**more)
    seen = last_body(webui)
    assert seen["model"] == "one"
    # The rough count of the text has to be taken off too, or its exact count.
    assert budget - 200 <= seen["thinking_token_budget"] <= budget + 400


def test_a_full_context_leaves_room_for_the_answer(webui: Webui) -> None:
    """The text is counted exactly where it may be too long; thinking gets what is left over."""
    long = [{"role": "user", "content": "word " * 7000}]
    body = json.dumps({"model": "one", "messages": long, "max_tokens": 1000}).encode()
    assert request(webui, "POST", "/v1/chat/completions", body)[0] == 200
    assert last_body(webui)["thinking_token_budget"] == 8192 - 7000 - 1000 - 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_without_an_answer_is_asked_again(webui: Webui, stream: bool) -> None:
    """At once and without a thought; the client sees one answer, under one id."""
    webui.engine.script(never_answers=True)
    if stream:
        thought, answer, reasons = streamed(webui)
        assert thought == "Hmm." * 5
        assert (answer, reasons) == (f"{GIVEN} 1 2 3 4 5 6 7", ["stop"])
    else:
        choice = ask(webui).choices[0]
        assert choice.message.content == f"{GIVEN} 1 2 3 4 5 6 7"
        assert (choice.message.reasoning, choice.finish_reason) == ("Hmm." * 5, "stop")
    assert len(webui.engine.seen()) == 2
    assert last_body(webui)["thinking_token_budget"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_stray_tags_do_not_reach_the_text(webui: Webui, stream: bool) -> None:
    """Also where they come in pieces; a lone < stays."""
    webui.engine.script(tags=True, words=2)
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    if stream:
        text = streamed(webui, tools=tools)[1]
    else:
        text = ask(webui, tools=tools).choices[0].message.content
    assert text == f"{GIVEN}  a < b  1"


@pytest.mark.parametrize("begun", ["It is", "<think>It is round.</think>It is"])
def test_a_continued_answer_is_no_thought(webui: Webui, begun: str) -> None:
    """The engine's parser sees no end of a thought, because that came before; it is not asked
    again for an answer."""
    webui.engine.script(never_answers=True)
    messages: Any = [*HELLO, {"role": "assistant", "content": begun}]
    own = {"continue_final_message": True, "add_generation_prompt": False}
    message = ask(webui, messages=messages, extra_body=own).choices[0].message
    assert message.content == "Hmm." * 5
    assert message.reasoning is None
    assert len(webui.engine.seen()) == 1


def test_a_continued_thought_stays_one(webui: Webui) -> None:
    """It is not closed yet; so the answer to it is asked for."""
    webui.engine.script(never_answers=True, words=2)
    messages: Any = [*HELLO, {"role": "assistant", "content": "<think>It is"}]
    own = {"continue_final_message": True, "add_generation_prompt": False}
    message = ask(webui, messages=messages, extra_body=own).choices[0].message
    assert message.reasoning == "Hmm." * 5
    assert message.content


def test_tokenize_counts_pictures(webui: Webui) -> None:
    """A text or a conversation; a picture costs what the processor makes of it."""
    status, _, answer = request(webui, "POST", "/v1/tokenize", b'{"model": "one", "prompt": "a b"}')
    assert (status, answer["count"]) == (200, 2)
    part = {"type": "image_url", "image_url": {"url": fresh()}}
    content = [part, {"type": "text", "text": "What is it?"}]
    body = {"model": "one", "messages": [{"role": "user", "content": content}]}
    status, _, answer = request(webui, "POST", "/v1/tokenize", json.dumps(body).encode())
    assert (status, answer["count"], len(answer["tokens"])) == (200, 3 + 171, 3)
    status, _, answer = request(webui, "POST", "/v1/tokenize", b'{"prompt": "a", "stream": true}')
    assert (status, answer["error"]["param"]) == (400, "stream")


@pytest.mark.parametrize("mode", ["off", "low"])
def test_an_engine_without_budgets_is_served_too(webui: Webui, mode: str) -> None:
    """Not to think, it gets the end of a thought to begin with; otherwise it thinks as it will."""
    webui.engine.script(budgets=False)
    assert ask(webui, extra_body={"thinking": mode}).choices[0].message.content
    body = last_body(webui)
    assert "thinking_token_budget" not in body
    prefilled = body["messages"][-1] == {"role": "assistant", "content": "</think>\n"}
    assert prefilled == body.get("continue_final_message", False) == (mode == "off")
