"""OpenAI's Responses API on the chat route: requests, answers and streams."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from chat_answers import PATIENT, answer, streamed
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import Response, ResponseFailedEvent, ResponseStreamEvent
from openai.types.responses import response_create_params as params
from pydantic import BaseModel, TypeAdapter

from webui.gateway.answers import AnswerEvents
from webui.gateway.errors import ApiError, engine_stalled
from webui.gateway.fields import check_fields
from webui.gateway.image_parts import image_parts
from webui.gateway.responses import (
    ECHOED,
    FIELDS,
    ResponseEvents,
    from_chat,
    remembered,
    to_chat,
)
from webui.gateway.thinking import STANDARD, put_in

ASKED: dict[str, Any] = {"model": "m", "input": "hi"}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def chat_messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = to_chat({"model": "m", "input": [*items]})["messages"]
    return made


def asked(**item: Any) -> dict[str, Any]:
    return {"model": "m", "input": [item]}


def with_part(**part: Any) -> dict[str, Any]:
    return asked(role="user", content=[part])


def test_every_field_of_the_client_is_known() -> None:
    """Used, without effect, or refused with a reason; and nothing else is."""
    kinds = (params.ResponseCreateParamsBase, params.ResponseCreateParamsStreaming)
    sent = {name for kind in kinds for name in kind.__annotations__}
    assert sent == FIELDS.used | FIELDS.ignored | FIELDS.refused.keys()
    assert set(ECHOED) <= sent & set(Response.model_fields)


def test_a_request_with_everything_passes_the_pipeline() -> None:
    """What comes out are fields that the chat route takes and the engine understands."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    part = {"type": "input_image", "image_url": PIXEL, "detail": "auto"}
    document = {
        "model": "m",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "what?"}, part]}],
        "max_output_tokens": 9,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": schema, "verbosity": "low"},
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "name": "weather"},
        "temperature": 0.5,
        "top_p": 0.9,
        "parallel_tool_calls": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "store": True,
        "background": False,
        "previous_response_id": None,
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "truncation": "auto",
        "user": "me",
        "service_tier": "auto",
    }
    chat = to_chat(document)
    assert not check_fields("/chat/completions", chat)
    assert [image.source for image in image_parts(chat)] == [PIXEL]
    allowance = STANDARD.taken_from(chat)
    assert allowance == (STANDARD.tokens["low"], 9)
    put_in(chat, allowance)
    request = ChatCompletionRequest.model_validate(chat)
    assert request.stream_options is not None
    assert request.stream_options.include_usage
    assert request.parallel_tool_calls is False
    assert chat["messages"][0] == {"role": "system", "content": "Be brief."}
    assert chat["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


def test_a_small_request_stays_small() -> None:
    """Nothing is added to it."""
    assert to_chat(ASKED) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_items_become_messages_in_their_order() -> None:
    """Calls join what was said before them; pictures of outputs come after all the outputs."""
    picture = {"type": "input_image", "image_url": "https://example.org/a.png"}
    made = chat_messages(
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": "go"},
        {"type": "reasoning", "id": "rs", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Looking.", "annotations": []}],
        },
        {"type": "function_call", "name": "weather", "call_id": "call_1", "arguments": "{}"},
        {"type": "function_call", "name": "photo", "call_id": "call_2", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "call_2", "output": [picture]},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
    )
    roles = [message["role"] for message in made]
    assert roles == ["system", "user", "assistant", "tool", "tool", "user"]
    assert made[2]["content"] == "Looking."
    assert [call["id"] for call in made[2]["tool_calls"]] == ["call_1", "call_2"]
    assert made[2]["tool_calls"][1]["function"] == {"name": "photo", "arguments": '{"a":1}'}
    assert made[3]["content"]  # templates want words there
    assert made[4] == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    [part] = made[5]["content"]
    assert part == {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "text"}, None),
        (None, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "a", "schema": {}},
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        ),
    ],
)
def test_forms_of_text(form: Any, expected: Any) -> None:
    """A schema moves one level down."""
    assert to_chat(ASKED | {"text": {"format": form}}).get("response_format") == expected


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_choices_of_tools(choice: str) -> None:
    """The words are the same."""
    chat = to_chat(ASKED | {"tools": [WEATHER], "tool_choice": choice})
    assert chat["tool_choice"] == choice
    assert chat["tools"][0]["function"]["parameters"] == WEATHER["parameters"]


