"""A chat stream on its way: the same whatever its pieces, and by whichever of the two ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from webui.gateway.answers import AnswerEvents, StrayTags, without_stray_tags
from webui.gateway.errors import ApiError

# Empty ones come while a character is not whole yet.
WORDS = (
    st.just("")
    | st.text(
        st.sampled_from('a b<>"\\{}[]:,\n中é') | st.characters(codec="utf-8"),
        min_size=1,
        max_size=8,
    )
    | st.sampled_from(
        ['","token_ids":[1,2]', '"reasoning":"x"', '"finish_reason":null', "\n\ndata: "]
    )
)


def event(delta: dict[str, str], reason: str | None = None, **more: Any) -> bytes:
    """As vLLM writes it."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, **more}
    document = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def stream(thought: list[str], answer: list[str], *, ids: bool) -> bytes:
    """A whole stream; each word is a token."""
    more: dict[str, Any] = {"token_ids": [7]} if ids else {}
    events = [event({"role": "assistant", "content": ""})]
    events += [event({"reasoning": word}, **more) for word in thought]
    events += [event({}, **more)] if ids and thought else []
    events += [event({"content": word}, **more) for word in answer]
    usage = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    used = {"id": "x", "choices": [], "usage": usage}
    end = b"data: " + json.dumps(used).encode() + b"\n\ndata: [DONE]\n\n"
    return b"".join([*events, event({}, "stop", **more), end])


def shaper(*, limit: int | None = None, tools: bool = False, usage: bool = False) -> AnswerEvents:
    return AnswerEvents(limit=limit, tools=tools, usage=usage, ids=False, choices=1)


def documents(out: bytes) -> list[dict[str, Any]]:
    """The events of a stream that ended well."""
    *events, done, rest = out.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def texts(out: bytes) -> tuple[str, str, list[str]]:
    """Thought, answer and reasons for the end."""
    choices = [choice for document in documents(out) for choice in document["choices"]]
    deltas = [choice["delta"] for choice in choices]
    assert all(d.get("reasoning") == d.get("reasoning_content") for d in deltas)
    assert not [choice for choice in choices if "token_ids" in choice]
    thought = "".join(d.get("reasoning") or "" for d in deltas)
    answer = "".join(d.get("content") or "" for d in deltas)
    return thought, answer, [c["finish_reason"] for c in choices if c["finish_reason"]]


@given(
    thought=st.lists(WORDS, max_size=5),
    answer=st.lists(WORDS, min_size=1, max_size=8),
    limit=st.none() | st.integers(1, 10),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
)
def test_texts_come_through_whole(
    thought: list[str], answer: list[str], limit: int | None, cuts: list[int]
) -> None:
    """Whatever is in the texts, and wherever the network cuts the stream."""
    expected = answer if limit is None or not thought else answer[:limit]
    assume("".join(expected))
    whole = stream(thought, answer, ids=limit is not None)
    events, out, before = shaper(limit=limit), b"", 0
    for cut in [*sorted(cuts), len(whole)]:
        out += events.feed(whole[before:cut])
        before = max(before, cut)
    said = texts(out)
    assert said[0] == "".join(thought)
    if limit is None or thought:
        reason = "stop" if len(expected) == len(answer) else "length"
        assert said[1:] == ("".join(expected), [reason])
    assert events.complete


@given(
    thought=st.lists(WORDS, min_size=1, max_size=6),
    answer=st.lists(WORDS, min_size=1, max_size=8),
    limit=st.integers(1, 10),
)
def test_an_empty_piece_does_not_end_a_thought(
    thought: list[str], answer: list[str], limit: int
) -> None:
    """Also where every event is parsed."""
    plain = [w.replace("<", "") for w in answer]
    assume("".join(plain[:limit]))
    events = shaper(limit=limit, tools=True)
    said = texts(events.feed(stream(thought, plain, ids=True)))
    assert said[0] == "".join(thought)
    assert said[1] == "".join(plain[:limit])


def test_hidden_thoughts_still_count() -> None:
    """A client that does not want them gets the answer alone, up to the same limit."""
    events = AnswerEvents(limit=2, tools=False, usage=False, ids=False, choices=1, thoughts=False)
    out = events.feed(stream(["a", "b"], ["c", "d", "e"], ids=True))
    assert texts(out) == ("", "cd", ["length"])
    assert b"reasoning" not in out


