"""Anthropic's Messages API on the chat route: requests, answers and streams."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import anthropic
import httpx2
import pytest
from chat_answers import PATIENT, answer, streamed
from hypothesis import given
from hypothesis import strategies as st

from webui.gateway.answers import AnswerEvents
from webui.gateway.errors import ApiError, engine_stalled
from webui.gateway.fields import check_fields
from webui.gateway.image_parts import image_parts
from webui.gateway.messages import (
    FIELDS,
    MessageEvents,
    error_document,
    from_chat,
    remembered,
    to_chat,
)
from webui.gateway.thinking import STANDARD, put_in
from webui.gateway.translation import failure

# Of the client's ``messages.create`` and its beta, as of its version 2.13, and of the versions
# before that could choose how to sample.
CLIENT_FIELDS = {
    *("cache_control", "container", "context_management", "diagnostics", "inference_geo"),
    *("max_tokens", "mcp_servers", "messages", "metadata", "model", "output_config"),
    *("service_tier", "speed", "stop_sequences", "stream", "system", "temperature", "thinking"),
    *("tool_choice", "tools", "top_k", "top_p", "user_profile_id", "workspace_id"),
}
ASKED = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
SHOWN = ASKED | {"thinking": {"type": "enabled", "budget_tokens": 64}}
WEATHER = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


def asked(*content: Any, role: str = "user") -> dict[str, Any]:
    return ASKED | {"messages": [{"role": role, "content": [*content]}]}


def chat_messages(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    document = ASKED | {"messages": [{"role": r, "content": c} for r, c in messages]}
    made: list[dict[str, Any]] = to_chat(document)["messages"]
    return made


def test_every_field_of_the_client_is_known() -> None:
    """Used, without effect, or refused with a reason; the literal list and the installed client."""
    known = FIELDS.used | FIELDS.ignored | FIELDS.refused.keys()
    assert known == CLIENT_FIELDS
    from anthropic.types import message_create_params as params

    kinds = (params.MessageCreateParamsBase, params.MessageCreateParamsStreaming)
    assert {name for kind in kinds for name in kind.__annotations__} <= known


def test_a_request_with_everything_passes_the_pipeline() -> None:
    """What comes out are fields that the chat route takes and the engine understands."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    document = asked({"type": "text", "text": "what?"}, {"type": "image", "source": PIXEL}) | {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "stop_sequences": ["END"],
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "thinking": {"type": "enabled", "budget_tokens": 64},
        "tools": [WEATHER],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "metadata": {"user_id": "me"},
        "service_tier": "auto",
        "container": None,
    }
    chat = to_chat(document)
    assert not check_fields("/chat/completions", chat)
    assert [image.source for image in image_parts(chat)] == ["data:image/png;base64,iVBORw0KGgo="]
    allowance = STANDARD.taken_from(chat)
    assert allowance == (64, 9)
    put_in(chat, allowance)
    request = ChatCompletionRequest.model_validate(chat)
    assert request.stop == ["END"]
    assert request.stream_options is not None
    assert request.stream_options.include_usage
    assert request.parallel_tool_calls is False
    assert chat["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_small_request_stays_small() -> None:
    """Nothing is added to it."""
    assert to_chat(ASKED) == ASKED


def test_tool_use_and_results_become_calls_and_tool_messages() -> None:
    """Results come right after the calls; their pictures after all of them, before the words."""
    calls = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}},
        {"type": "tool_use", "id": "toolu_2", "name": "photo", "input": {}},
    ]
    url = {"type": "url", "url": "https://example.org/a.png"}
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [image(url)]},
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain", "is_error": True},
        {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}},
    ]
    made = chat_messages(("user", "go"), ("assistant", calls), ("user", results))
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool", "user"]
    first, second = made[1]["tool_calls"]
    assert made[1]["content"] == "Looking."
    assert (first["id"], first["function"]["name"]) == ("toolu_1", "weather")
    assert json.loads(first["function"]["arguments"]) == {"city": "Köln"}
    assert second["function"]["arguments"] == "{}"
    assert made[2]["tool_call_id"] == "toolu_2"
    assert made[3]["content"] == "Error:\nrain"
    assert made[4]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "text", "text": "And?"},
    ]


