"""The Responses and the Messages API over a real socket, with the clients that people use."""

from __future__ import annotations

import base64
import json
from typing import Any

import anthropic
import openai
import pytest
from deployments import Webui
from integration.test_gateway import request
from integration.test_image_names import fresh, urls_seen

SAID = "1 messages, 0 images, last: hello. 1 2 3 4 5 6 7"
HELLO: Any = [{"role": "user", "content": "hello"}]


def responses(webui: Webui) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{webui.url}/api/v1", api_key="none", max_retries=0)


def messages(webui: Webui) -> anthropic.Anthropic:
    """Its base URL has no version."""
    return anthropic.Anthropic(base_url=f"{webui.url}/api", api_key="none", max_retries=0)


def test_a_response(webui: Webui) -> None:
    """Text, thought and what was used, whole and streamed."""
    with responses(webui) as api:
        whole = api.responses.create(model="one", input="hello")
        assert whole.output_text == SAID
        assert [item.type for item in whole.output] == ["reasoning", "message"]
        assert whole.usage is not None
        assert whole.usage.output_tokens == 11
        events = list(api.responses.create(model="one", input="hello", stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == SAID
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == 11


def test_a_message(webui: Webui) -> None:
    """The same in Anthropic's form; a thought is shown to who asks for one."""
    with messages(webui) as api:
        whole = api.messages.create(model="one", max_tokens=50, messages=HELLO)
        assert [block.type for block in whole.content] == ["text"]
        assert whole.content[0].text == SAID  # type: ignore[union-attr]
        assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 11)
        wish: Any = {"type": "enabled", "budget_tokens": 2000}
        with api.messages.stream(
            model="one", max_tokens=50, messages=HELLO, thinking=wish
        ) as stream:
            last = stream.get_final_message()
    assert [block.type for block in last.content] == ["thinking", "text"]
    assert webui.engine.seen()[-1]["body"]["thinking_token_budget"] == 2000


def test_tokens_of_a_message_can_be_counted(webui: Webui) -> None:
    """System prompt, turns and pictures; the name may choose a mode. Nothing is generated."""
    content: Any = [
        {"type": "image", "source": {"type": "url", "url": fresh()}},
        {"type": "text", "text": "What is it?"},
    ]
    with messages(webui) as api:
        turns: Any = [{"role": "user", "content": content}]
        count = api.messages.count_tokens(model="one:fast", system="Be brief.", messages=turns)
        assert count.input_tokens == 5 + 171
        with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.role"):
            api.messages.count_tokens(model="one", messages=[{"role": "x", "content": "a"}])  # type: ignore[typeddict-item]
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            api.messages.count_tokens(model="nobody", messages=HELLO)
    assert webui.engine.seen() == []


def test_some_of_the_tools_may_be_allowed(webui: Webui) -> None:
    """In the chat's form and in that of responses; the engine gets these alone."""
    functions = [{"name": name, "parameters": {"type": "object"}} for name in ("f", "g")]
    chat_tools: Any = [{"type": "function", "function": function} for function in functions]
    tools: Any = [{"type": "function", "strict": None, **function} for function in functions]
    allowed: Any = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    other: Any = {"type": "allowed_tools", "mode": "auto"}
    other["tools"] = [{"type": "function", "name": "g"}]
    with responses(webui) as api:
        api.chat.completions.create(
            model="one", messages=[HELLO[0]], tools=chat_tools, tool_choice=choice
        )
        api.responses.create(model="one", input="hello", tools=tools, tool_choice=other)
    for seen in webui.engine.seen():
        body = seen["body"]
        assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
        assert body["tool_choice"] == "auto"


def test_a_limit_is_a_limit_in_both(webui: Webui) -> None:
    """Of the answer; the thought before it does not count."""
    webui.engine.script(thought=100, words=50)
    with responses(webui) as api:
        cut = api.responses.create(model="one", input="hello", max_output_tokens=3)
    assert (cut.output_text, cut.status) == ("1 messages, 0", "incomplete")
    with messages(webui) as other:
        whole = other.messages.create(model="one", max_tokens=3, messages=HELLO)
    assert whole.stop_reason == "max_tokens"


def test_pictures_in_both(webui: Webui) -> None:
    """They go the same way as all others: looked at here, and named for the engine."""
    one, other = fresh(), fresh()
    content: Any = [
        {"type": "input_image", "image_url": one, "detail": "auto"},
        {"type": "input_text", "text": "What is it?"},
    ]
    with responses(webui) as api:
        api.responses.create(model="one", input=[{"role": "user", "content": content}])
    assert urls_seen(webui) == [one]
    data = other.partition(",")[2]
    source = {"type": "base64", "media_type": "image/png", "data": data}
    blocks: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    with messages(webui) as client:
        ask: Any = [{"role": "user", "content": blocks}]
        client.messages.create(model="one", max_tokens=50, messages=ask)
        assert urls_seen(webui) == [other]
        source["data"] = base64.b64encode(b"no picture, but long enough for one").decode()
        with pytest.raises(anthropic.BadRequestError, match="Image 1"):
            client.messages.create(model="one", max_tokens=50, messages=ask)


@pytest.mark.parametrize("stream", [False, True])
def test_failures_in_both(webui: Webui, stream: bool) -> None:
    """Each in its own API's shape, also inside a stream."""
    webui.engine.script(status=400)
    with responses(webui) as api, pytest.raises(openai.BadRequestError, match="as the script"):
        api.responses.create(model="one", input="hello", stream=stream)
    with messages(webui) as other, pytest.raises(anthropic.BadRequestError, match="as the script"):
        other.messages.create(model="one", max_tokens=5, messages=HELLO, stream=stream)
    webui.engine.script(break_after=2)
    if stream:
        with responses(webui) as api:
            *_, last = api.responses.create(model="one", input="hello", stream=True)
        assert last.type == "response.failed"
    with messages(webui) as other, pytest.raises(anthropic.APIStatusError, match="ended while"):
        list(other.messages.create(model="one", max_tokens=50, messages=HELLO, stream=stream))


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        ("/v1/messages", {"model": "one", "messages": HELLO}, "max_tokens"),
        ("/v1/messages", {"model": "one", "max_tokens": 5, "messages": HELLO, "foo": 1}, "foo"),
        ("/v1/messages", {"model": "x" * 2_100_000}, "2 MB"),
        ("/v1/responses", {"model": "one", "input": "a", "background": True}, "background"),
    ],
)
def test_refusals_name_the_field(webui: Webui, path: str, body: dict[str, Any], shape: str) -> None:
    """Before anything reaches the engine."""
    status, _, answer = request(webui, "POST", path, json.dumps(body).encode())
    assert status in {400, 413}
    assert shape in answer["error"]["message"]
    assert ("type" in answer) == path.endswith("messages")
    assert webui.engine.seen() == []