@given(thought=st.lists(WORDS, max_size=4), answer=st.lists(WORDS, min_size=1, max_size=6))
def test_both_ways_say_the_same(thought: list[str], answer: list[str]) -> None:
    """Most events are changed without being parsed; tools make it parse every one."""
    plain = [w.replace("<", "") for w in answer]
    assume("".join(plain))
    whole = stream(thought, plain, ids=False)
    assert texts(shaper().feed(whole)) == texts(shaper(tools=True).feed(whole))


@given(st.lists(st.sampled_from(["<tool", "_calls>", "</tool_calls>", "<", "a", ">"]), max_size=12))
def test_tags_in_pieces(pieces: list[str]) -> None:
    """What goes out is what is left of the whole text, and nothing is kept for ever."""
    tags = StrayTags()
    out = "".join(tags.rest(piece, last=False) for piece in pieces) + tags.rest("", last=True)
    assert stable(out) == stable("".join(pieces))


def stable(text: str) -> str:
    """Without tags, also those that come together where others are taken out."""
    while (shorter := without_stray_tags(text)) != text:
        text = shorter
    return text


@pytest.mark.parametrize("usage", [True, False])
def test_usage_is_noted_and_shown_to_who_asked(usage: bool) -> None:
    """It is always asked of the engine, to be counted."""
    events = shaper(usage=usage)
    out = documents(events.feed(stream(["x"], ["y"], ids=False)))
    assert events.used == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    assert ("usage" in out[-1]) == usage


def test_an_error_of_the_engine_comes_through() -> None:
    """Inside of the stream, where the status has gone out."""
    error = {"error": {"message": "out of memory", "code": 500}}
    out = shaper().feed(b"data: " + json.dumps(error).encode() + b"\n\ndata: [DONE]\n\n")
    assert documents(out) == [error]


def test_a_thought_without_an_answer_is_held_back() -> None:
    """Until it is known what the second stream says; both count."""
    events = shaper(usage=True)
    first = events.feed(stream(["hm"], [], ids=False))
    assert b'finish_reason":"stop' not in first
    assert events.unanswered
    assert not events.complete
    events.resume()
    whole = first + events.feed(stream([], ["yes"], ids=False))
    assert texts(whole) == ("hm", "yes", ["stop"])
    assert events.used["completion_tokens"] == 18
    assert documents(whole)[-1]["usage"]["completion_tokens"] == 18
    assert sum("role" in c["delta"] for d in documents(whole) for c in d["choices"]) == 1


def test_engine_whose_core_has_died_is_told_as_such() -> None:
    """vLLM's words name a log that clients do not have; other errors pass as they are."""
    words = "EngineCore encountered an issue. See stack trace (above) for the root cause."
    event = f"data: {json.dumps({'error': {'message': words, 'code': 500}})}\n\n".encode()
    with pytest.raises(ApiError) as raised:
        shaper().feed(event)
    assert raised.value.code == "engine_restarted"
    other = b'data: {"error":{"message":"too long","code":400}}\n\n'
    assert shaper().feed(other) == other


def test_answer_that_a_stopping_engine_aborts_is_not_taken_for_whole() -> None:
    """vLLM ends those that come during its stop at once, with status 200 and no text."""
    aborted = event({}, "abort")
    with pytest.raises(ApiError) as raised:
        shaper().feed(aborted)
    assert raised.value.code == "engine_restarted"


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data: {no json}\n\n"])
@pytest.mark.parametrize("together", [True, False])
def test_what_follows_an_end_is_not_passed_on(end: bytes, together: bool) -> None:
    """However much it looks like more of the answer: neither after the engine's own end nor after
    what is no event; alone in its piece or not."""
    begun, more = stream([], ["a", "b"], ids=False).split(b"\n\n")[:2], event({"content": "more"})
    events = shaper()
    assert b"more" in events.feed(b"\n\n".join([*begun, b""])) + events.feed(more)
    events.feed(end)
    assert events.feed(more + more if together else more) == b""