def image(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image", "source": source}


def test_pictures_of_results_are_shown_before_anybody_else_speaks() -> None:
    """Also where the user says nothing to them."""
    use = {"type": "tool_use", "id": "t", "name": "photo", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image(PIXEL)]}
    made = chat_messages(
        ("assistant", [use]), ("user", [result]), ("assistant", "nice"), ("user", [result])
    )
    roles = [message["role"] for message in made]
    assert roles == ["assistant", "tool", "user", "assistant", "tool", "user"]
    assert made[0]["content"] == ""
    assert made[1]["content"]  # templates want words there


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "x"}, {"type": "function", "function": {"name": "x"}}),
    ],
)
def test_choices_of_tools(choice: dict[str, Any], expected: Any) -> None:
    """Each has a word of the chat route's."""
    chat = to_chat(ASKED | {"tools": [WEATHER], "tool_choice": choice})
    assert chat["tool_choice"] == expected
    assert chat["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]


def test_adaptive_thinking_leaves_the_amount_to_the_effort() -> None:
    """Else ``thinking`` is the more exact of the two and would win."""
    wish = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
    chat = to_chat(ASKED | wish)
    assert STANDARD.taken_from(chat).thinking == STANDARD.tokens["low"]
    chat = to_chat(ASKED | {"thinking": {"type": "adaptive"}})
    assert STANDARD.taken_from(chat).thinking == STANDARD.tokens["auto"]


@pytest.mark.parametrize(
    ("document", "code", "param"),
    [
        ({"model": "m", "messages": ASKED["messages"]}, "invalid_parameter", "max_tokens"),
        (ASKED | {"max_tokens": True}, "invalid_parameter", "max_tokens"),
        (ASKED | {"frequency_penalty": 1}, "unsupported_parameter", "frequency_penalty"),
        (ASKED | {"container": "c"}, "unsupported_parameter", "container"),
        (ASKED | {"mcp_servers": [{}]}, "unsupported_parameter", "mcp_servers"),
        (ASKED | {"messages": "hi"}, "invalid_parameter", "messages"),
        (ASKED | {"messages": []}, "unsupported_parameter", "messages"),
        (ASKED | {"messages": ["hi"]}, "invalid_parameter", "messages.0"),
        (asked(role="tool"), "invalid_parameter", "messages.0.role"),
        (ASKED | {"messages": [{"role": "user"}]}, "invalid_parameter", "messages.0.content"),
        (asked("hi"), "invalid_parameter", "messages.0.content.0"),
        (asked({"type": "text"}), "invalid_parameter", "messages.0.content.0.text"),
        (asked({"type": "document"}), "unsupported_parameter", "messages.0.content.0"),
        (asked({"type": ["text"]}), "unsupported_parameter", "messages.0.content.0"),
        (asked({"type": "image"}), "invalid_parameter", "messages.0.content.0.source"),
        (
            asked(image({"type": "file", "file_id": "f"})),
            "unsupported_parameter",
            "messages.0.content.0.source.type",
        ),
        (
            asked(image({"type": "base64", "media_type": "image/png"})),
            "invalid_parameter",
            "messages.0.content.0.source.data",
        ),
        (
            asked({"type": "tool_use", "id": "a", "name": "b"}, role="assistant"),
            "invalid_parameter",
            "messages.0.content.0.input",
        ),
        (asked({"type": "tool_result"}), "invalid_parameter", "messages.0.content.0.tool_use_id"),
        (
            asked({"type": "text", "text": "The"}, role="assistant"),
            "unsupported_parameter",
            "messages",
        ),
        (ASKED | {"system": 3}, "invalid_parameter", "system"),
        (ASKED | {"tools": {}}, "invalid_parameter", "tools"),
        (ASKED | {"tools": [{"name": "x"}]}, "invalid_parameter", "tools.0.input_schema"),
        (ASKED | {"tool_choice": {"type": "some"}}, "invalid_parameter", "tool_choice.type"),
        (ASKED | {"tool_choice": {"type": "tool"}}, "invalid_parameter", "tool_choice.name"),
        (ASKED | {"stream": "yes"}, "invalid_parameter", "stream"),
        (ASKED | {"stop_sequences": "x"}, "invalid_parameter", "stop_sequences"),
        (
            ASKED | {"output_config": {"format": {}}},
            "invalid_parameter",
            "output_config.format.schema",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    document: dict[str, Any], code: str, param: str
) -> None:
    """The error names the place."""
    with pytest.raises(ApiError) as caught:
        to_chat(document)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_tools_of_anthropics_own_are_refused_by_their_name() -> None:
    """Nothing here would run them."""
    with pytest.raises(ApiError) as caught:
        to_chat(ASKED | {"tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}]})
    assert caught.value.param == "tools.1"
    assert "web_search_20250305" in caught.value.message


@PATIENT
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["role", "content", "type", "text", "source", "input", "name"]),
                inner,
                max_size=4,
            )
        ),
    ),
    st.sampled_from(sorted(FIELDS.used)),
)
def test_any_request_is_taken_or_refused(value: Any, name: str) -> None:
    """Nothing else can happen to it, whatever stands where."""
    try:
        to_chat(ASKED | {name: value})
    except ApiError as error:
        assert error.status == 400  # noqa: PT017


