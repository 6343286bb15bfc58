"""Anthropic's Messages API: its requests as chat requests, chat answers as its messages.

Nothing here goes to the network. A request becomes a document for ``/chat/completions``, whose
pipeline knows about thinking, images and limits; the answer becomes a message, or its events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from webui.gateway.documents import encoded
from webui.gateway.errors import ApiError, unsupported, wrong
from webui.gateway.translation import (
    ChatEvents,
    Event,
    Fields,
    Kind,
    Talk,
    checked,
    expect,
    function,
    image_part,
    names,
    parts_of,
    put_stream,
    short_id,
    text_part,
    written,
)

FIELDS = Fields(
    names(
        """
        model messages max_tokens system stop_sequences stream temperature top_p top_k thinking
        tools tool_choice output_config
        """
    ),
    names(
        """
        metadata service_tier cache_control inference_geo speed user_profile_id workspace_id
        diagnostics
        """
    ),
    {
        "container": "nothing is executed here",
        "mcp_servers": "connect to them in the client and send their tools as tools",
        "context_management": "leave out of the conversation what it should not hold",
    },
)
STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
ERROR_KINDS: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def to_chat(document: dict[str, Any]) -> dict[str, Any]:
    """A Messages request as a chat request.

    ``thinking`` goes on as it is. ``max_tokens`` counts the answer's tokens alone, as everywhere
    here; for Anthropic it counts the thought too. Thoughts of earlier turns are left out. Images
    in a tool's result become the user's, right after the results.

    Raises:
        ApiError: a field is unknown, wrong, or asks for what cannot be done.
    """
    given = checked(document, FIELDS)
    chat: dict[str, Any] = {"messages": _messages(given)}
    chat["max_tokens"] = expect(given.get("max_tokens"), int, "max_tokens")
    for name in ("model", "temperature", "top_p", "top_k", "thinking"):
        if name in given:
            chat[name] = given[name]
    if "stop_sequences" in given:
        chat["stop"] = expect(given["stop_sequences"], list, "stop_sequences")
    _put_output_config(given, chat)
    _put_tools(given, chat)
    put_stream(given, chat)
    return chat


def to_count(document: dict[str, Any]) -> dict[str, Any]:
    """A request to count a conversation's tokens as one for ``/tokenize``.

    Raises:
        ApiError: as :func:`to_chat`.
    """
    chat = to_chat({"max_tokens": 1, **document})
    return {name: chat[name] for name in ("model", "messages", "tools") if name in chat}


def from_chat(answer: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """A whole chat answer as a message.

    A call whose arguments were cut off is left out; ``stop_reason`` tells of it.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    content: list[dict[str, Any]] = []
    if message.get("reasoning") and shows_thoughts(request):
        content.append(_thinking(message["reasoning"]))
    if message.get("content"):
        content.append({"type": "text", "text": message["content"]})
    calls = [
        _tool_use(call, answer["id"], index) | {"input": arguments}
        for index, call in enumerate(message.get("tool_calls") or ())
        if (arguments := _arguments(call)) is not None
    ]
    return {
        **_head(answer),
        "content": content + calls,
        **_stop(choice, called=bool(calls)),
        "usage": _usage(answer.get("usage")),
    }


def remembered(document: dict[str, Any]) -> dict[str, Any]:
    """What the answer's translation wants of a request; its pictures need not be kept for it."""
    return {"thinking": document.get("thinking")}


def shows_thoughts(request: dict[str, Any]) -> bool:
    """Only those who ask for thinking get blocks of it; others read the first block as the answer.

    Whether the model thinks is another question.
    """
    wish = request.get("thinking")
    if isinstance(wish, dict):
        return wish.get("type") != "disabled" and wish.get("display") != "omitted"
    return wish not in (None, "off")


def error_body(error: ApiError) -> bytes:
    """An error as Anthropic's clients understand it."""
    return encoded(error_document(error))


def error_document(error: ApiError) -> dict[str, Any]:
    """The same, before it is written."""
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = ERROR_KINDS.get(error.status, other)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


# The request.