@pytest.mark.parametrize(
    ("document", "code", "param"),
    [
        (ASKED | {"previous_response_id": "r"}, "unsupported_parameter", "previous_response_id"),
        (ASKED | {"conversation": {"id": "c"}}, "unsupported_parameter", "conversation"),
        (ASKED | {"background": True}, "unsupported_parameter", "background"),
        (ASKED | {"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        (ASKED | {"max_tokens": 3}, "unsupported_parameter", "max_tokens"),
        ({"model": "m"}, "invalid_parameter", "input"),
        (ASKED | {"input": ["hi"]}, "invalid_parameter", "input.0"),
        (ASKED | {"instructions": ["hi"]}, "invalid_parameter", "instructions"),
        (ASKED | {"max_output_tokens": "9"}, "invalid_parameter", "max_output_tokens"),
        (ASKED | {"reasoning": "low"}, "invalid_parameter", "reasoning"),
        (ASKED | {"text": {"format": {"type": "xml"}}}, "invalid_parameter", "text.format.type"),
        (ASKED | {"stream": 1}, "invalid_parameter", "stream"),
        (asked(role="tool", content="x"), "invalid_parameter", "input.0.role"),
        (asked(role="user"), "invalid_parameter", "input.0.content"),
        (asked(type="item_reference", id="i"), "unsupported_parameter", "input.0"),
        (asked(type="computer_call"), "unsupported_parameter", "input.0"),
        (asked(type="function_call", name="f"), "invalid_parameter", "input.0.call_id"),
        (asked(type="function_call_output", call_id="c"), "invalid_parameter", "input.0.output"),
        (with_part(type="input_file"), "unsupported_parameter", "input.0.content.0"),
        (with_part(type="input_text"), "invalid_parameter", "input.0.content.0.text"),
        (with_part(type="input_image"), "invalid_parameter", "input.0.content.0.image_url"),
        (
            with_part(type="input_image", file_id="f"),
            "unsupported_parameter",
            "input.0.content.0.file_id",
        ),
        (ASKED | {"tools": [{"type": "function"}]}, "invalid_parameter", "tools.0.name"),
        (ASKED | {"tool_choice": {"type": "web_search"}}, "unsupported_parameter", "tool_choice"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    document: dict[str, Any], code: str, param: str
) -> None:
    """The error names the place."""
    with pytest.raises(ApiError) as caught:
        to_chat(document)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


@pytest.mark.parametrize("kind", ["web_search", "file_search", "code_interpreter", "mcp"])
def test_built_in_tools_are_refused_by_their_name(kind: str) -> None:
    """Nothing here would run them."""
    with pytest.raises(ApiError) as caught:
        to_chat(ASKED | {"tools": [WEATHER, {"type": kind}]})
    assert caught.value.param == "tools.1"
    assert kind in caught.value.message


@pytest.mark.parametrize("name", ["previous_response_id", "conversation"])
def test_what_is_not_stored_is_to_be_sent(name: str) -> None:
    """The error says what to do instead."""
    with pytest.raises(ApiError, match="send the whole conversation") as caught:
        to_chat(ASKED | {name: "x"})
    assert "whole conversation" in caught.value.message


@PATIENT
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["role", "content", "type", "text", "output", "format", "name"]),
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
    """The documents of a stream, each as the installed client knows it, and numbered."""
    found: list[dict[str, Any]] = []
    for event in stream.decode().split("\n\n")[:-1]:
        if event.startswith(":"):
            continue
        name, data = event.split("\n")
        document = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(document)
        assert name == f"event: {document['type']}"
        assert document["sequence_number"] == len(found)
        found.append(document)
    return found


def test_a_whole_answer_is_a_response() -> None:
    """Thought, text and call, in this order; the installed client reads it."""
    response = Response.model_validate(from_chat(answer("hm", "hello", '{"a": 1}'), ASKED))
    assert response.id == "resp_1"
    assert response.status == "completed"
    assert response.output_text == "hello"
    reasoning, message, call = response.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert reasoning.content[0].text == "hm"
    assert message.id.startswith("msg_")
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == ("call_0", "f0", '{"a": 1}')
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (11, 7)


def test_a_response_repeats_its_request() -> None:
    """What it can repeat; and it says that it is not stored."""
    request = ASKED | {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "tools": [WEATHER],
        "tool_choice": "required",
        "text": {"verbosity": "low"},
        "temperature": 0.5,
        "store": True,
        "user": None,
    }
    made = from_chat(answer(None, "x"), remembered(request))
    assert made == from_chat(answer(None, "x"), request)
    response = Response.model_validate(made)
    assert response.instructions == "Be brief."
    assert response.metadata == {"a": "b"}
    assert response.tools[0].type == "function"
    assert response.tool_choice == "required"
    assert made["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert made["store"] is False
    assert "input" not in remembered(request)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_an_answer_that_was_cut_is_incomplete(finish: str, reason: str) -> None:
    """And so is what was being said, but not what came before it."""
    whole = answer("hm", "hel", finish_reason=finish)
    response = from_chat(whole, ASKED)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": reason}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    last = events_of(ResponseEvents(ASKED).feed(streamed(whole, 1)))[-1]
    assert (last["type"], last["response"]) == ("response.incomplete", response)


def test_an_answer_can_be_sent_back() -> None:
    """What the model said comes to it again as it was, but for its thought."""
    output = from_chat(answer("hm", "hello", '{"a":1}', "{}"), ASKED)["output"]
    result = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    _, again, told = chat_messages({"role": "user", "content": "go"}, *output, result)
    said = answer("hm", "hello", '{"a":1}', "{}")["choices"][0]["message"]
    assert (again["content"], again["tool_calls"]) == ("hello", said["tool_calls"])
    assert told["tool_call_id"] == again["tool_calls"][1]["id"]


# Streams.


def test_the_events_come_in_their_order() -> None:
    """One item after the other, each begun and ended, then the whole response."""
    whole = answer("hm", "yes", '{"a":1}')
    events = events_of(ResponseEvents(ASKED).feed(streamed(whole, 9)))
    assert [(event["type"], event.get("output_index")) for event in events] == [
        ("response.created", None),
        ("response.in_progress", None),
        ("response.output_item.added", 0),
        ("response.content_part.added", 0),
        ("response.reasoning_text.delta", 0),
        ("response.reasoning_text.done", 0),
        ("response.content_part.done", 0),
        ("response.output_item.done", 0),
        ("response.output_item.added", 1),
        ("response.content_part.added", 1),
        ("response.output_text.delta", 1),
        ("response.output_text.done", 1),
        ("response.content_part.done", 1),
        ("response.output_item.done", 1),
        ("response.output_item.added", 2),
        ("response.function_call_arguments.delta", 2),
        ("response.function_call_arguments.done", 2),
        ("response.output_item.done", 2),
        ("response.completed", None),
    ]
    assert events[0]["response"]["output"] == []
    ids = {event["item_id"] for event in events if "item_id" in event}
    assert ids == {item["id"] for item in events[-1]["response"]["output"]}
    assert len(ids) == 3


TEXTS = st.none() | st.text(max_size=20)
ANSWERS = st.builds(
    lambda reasoning, content, calls: answer(reasoning, content, *calls),
    TEXTS,
    TEXTS,
    st.lists(st.text(max_size=9), max_size=2),
)


@PATIENT
@given(ANSWERS, st.integers(1, 9))
def test_a_stream_adds_up_to_the_whole_answer(whole: dict[str, Any], size: int) -> None:
    """Its last event holds the response as it is without a stream, and its pieces the texts."""
    events = events_of(ResponseEvents(ASKED).feed(streamed(whole, size)))
    response = events[-1]["response"]
    assert response == from_chat(whole, ASKED)
    Response.model_validate(response)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    message = whole["choices"][0]["message"]
    arguments = "".join(call["function"]["arguments"] for call in message["tool_calls"])
    for kind, text in (
        ("response.output_text.delta", message["content"]),
        ("response.reasoning_text.delta", message["reasoning"]),
        ("response.function_call_arguments.delta", arguments),
    ):
        assert "".join(e["delta"] for e in events if e["type"] == kind) == (text or "")


STREAM = streamed(answer("hm", "grüße", '{"a": 1}'), 3)
ERROR = STREAM[: STREAM.index(b"data: [DONE]")] + engine_stalled().as_event()


@PATIENT
@given(st.sampled_from([STREAM, ERROR]), st.lists(st.integers(0, len(STREAM))))
def test_it_does_not_matter_where_a_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    """The bytes are the same, also where a character or the end of an event is cut in two."""
    at = [0, *sorted(cuts), len(stream)]
    events = ResponseEvents(ASKED)
    parts = [events.feed(stream[a:b]) for a, b in pairwise(at)]
    assert b"".join(parts) == ResponseEvents(ASKED).feed(stream)


def test_the_engines_own_stream_through_both_translators() -> None:
    """As it runs in the gateway: the pieces that the one gives are those that the other gets."""
    chat = AnswerEvents(limit=None, tools=True, usage=True, ids=False, choices=1)
    events = ResponseEvents(ASKED)
    stream = streamed(answer("hm", "a <tool_calls>b", '{"a": 1}'), 4)
    parts = [events.feed(chat.feed(stream[i : i + 7])) for i in range(0, len(stream), 7)]
    response = Response.model_validate(events_of(b"".join(parts))[-1]["response"])
    assert response.output_text == "a b"
    assert response.usage is not None
    assert response.usage.output_tokens == 7


def test_silence_is_filled() -> None:
    """Comments are passed on between the events."""
    assert ResponseEvents(ASKED).feed(STREAM).startswith(b": keep-alive\n\nevent: ")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (engine_stalled().as_event(), "server_error"),
        (b'data: {"error": {"message": "x", "type": "BadRequestError", "code": 400}}\n\n',
         "invalid_prompt"),
        (b"data: no JSON\n\ndata: [DONE]\n\n", "server_error"),
        (b'data: {"choices": [{}]}\n\n', "server_error"),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_has_failed(end: bytes, code: str) -> None:
    """Nothing follows, so that nobody takes the answer for a whole one."""
    begun = STREAM[: STREAM.index(b'{"a')]
    begun = begun[: begun.rindex(b"data: ")]
    events = events_of(ResponseEvents(ASKED).feed(begun + end + STREAM))
    failed = ResponseFailedEvent.model_validate(events[-1]).response
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == code
    assert [event["type"] for event in events].count("response.failed") == 1


@pytest.mark.parametrize("stream", [engine_stalled().as_event(), b"data: [DONE]\n\n"])
def test_a_stream_that_never_began_has_an_error(stream: bytes) -> None:
    """There is no response that could have failed."""
    [event] = events_of(ResponseEvents(ASKED).feed(stream))
    assert event["type"] == "error"
    assert event["message"]


# The installed client.


def client(translate: Any) -> OpenAI:
    """One whose requests are translated, and then answered."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        document = json.loads(request.content)
        to_chat(document)
        body, kind = translate(document)
        return httpx2.Response(200, content=body, headers={"content-type": kind})

    http = httpx2.Client(transport=httpx2.MockTransport(handle))
    return OpenAI(api_key="none", base_url="http://gateway/v1", http_client=http)


def test_the_installed_client_reads_an_answer() -> None:
    """By its shortest call."""
    whole = answer("hm", "hello")
    made = client(lambda asked: (json.dumps(from_chat(whole, asked)), "application/json"))
    assert made.responses.create(model="m", input="hi").output_text == "hello"


class City(BaseModel):
    name: str


def test_the_installed_client_parses_what_it_asked_for() -> None:
    """A schema goes out with the request, and an object comes back."""
    whole = answer("hm", '{"name": "Köln"}')
    made = client(lambda asked: (json.dumps(from_chat(whole, asked)), "application/json"))
    parsed = made.responses.parse(model="m", input="hi", text_format=City)
    assert parsed.output_parsed == City(name="Köln")


def test_the_installed_client_reads_a_stream() -> None:
    """Its own accumulation gives what was streamed."""
    made = client(lambda asked: (ResponseEvents(asked).feed(STREAM), "text/event-stream"))
    with made.responses.stream(model="m", input="hi") as events:
        texts = [event.delta for event in events if event.type == "response.output_text.delta"]
        response = events.get_final_response()
    assert "".join(texts) == response.output_text == "grüße"
    assert response.output[2].type == "function_call"
    assert response.output[2].arguments == '{"a": 1}'
