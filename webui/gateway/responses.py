"""OpenAI's Responses API: its requests as chat requests, chat answers as its responses.

Nothing here goes to the network, and nothing is kept: a request holds its whole conversation. It
becomes a document for ``/chat/completions``; the answer becomes a response, or its events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from webui.gateway import logprobs
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
)

_SEND_ALL = "nothing is stored here, so send the whole conversation as input"
FIELDS = Fields(
    names(
        """
        include input instructions max_output_tokens model parallel_tool_calls reasoning stream
        temperature text tool_choice tools top_logprobs top_p
        """
    ),
    names(
        """
        access_programs background_options context_management image max_tool_calls metadata
        moderation prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
        service_tier store stream_options truncation user
        """
    ),
    {
        "previous_response_id": _SEND_ALL,
        "conversation": _SEND_ALL,
        "background": "wait for the answer, or set stream",
        "prompt": "no prompts are stored here, so send its text as instructions or input",
    },
)
# A developer's words have no place of their own in the model's template.
ROLES: Mapping[str, str] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
# Of what ends an answer before its end.
INCOMPLETE: Mapping[str, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
# Of all that can be included in a response, the one thing that there is here.
LOGPROBS = "message.output_text.logprobs"
PREFIXES: Mapping[Kind, str] = {"reasoning": "rs", "text": "msg", "call": "fc"}
# A response repeats these, and has these values where a request has none.
ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


def to_chat(document: dict[str, Any]) -> dict[str, Any]:
    """A Responses request as a chat request.

    ``max_output_tokens`` counts the answer's tokens alone; thinking has its own budget, which
    ``reasoning.effort`` chooses. Reasoning items of earlier turns are left out. Images in a
    function's output become the user's, right after the outputs.

    Raises:
        ApiError: a field is unknown, wrong, or asks for what cannot be done.
    """
    given = checked(document, FIELDS)
    chat: dict[str, Any] = {"messages": _messages(given)}
    for name in ("model", "temperature", "top_p", "parallel_tool_calls"):
        if name in given:
            chat[name] = given[name]
    if "max_output_tokens" in given:
        chat["max_tokens"] = expect(given["max_output_tokens"], int, "max_output_tokens")
    effort = expect(given.get("reasoning", {}), dict, "reasoning").get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    _put_format(given, chat)
    _put_tools(given, chat)
    _put_logprobs(given, chat)
    put_stream(given, chat)
    return chat


def from_chat(answer: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """A whole chat answer as a response."""
    choice = answer["choices"][0]
    message = choice["message"]
    pieces: list[tuple[Kind, str, Mapping[str, Any]]] = []
    if message.get("reasoning"):
        pieces.append(("reasoning", message["reasoning"], {}))
    if message.get("content"):
        pieces.append(("text", message["content"], {}))
    for call in message.get("tool_calls") or ():
        pieces.append(("call", call["function"].get("arguments") or "", call))
    end = _end(choice)
    response = _response(answer, request)
    for kind, text, call in pieces:
        index = len(response["output"])
        last = index == len(pieces) - 1
        item = _item(kind, short_id(answer), index, call)
        filled = _filled(item, text, end["status"] if last else "completed")
        if kind == "text":
            filled["content"][0]["logprobs"] = logprobs.of_text(logprobs.entries_of(choice), text)
        response["output"].append(filled)
    return response | end | {"usage": _usage(answer.get("usage"))}


def remembered(document: dict[str, Any]) -> dict[str, Any]:
    """What the answer's translation wants of a request; its pictures need not be kept for it."""
    return {name: value for name, value in document.items() if name in ECHOED}


# The request.


def _messages(given: dict[str, Any]) -> list[dict[str, Any]]:
    talk = Talk()
    if "instructions" in given:
        text = expect(given["instructions"], str, "instructions")
        talk.say("system", [{"type": "text", "text": text}])
    items = given.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    elif not isinstance(items, list):
        raise wrong("input", "must be a text or a list")
    for index, item in enumerate(items):
        place = f"input.{index}"
        _add_item(talk, expect(item, dict, place), place)
    talk.show()
    return talk.messages