def _messages(given: dict[str, Any]) -> list[dict[str, Any]]:
    talk = Talk()
    if "system" in given:
        talk.say("system", _texts(given["system"], "system"))
    messages = expect(given.get("messages"), list, "messages")
    role = None
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        role = expect(message, dict, where).get("role")
        _add_message(talk, role, message.get("content"), where)
    talk.show()
    if role in (None, "assistant"):
        raise unsupported("messages", "must end with the user's: no answer is begun for the model")
    return talk.messages


def _texts(content: Any, where: str) -> list[dict[str, Any]]:
    """One text of a system prompt's blocks."""
    texts = [text_part(block, place)["text"] for place, block in parts_of(content, where)]
    return [{"type": "text", "text": "\n".join(texts)}] if texts else []


def _add_message(talk: Talk, role: Any, content: Any, where: str) -> None:
    if role == "system":
        talk.say(role, _texts(content, f"{where}.content"))
    elif role == "user":
        _add_user(talk, content, f"{where}.content")
    elif role == "assistant":
        _add_assistant(talk, content, f"{where}.content")
    else:
        raise wrong(f"{where}.role", "must be one of: user, assistant, system")


def _add_user(talk: Talk, content: Any, where: str) -> None:
    parts = []
    for place, block in parts_of(content, where):
        if block.get("type") == "tool_result":
            call_id = expect(block.get("tool_use_id"), str, f"{place}.tool_use_id")
            talk.result(call_id, _result(block, place))
        else:
            parts.append(_part(block, place))
    talk.say("user", parts)


def _add_assistant(talk: Talk, content: Any, where: str) -> None:
    parts, calls = [], []
    for place, block in parts_of(content, where):
        kind = block.get("type")
        if kind == "tool_use":
            name, call_id = (expect(block.get(n), str, f"{place}.{n}") for n in ("name", "id"))
            arguments = expect(block.get("input"), dict, f"{place}.input")
            calls.append((name, call_id, encoded(arguments).decode()))
        elif kind not in ("thinking", "redacted_thinking"):
            parts.append(_part(block, place))
    talk.say("assistant", parts)
    for call in calls:
        talk.call(*call)


def _result(block: dict[str, Any], where: str) -> list[dict[str, Any]]:
    content = parts_of(block.get("content") or "", f"{where}.content")
    parts = [_part(part, place) for place, part in content]
    # The chat route has no mark for it.
    return [{"type": "text", "text": "Error:"}, *parts] if block.get("is_error") else parts