# Answers.


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The documents of a stream; each is named as its type says."""
    found = []
    for event in stream.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}"
        found.append(document)
    return found


def test_a_whole_answer_is_a_message() -> None:
    """Thought, text and call, in this order; the installed client reads it."""
    made = from_chat(answer("hm", "hello", '{"a": 1}'), SHOWN)
    message = anthropic.types.Message.model_validate(made)
    assert message.id == "msg_1"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert made["content"][0]["thinking"] == "hm"
    assert made["content"][2] == {
        "type": "tool_use",
        "id": "toolu_0",
        "name": "f0",
        "input": {"a": 1},
    }
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 7)


@pytest.mark.parametrize(
    "thinking",
    [None, "off", {"type": "disabled"}, {"type": "enabled", "display": "omitted"}],
)
def test_thoughts_are_for_those_who_ask(thinking: Any) -> None:
    """The usual ``message.content[0].text`` must be the answer."""
    request = remembered(ASKED | {"thinking": thinking})
    assert from_chat(answer("hm", "hello"), request)["content"][0]["text"] == "hello"
    stream = MessageEvents(request).feed(streamed(answer("hm", "hello"), 2))
    assert b'"thinking' not in stream


@pytest.mark.parametrize(
    ("choice", "reason", "sequence"),
    [
        ({"finish_reason": "stop", "stop_reason": None}, "end_turn", None),
        ({"finish_reason": "stop", "stop_reason": 151645}, "end_turn", None),
        ({"finish_reason": "stop", "stop_reason": "END"}, "stop_sequence", "END"),
        ({"finish_reason": "length"}, "max_tokens", None),
        ({"finish_reason": "content_filter"}, "refusal", None),
        ({"finish_reason": "abort"}, "end_turn", None),
    ],
)
def test_why_it_stopped(choice: dict[str, Any], reason: str, sequence: str | None) -> None:
    """In the message, and in the last event but one of a stream."""
    whole = answer(None, "x", **choice)
    message = from_chat(whole, ASKED)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    *_, last, stop = events_of(MessageEvents(ASKED).feed(streamed(whole, 1)))
    assert last["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
    assert stop == {"type": "message_stop"}


def test_a_tool_chosen_by_name_is_a_use_of_a_tool() -> None:
    """The engine says "stop" then."""
    whole = answer(None, None, "{}", finish_reason="stop")
    assert from_chat(whole, ASKED)["stop_reason"] == "tool_use"


def test_a_call_that_was_cut_off_is_no_call() -> None:
    """Nobody should run a tool with half of its arguments."""
    made = from_chat(answer(None, "so", '{"a": "b', finish_reason="length"), ASKED)
    assert [block["type"] for block in made["content"]] == ["text"]
    assert made["stop_reason"] == "max_tokens"


def test_tokens_from_a_cache_count_apart() -> None:
    """All that were read is the sum."""
    whole = answer(None, "x")
    whole["usage"]["prompt_tokens_details"] = {"cached_tokens": 8}
    used = from_chat(whole, ASKED)["usage"]
    assert (used["input_tokens"], used["cache_read_input_tokens"]) == (3, 8)


def test_an_answer_can_be_sent_back() -> None:
    """What the model said comes to it again as it was, but for its thought."""
    made = from_chat(answer("hm", "hello", '{"a":1}', "{}"), SHOWN)
    _, again, result = chat_messages(
        ("user", "go"),
        ("assistant", made["content"]),
        ("user", [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}]),
    )
    said = answer("hm", "hello", '{"a":1}', "{}")["choices"][0]["message"]
    assert again["content"] == "hello"
    assert [call["function"] for call in again["tool_calls"]] == [
        call["function"] for call in said["tool_calls"]
    ]
    assert result["tool_call_id"] == again["tool_calls"][1]["id"]


# Streams.


def test_the_events_come_in_their_order() -> None:
    """One block after the other, each begun and ended."""
    stream = MessageEvents(SHOWN).feed(streamed(answer("hm", "yes", '{"a":1}'), 9))
    events = events_of(stream)
    assert [(e["type"], e.get("index")) for e in events] == [
        ("ping", None),  # of the comment
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("message_delta", None),
        ("message_stop", None),
    ]
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "text_delta", "text": "yes"},
        {"type": "input_json_delta", "partial_json": '{"a":1}'},
    ]
    assert events[-2]["usage"]["input_tokens"] == 11
    assert events[-2]["usage"]["output_tokens"] == 7


TEXTS = st.none() | st.text(max_size=20)
ANSWERS = st.builds(
    lambda reasoning, content, calls: answer(reasoning, content, *calls),
    TEXTS,
    TEXTS,
    st.lists(
        st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2).map(json.dumps),
        max_size=2,
    ),
)


def gathered(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream's events make."""
    message: dict[str, Any] = {}
    texts: list[str] = []
    for event in events:
        if event["type"] == "message_start":
            message = event["message"]
        elif event["type"] == "content_block_start":
            message["content"].append(event["content_block"])
            texts = []
        elif event["type"] == "content_block_delta":
            [(_, text)] = [item for item in event["delta"].items() if item[0] != "type"]
            texts.append(text)
        elif event["type"] == "content_block_stop":
            block = message["content"][event["index"]]
            text = "".join(texts)
            if block["type"] == "tool_use":
                block["input"] = json.loads(text or "{}")
            else:
                block[block["type"]] = text
        elif event["type"] == "message_delta":
            message |= event["delta"] | {"usage": event["usage"]}
    return message


