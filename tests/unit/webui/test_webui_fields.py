"""Fields of a request: known, without effect, unknown, or beyond a limit."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import completion_create_params as text
from openai.types.chat import completion_create_params as chat

from webui.gateway.errors import ApiError
from webui.gateway.fields import FIELDS, check_fields

CHAT = "/chat/completions"


@pytest.mark.fault(13, "what OpenAI's client can send is taken")
@pytest.mark.parametrize(
    ("path", "parameters"), [(CHAT, chat), ("/completions", text)], ids=["chat", "text"]
)
def test_every_field_of_the_client_is_known(path: str, parameters: Any) -> None:
    """Whatever the installed OpenAI client can send is used or ignored, never refused."""
    kinds = (parameters.CompletionCreateParamsBase, parameters.CompletionCreateParamsStreaming)
    sent = {name for kind in kinds for name in kind.__annotations__}
    assert sent <= FIELDS[path].known


def test_the_engine_knows_what_it_gets() -> None:
    """Nothing is passed on that vLLM would drop without a word."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    for path, request in ((CHAT, ChatCompletionRequest), ("/completions", CompletionRequest)):
        assert FIELDS[path].used <= set(request.model_fields)


@pytest.mark.fault(13, "what OpenAI's client can send is taken")
def test_what_has_no_effect_is_taken_out() -> None:
    """The rest stays, in its order."""
    document = {"model": "one", "store": True, "messages": [], "user": "me"}
    assert check_fields(CHAT, document)
    assert [*document] == ["model", "messages"]
    assert not check_fields(CHAT, document)


@pytest.mark.fault(13, "400 that names the field")
@pytest.mark.fault(14, "400; the engine is asked nothing")
@pytest.mark.parametrize(
    "name",
    [
        "chat_template",
        "chat_template_kwargs",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "documents",
        "priority",
        "cache_salt",
        "kv_transfer_params",
        "vllm_xargs",
        "prompt_embeds",
        "prompt_logprobs",
        "request_id",
        "anything else",
    ],
)
@pytest.mark.parametrize("path", [*FIELDS])
def test_unknown_fields_are_named(path: str, name: str) -> None:
    """Also with a value that means nothing."""
    with pytest.raises(ApiError) as caught:
        check_fields(path, {"model": "one", name: None})
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert caught.value.param == name


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": schema}
    return schema


@pytest.mark.fault(10, "400 that names the field")
@pytest.mark.fault(11, "400 that names the field")
@pytest.mark.fault(15, "400 beyond 16 KB or 32 levels")
@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        ("n", 4, 5),
        ("n", 1, 0),
        ("top_logprobs", 20, 1000),
        ("top_logprobs", 0, -1),
        ("messages", [{}] * 1000, [{}] * 1001),
        ("tools", [{}] * 128, [{}] * 10_000),
        ("logit_bias", {str(i): 1 for i in range(1024)}, {str(i): 1 for i in range(100_000)}),
        ("stop", ["a"] * 16, ["a"] * 17),
        ("response_format", nested(30), nested(33)),
        ("response_format", {"x": "a" * 16_000}, {"x": "a" * 17_000}),
        ("structured_outputs", {"regex": "(a+)+$"}, {"regex": "(a+)+$" * 3000}),
    ],
)
def test_limits(name: str, within: Any, beyond: Any) -> None:
    """The last value that passes, and one that does not."""
    check_fields(CHAT, {name: within})
    with pytest.raises(ApiError) as caught:
        check_fields(CHAT, {name: beyond})
    assert (caught.value.status, caught.value.param) == (400, name)
    assert len(caught.value.body()) < 300


@pytest.mark.parametrize("prompt", ["a", [1] * 5000, ["a"] * 16, [[1, 2]] * 16])
def test_prompts_that_pass(prompt: Any) -> None:
    """One text, one list of tokens, or a few of either."""
    assert not check_fields("/completions", {"prompt": prompt})


@pytest.mark.fault(10, "400 that names the field")
@pytest.mark.parametrize("prompt", [["a"] * 17, [[1]] * 10_000])
def test_too_many_prompts(prompt: Any) -> None:
    """Each would be a request of its own."""
    with pytest.raises(ApiError) as caught:
        check_fields("/completions", {"prompt": prompt})
    assert caught.value.code == "invalid_parameter"


@pytest.mark.fault(10, "400 that names the field")
@pytest.mark.parametrize("value", ["4", [], {}, 1.5, True])
def test_a_number_is_a_number(value: Any) -> None:
    """The engine would make ten thousand of a text."""
    with pytest.raises(ApiError) as caught:
        check_fields(CHAT, {"n": value})
    assert caught.value.message == "'n' must be a whole number between 1 and 4."


def test_wrong_types_are_left_to_the_engine() -> None:
    """It says what it wants instead; nothing here fails on them."""
    document = {"n": None, "messages": "x", "tools": 3, "response_format": "x", "stop": 1}
    assert not check_fields(CHAT, document)


@pytest.mark.fault(15, "400 beyond 16 KB or 32 levels")
def test_parameters_of_a_tool_are_a_grammar_too() -> None:
    """Each may be as large as a schema, not more."""
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(20)}}
    assert not check_fields(CHAT, {"tools": [tool] * 100})
    for parameters in (nested(300), {"description": "a" * 17_000}):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        with pytest.raises(ApiError) as caught:
            check_fields(CHAT, {"tools": [tool], "tool_choice": "required"})
        assert caught.value.param == "tools"


@pytest.mark.fault(11, "400 that names the field")
def test_scores_of_the_prompt_cannot_be_had() -> None:
    """``echo`` with ``logprobs`` would compute them for the whole vocabulary."""
    assert not check_fields("/completions", {"echo": True})
    with pytest.raises(ApiError) as caught:
        check_fields("/completions", {"echo": True, "logprobs": 0})
    assert caught.value.param == "logprobs"
    with pytest.raises(ApiError):
        check_fields(CHAT, {"echo": True})
