"""Which probabilities belong to an answer's text, in chat answers and in responses."""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response

from webui.gateway.logprobs import entries_of, of_text, shorten
from webui.gateway.responses import ResponseEvents, from_chat, to_chat

ASKED: dict[str, Any] = {
    "model": "m",
    "input": "hi",
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
}


def entry(token: str, octets: bytes | None = None) -> dict[str, Any]:
    made = {"token": token, "logprob": -0.5, "bytes": list(octets or token.encode())}
    return made | {"top_logprobs": [made]}


def choice(*tokens: str | dict[str, Any]) -> dict[str, Any]:
    entries = [entry(token) if isinstance(token, str) else token for token in tokens]
    return {"logprobs": {"content": entries}}


def tokens(made: list[dict[str, Any]]) -> list[str]:
    return [each["token"] for each in made]


def test_neither_the_thought_nor_the_end_is_of_the_text() -> None:
    whole = choice("a", " thought", "</think>", "\n", "Hel", "lo", "<|im_end|>")
    assert tokens(of_text(entries_of(whole), "Hello")) == ["Hel", "lo"]


def test_an_answer_without_a_thought_has_all_of_its_tokens() -> None:
    assert tokens(of_text(entries_of(choice("Hel", "lo", "<|im_end|>")), "Hello")) == ["Hel", "lo"]


def test_a_character_may_be_of_several_tokens() -> None:
    two = (entry("", "é".encode()[:1]), entry("", "é".encode()[1:]))
    assert len(of_text(entries_of(choice("</think>", *two, "!", "<|im_end|>")), "é!")) == 3


def test_nothing_was_asked_for() -> None:
    assert of_text(entries_of({"logprobs": None}), "Hello") == []
    assert of_text(entries_of({}), "Hello") == []


def test_what_was_cut_off_has_no_probabilities() -> None:
    whole = choice("hm", "</think>", "Hel", "lo", " there")
    shorten(whole, "Hello")
    assert tokens(whole["logprobs"]["content"]) == ["hm", "</think>", "Hel", "lo"]


def test_they_are_asked_for_by_either_field() -> None:
    assert to_chat(ASKED)["top_logprobs"] == 1
    included = {name: value for name, value in ASKED.items() if name != "top_logprobs"}
    assert to_chat(included)["logprobs"] is True
    plain = to_chat({"model": "m", "input": "hi", "top_logprobs": 0})
    assert "logprobs" not in plain


def test_a_response_has_those_of_its_text() -> None:
    message = {"role": "assistant", "reasoning": "hm", "content": "Hello"}
    answered = choice("hm", "</think>", "Hel", "lo", "<|im_end|>") | {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
    }
    made = from_chat({"id": "chatcmpl-1", "model": "m", "choices": [answered]}, ASKED)
    response = Response.model_validate(made)
    part = response.output[-1].content[0]  # type: ignore[union-attr, index]
    scores = part.logprobs  # type: ignore[union-attr]
    assert scores is not None
    assert [score.token for score in scores] == ["Hel", "lo"]
    assert scores[0].top_logprobs[0].logprob == -0.5


def test_a_stream_has_them_with_each_piece_and_all_at_the_end() -> None:
    pieces: list[tuple[dict[str, str], tuple[str, ...]]] = [
        ({"reasoning": "hm"}, ("hm",)),
        ({"content": "Hel"}, ("</think>", "Hel")),
        ({"content": ""}, ("l",)),  # until it is decided what becomes of it
        ({"content": "lo"}, ("o",)),
    ]
    chunks = [
        {"index": 0, "delta": delta, "finish_reason": None, **choice(*texts)}
        for delta, texts in pieces
    ]
    chunks.append({"index": 0, "delta": {}, "finish_reason": "stop", **choice("<|im_end|>")})
    stream = "".join(
        f"data: {json.dumps({'id': 'c', 'model': 'm', 'choices': [chunk]})}\n\n" for chunk in chunks
    )
    events = ResponseEvents(ASKED).feed((stream + "data: [DONE]\n\n").encode()).decode()
    made = [json.loads(event.split("data: ")[1]) for event in events.split("\n\n") if event]
    deltas = [event for event in made if event["type"] == "response.output_text.delta"]
    assert [tokens(event["logprobs"]) for event in deltas] == [["Hel"], ["l", "o"]]
    [done] = [event for event in made if event["type"] == "response.output_text.done"]
    assert tokens(done["logprobs"]) == ["Hel", "l", "o"]
    assert made[-1]["response"]["output"][-1]["content"][0]["logprobs"] == done["logprobs"]