@PATIENT
@given(ANSWERS, st.integers(1, 9))
def test_a_stream_adds_up_to_the_whole_answer(whole: dict[str, Any], size: int) -> None:
    """Whatever the answer, and in pieces of whatever size the model gave it."""
    events = events_of(MessageEvents(SHOWN).feed(streamed(whole, size)))
    assert gathered(events) == from_chat(whole, SHOWN)


STREAM = streamed(answer("hm", "grüße", '{"a": 1}'), 3)
ERROR = STREAM[: STREAM.index(b"data: [DONE]")] + engine_stalled().as_event()


@PATIENT
@given(st.sampled_from([STREAM, ERROR]), st.lists(st.integers(0, len(STREAM))))
def test_it_does_not_matter_where_a_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    """The bytes are the same, also where a character or the end of an event is cut in two."""
    at = [0, *sorted(cuts), len(stream)]
    events = MessageEvents(SHOWN)
    parts = [events.feed(stream[a:b]) for a, b in pairwise(at)]
    assert b"".join(parts) == MessageEvents(SHOWN).feed(stream)


def test_the_engines_own_stream_through_both_translators() -> None:
    """As it runs in the gateway: the pieces that the one gives are those that the other gets."""
    chat = AnswerEvents(limit=None, tools=True, usage=True, ids=False, choices=1)
    events = MessageEvents(SHOWN)
    stream = streamed(answer("hm", "a <tool_calls>b", '{"a": 1}'), 4)
    parts = [events.feed(chat.feed(stream[i : i + 7])) for i in range(0, len(stream), 7)]
    message = gathered(events_of(b"".join(parts)))
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use"]
    assert message["content"][1]["text"] == "a b"
    assert message["usage"]["output_tokens"] == 7


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (engine_stalled().as_event(), "api_error"),
        (b'data: {"error": {"message": "x", "type": "BadRequestError", "code": 400}}\n\n',
         "invalid_request_error"),
        (b"data: no JSON\n\ndata: [DONE]\n\n", "api_error"),
        (b'data: {"choices": [{}]}\n\n', "api_error"),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_ends_with_an_error(end: bytes, kind: str) -> None:
    """Nothing follows it, so that nobody takes the answer for a whole one."""
    begun = STREAM[: STREAM.index(b'{"a')]
    begun = begun[: begun.rindex(b"data: ")]
    events = events_of(MessageEvents(SHOWN).feed(begun + end + STREAM))
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == kind
    assert [event["type"] for event in events].count("error") == 1