def _part(block: dict[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return text_part(block, where)
    if kind != "image":
        shown = str(kind)[:60]
        raise unsupported(where, f"is of type {shown!r}; send texts, images and results of tools")
    source = expect(block.get("source"), dict, f"{where}.source")
    if source.get("type") == "url":
        return image_part(source.get("url"), f"{where}.source.url")
    if source.get("type") != "base64":
        raise unsupported(f"{where}.source.type", "must be 'base64' or 'url'; files are not kept")
    media_type, data = (
        expect(source.get(name), str, f"{where}.source.{name}") for name in ("media_type", "data")
    )
    return image_part(f"data:{media_type};base64,{data}", where)


def _put_output_config(given: dict[str, Any], chat: dict[str, Any]) -> None:
    wish = expect(given.get("output_config", {}), dict, "output_config")
    effort, form = wish.get("effort"), wish.get("format")
    if effort is not None:
        chat["reasoning_effort"] = effort
        thinking = chat.get("thinking")
        if isinstance(thinking, dict) and thinking.get("type") == "adaptive":
            del chat["thinking"]  # it leaves the amount to the effort
    if form is not None:
        schema = expect(form, dict, "output_config.format").get("schema")
        named = {"name": "answer", "schema": expect(schema, dict, "output_config.format.schema")}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}


def _put_tools(given: dict[str, Any], chat: dict[str, Any]) -> None:
    tools = expect(given.get("tools", []), list, "tools")
    if tools:
        chat["tools"] = [_tool(tool, f"tools.{index}") for index, tool in enumerate(tools)]
    choice = expect(given.get("tool_choice", {}), dict, "tool_choice")
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    kind = choice.get("type", "auto")
    if kind == "tool":
        name = expect(choice.get("name"), str, "tool_choice.name")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind == "any":
        chat["tool_choice"] = "required"
    elif kind not in ("auto", "none"):
        raise wrong("tool_choice.type", "must be one of: auto, any, tool, none")
    elif tools:  # the engine refuses a choice of nothing
        chat["tool_choice"] = kind


def _tool(tool: Any, where: str) -> dict[str, Any]:
    kind = expect(tool, dict, where).get("type")
    if kind not in (None, "custom"):
        shown = str(kind)[:60]
        raise unsupported(where, f"is {shown!r}, which is not offered here; send your own tools")
    expect(tool.get("input_schema"), dict, f"{where}.input_schema")
    return function(tool, where, "input_schema")


# The answer.


def _head(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg_{short_id(document)}",
        "type": "message",
        "role": "assistant",
        "model": document["model"],
    }


def _thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": ""}


def _tool_use(call: Mapping[str, Any], answer_id: str, index: int) -> dict[str, Any]:
    own = call.get("id") or f"{answer_id.removeprefix('chatcmpl-')}-{index}"
    own = own.removeprefix("chatcmpl-tool-").removeprefix("call_")
    name = call["function"]["name"]
    return {"type": "tool_use", "id": f"toolu_{own}", "name": name, "input": {}}


def _arguments(call: dict[str, Any]) -> dict[str, Any] | None:
    try:
        arguments = orjson.loads(call["function"].get("arguments") or "{}")
    except orjson.JSONDecodeError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _stop(choice: dict[str, Any], *, called: bool) -> dict[str, Any]:
    reason, by = choice.get("finish_reason"), choice.get("stop_reason")
    if called and reason == "stop":  # so the engine, where the tool was chosen by name
        reason = "tool_calls"
    if reason == "stop" and isinstance(by, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": by}
    return {"stop_reason": STOP_REASONS.get(str(reason), "end_turn"), "stop_sequence": None}


def _usage(used: dict[str, Any] | None) -> dict[str, Any]:
    """In tokens. Those read from a cache count apart."""
    used = used or {}
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": used.get("prompt_tokens", 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": used.get("completion_tokens", 0),
    }


class MessageEvents(ChatEvents):
    """A chat stream as the events of a message.

    How many tokens the prompt has is known at the end only: ``message_start`` says 0, and
    ``message_delta`` has the number.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__()
        self.thoughts = shows_thoughts(request)
        self._index = -1
        self._id = ""
        self._called = False
        self._last: dict[str, Any] = {}

    def keep_alive(self, _comment: bytes) -> bytes:
        return written({"type": "ping"})

    def start(self, document: dict[str, Any]) -> Iterator[Event]:
        self._id = str(document.get("id", ""))
        yield {
            "type": "message_start",
            "message": {
                **_head(document),
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": _usage(None),
            },
        }

    def open(self, kind: Kind, call: Mapping[str, Any]) -> Iterator[Event]:
        self._index += 1
        if kind == "call":
            self._called = True
            block = _tool_use(call, self._id, self._index)
        else:
            block = _thinking("") if kind == "reasoning" else {"type": "text", "text": ""}
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def add(self, kind: Kind, text: str) -> Iterator[Event]:
        deltas = {
            "reasoning": {"type": "thinking_delta", "thinking": text},
            "text": {"type": "text_delta", "text": text},
            "call": {"type": "input_json_delta", "partial_json": text},
        }
        yield {"type": "content_block_delta", "index": self._index, "delta": deltas[kind]}

    def close(self, _kind: Kind) -> Iterator[Event]:
        yield {"type": "content_block_stop", "index": self._index}

    def finish(self, choice: dict[str, Any]) -> None:
        self._last = choice

    def end(self) -> Iterator[Event]:
        stop = _stop(self._last, called=self._called)
        yield {"type": "message_delta", "delta": stop, "usage": _usage(self.usage)}
        yield {"type": "message_stop"}

    def fail(self, error: ApiError) -> Iterator[Event]:
        yield error_document(error)