def _add_item(talk: Talk, item: dict[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = ROLES.get(str(item.get("role")))
        if role is None:
            raise wrong(f"{where}.role", f"must be one of: {', '.join(ROLES)}")
        talk.say(role, _parts(item.get("content"), f"{where}.content"))
    elif kind == "function_call":
        name, call_id, arguments = (
            expect(item.get(field), str, f"{where}.{field}")
            for field in ("name", "call_id", "arguments")
        )
        talk.call(name, call_id, arguments)
    elif kind == "function_call_output":
        call_id = expect(item.get("call_id"), str, f"{where}.call_id")
        talk.result(call_id, _parts(item.get("output"), f"{where}.output"))
    elif kind == "item_reference":
        raise unsupported(where, f"refers to an item: {_SEND_ALL}")
    elif kind != "reasoning":
        shown = str(kind)[:60]
        message = f"is of type {shown!r}; send messages, function calls and their outputs"
        raise unsupported(where, message)


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    return [_part(part, place) for place, part in parts_of(content, where)]


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return text_part(part, where)
    if kind == "refusal":
        return {"type": "text", "text": expect(part.get("refusal"), str, f"{where}.refusal")}
    if kind != "input_image":
        shown = str(kind)[:60]
        raise unsupported(where, f"is of type {shown!r}; send texts and images")
    if part.get("file_id") and not part.get("image_url"):
        raise unsupported(f"{where}.file_id", "names a file, and none are kept; send image_url")
    return image_part(part.get("image_url"), f"{where}.image_url")


def _put_format(given: dict[str, Any], chat: dict[str, Any]) -> None:
    form = expect(given.get("text", {}), dict, "text").get("format")
    if form is None:
        return
    kind = expect(form, dict, "text.format").get("type")
    if kind == "json_schema":
        wanted = ("name", "description", "schema", "strict")
        named = {name: form[name] for name in wanted if name in form}
        chat["response_format"] = {"type": kind, "json_schema": named}
    elif kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind != "text":
        raise wrong("text.format.type", "must be one of: text, json_object, json_schema")


def _put_tools(given: dict[str, Any], chat: dict[str, Any]) -> None:
    tools = expect(given.get("tools", []), list, "tools")
    if tools:
        chat["tools"] = [_tool(tool, f"tools.{index}") for index, tool in enumerate(tools)]
    choice = given.get("tool_choice", "auto")
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = expect(choice.get("name"), str, "tool_choice.name")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = expect(choice.get("tools"), list, "tool_choice.tools")
        named = [{"function": tool} for tool in allowed]
        chat["tool_choice"] = {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice.get("mode"), "tools": named},
        }
    elif choice not in ("none", "auto", "required"):
        raise unsupported(
            "tool_choice", "must be none, auto, required, a function or allowed_tools"
        )
    elif tools or choice == "required":  # the engine refuses other choices of nothing
        chat["tool_choice"] = choice


def _put_logprobs(given: dict[str, Any], chat: dict[str, Any]) -> None:
    many = given.get("top_logprobs", 0)  # its limits are those of the chat route's
    if many or LOGPROBS in expect(given.get("include", []), list, "include"):
        chat |= {"logprobs": True, "top_logprobs": many}


def _tool(tool: Any, where: str) -> dict[str, Any]:
    kind = expect(tool, dict, where).get("type")
    if kind != "function":
        shown = str(kind)[:60]
        raise unsupported(where, f"is {shown!r}, which is not offered here; send functions")
    return function(tool, where, "parameters")


# The answer.


def _response(document: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Of an answer that has just begun."""
    given = {name: request[name] for name in ECHOED if request.get(name) is not None}
    given["text"] = {**ECHOED["text"], **given.get("text", {})}
    return {
        "id": f"resp_{short_id(document)}",
        "object": "response",
        "created_at": document.get("created", 0),
        "model": document["model"],
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "usage": None,
        **ECHOED,
        **given,
    }


def _item(kind: Kind, answer_id: str, index: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """An item of an answer, without its text."""
    own = f"{PREFIXES[kind]}_{answer_id}_{index}"
    item: dict[str, Any] = {"id": own, "status": "in_progress"}
    if kind == "reasoning":
        return item | {"type": "reasoning", "summary": [], "content": []}
    if kind == "text":
        return item | {"type": "message", "role": "assistant", "content": []}
    call_id = call.get("id") or f"{answer_id}_{index}"
    return item | {
        "type": "function_call",
        "call_id": f"call_{call_id.removeprefix('chatcmpl-tool-').removeprefix('call_')}",
        "name": call["function"]["name"],
        "arguments": "",
    }


def _part_of(item: dict[str, Any], text: str) -> dict[str, Any]:
    """The one part of a message or of reasoning."""
    if item["type"] == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _filled(item: dict[str, Any], text: str, status: str) -> dict[str, Any]:
    whole = {"arguments": text} if "arguments" in item else {"content": [_part_of(item, text)]}
    return {**item, **whole, "status": status}


def _end(choice: dict[str, Any]) -> dict[str, Any]:
    reason = INCOMPLETE.get(str(choice.get("finish_reason")))
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
    }


def _usage(used: dict[str, Any] | None) -> dict[str, Any] | None:
    """In tokens."""
    if not used:
        return None
    read = used.get("prompt_tokens_details") or {}
    written = used.get("completion_tokens_details") or {}
    cached = read.get("cached_tokens") or 0
    return {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": used["total_tokens"],
    }


class ResponseEvents(ChatEvents):
    """A chat stream as the events of a response.

    They end with ``response.completed``, ``.incomplete`` or ``.failed``; a stream that fails
    before its first event has only ``error``.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__()
        self._request = request
        self._id = ""
        self._response: dict[str, Any] = {}
        self._item: dict[str, Any] = {}
        self._texts: list[str] = []
        self._entries: list[dict[str, Any]] = []  # of tokens whose text has not come yet
        self._scores: list[dict[str, Any]] = []
        self._end = _end({})
        self._number = -1

    def keep_alive(self, comment: bytes) -> bytes:
        return comment + b"\n\n"

    def _of_choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        self._entries += logprobs.entries_of(choice)
        yield from super()._of_choice(choice)
        if choice["delta"].get("reasoning") and not choice["delta"].get("content"):
            self._entries.clear()

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}

    def _of_item(self, kind: str, **fields: Any) -> Event:
        """An event of the open item; all but calls have one part, the first."""
        place: dict[str, Any] = {
            "item_id": self._item["id"],
            "output_index": len(self._response["output"]),
        }
        if "arguments" not in self._item:
            place["content_index"] = 0
        return self._event(kind, **place, **fields)

    def start(self, document: dict[str, Any]) -> Iterator[Event]:
        self._id = short_id(document)
        self._response = _response(document, self._request)
        yield self._event("response.created", response=self._response)
        yield self._event("response.in_progress", response=self._response)

    def open(self, kind: Kind, call: Mapping[str, Any]) -> Iterator[Event]:
        index = len(self._response["output"])
        self._item, self._texts, self._scores = _item(kind, self._id, index, call), [], []
        yield self._event("response.output_item.added", output_index=index, item=self._item)
        if kind != "call":
            yield self._of_item("response.content_part.added", part=_part_of(self._item, ""))

    def add(self, kind: Kind, text: str) -> Iterator[Event]:
        self._texts.append(text)
        if kind == "reasoning":
            yield self._of_item("response.reasoning_text.delta", delta=text)
        elif kind == "text":
            place = logprobs.place_of(self._entries, text)
            scores = logprobs.as_responses(self._entries[place])
            del self._entries[: place.stop]
            self._scores += scores
            yield self._of_item("response.output_text.delta", delta=text, logprobs=scores)
        else:
            yield self._of_item("response.function_call_arguments.delta", delta=text)

    def close(self, kind: Kind) -> Iterator[Event]:
        text = "".join(self._texts)
        item = _filled(self._item, text, self._end["status"])
        if kind == "reasoning":
            yield self._of_item("response.reasoning_text.done", text=text)
        elif kind == "text":
            item["content"][0]["logprobs"] = self._scores
            yield self._of_item("response.output_text.done", text=text, logprobs=self._scores)
        else:
            done = {"name": item["name"], "arguments": text}
            yield self._of_item("response.function_call_arguments.done", **done)
        if kind != "call":
            yield self._of_item("response.content_part.done", part=item["content"][0])
        index = len(self._response["output"])
        yield self._event("response.output_item.done", output_index=index, item=item)
        self._response["output"].append(item)

    def finish(self, choice: dict[str, Any]) -> None:
        self._end = _end(choice)

    def end(self) -> Iterator[Event]:
        response = self._response | self._end | {"usage": _usage(self.usage)}
        yield self._event(f"response.{response['status']}", response=response)

    def fail(self, error: ApiError) -> Iterator[Event]:
        if not self._response:
            told = {"code": error.code, "message": error.message, "param": error.param}
            yield self._event("error", **told)
            return
        # Only some codes may stand here; what it really is stands beside.
        code = "invalid_prompt" if error.status < 500 else "server_error"
        told = {"code": code, "message": error.message, "type": error.kind, "param": error.param}
        response = self._response | {"status": "failed", "error": told}
        yield self._event("response.failed", response=response)