def test_an_end_without_an_answer_is_an_error() -> None:
    """And not an empty message."""
    [event] = events_of(MessageEvents(ASKED).feed(b"data: [DONE]\n\n"))
    assert event["type"] == "error"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_have_anthropics_shape(status: int, kind: str) -> None:
    """Ours, and those of the engine's own answers."""
    body = {"type": "error", "error": {"type": kind, "message": "why"}}
    assert error_document(ApiError(status, "why", "code")) == body
    engine = {"error": {"message": "why", "type": "BadRequestError", "param": None, "code": 1}}
    assert error_document(failure(engine, status)) == body


def client(body: bytes, content_type: str) -> Any:
    """The installed client, with an answer to whatever it asks."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        to_chat(json.loads(request.content))  # it must be a request that is taken
        return httpx2.Response(200, content=body, headers={"content-type": content_type})

    http = httpx2.Client(transport=httpx2.MockTransport(handle))
    return anthropic.Anthropic(api_key="none", base_url="http://gateway", http_client=http)


def test_the_installed_client_reads_a_stream() -> None:
    """Its own accumulation gives what was streamed."""
    stream = MessageEvents(SHOWN).feed(STREAM)
    with client(stream, "text/event-stream").messages.stream(**SHOWN, tools=[WEATHER]) as events:
        text = "".join(events.text_stream)
        message = events.get_final_message()
    assert text == "grüße"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].thinking == "hm"
    assert message.content[2].input == {"a": 1}
    assert (message.stop_reason, message.usage.input_tokens) == ("tool_use", 11)


def test_the_installed_client_raises_on_a_broken_stream() -> None:
    """With the reason."""
    stream = MessageEvents(SHOWN).feed(ERROR)
    with (
        pytest.raises(anthropic.APIStatusError, match="silent for too long"),
        client(stream, "text/event-stream").messages.stream(**SHOWN) as events,
    ):
        events.get_final_message()
