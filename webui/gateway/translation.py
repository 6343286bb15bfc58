"""What the translations of other APIs share: checks of requests, and the two directions of a talk.

A translated request becomes a document for ``/chat/completions``; a chat stream becomes the other
API's events. Nothing here goes to the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from webui.gateway.errors import ApiError, engine_lost, unsupported, wrong

_T = TypeVar("_T")
Event = dict[str, Any]
Kind = Literal["reasoning", "text", "call"]

# Said by a tool whose result is nothing but pictures.
PICTURES_FOLLOW = "The result is the image that follows."
_KINDS: Mapping[type, str] = {
    str: "a text",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a whole number",
}
# Of errors inside a stream, which have no status.
STATUSES: Mapping[str, int] = {"invalid_request_error": 400, "service_unavailable_error": 503}


class Fields(NamedTuple):
    """``used`` ones have their effect, ``ignored`` ones are taken and have none, ``refused`` ones
    may only be empty; their texts say what to do instead."""

    used: frozenset[str]
    ignored: frozenset[str]
    refused: Mapping[str, str]


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def checked(document: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """The fields that have an effect and a value.

    Raises:
        ApiError: a field is unknown, or cannot have its effect here.
    """
    unknown = document.keys() - fields.used - fields.ignored - fields.refused.keys()
    if unknown:
        raise unsupported(min(unknown)[:100], "is not supported here")
    for name, instead in fields.refused.items():
        if document.get(name):
            raise unsupported(name, f"is not supported here: {instead}")
    return {
        name: value for name, value in document.items() if name in fields.used and value is not None
    }


def expect(value: Any, kind: type[_T], where: str) -> _T:
    """The value, which must be of this kind.

    Raises:
        ApiError: it is not; ``where`` names its place, as in ``messages.0.content``.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong(where, f"must be {_KINDS[kind]}")
    return value


def parts_of(content: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts of a content, each with its place; a text is one part."""
    if isinstance(content, str):
        yield where, {"type": "text", "text": content}
    elif isinstance(content, list):
        for index, part in enumerate(content):
            place = f"{where}.{index}"
            yield place, expect(part, dict, place)
    else:
        raise wrong(where, "must be a text or a list")


def text_part(part: dict[str, Any], where: str) -> dict[str, Any]:
    return {"type": "text", "text": expect(part.get("text"), str, f"{where}.text")}


def image_part(url: Any, where: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": expect(url, str, where)}}


def function(tool: dict[str, Any], where: str, schema: str) -> dict[str, Any]:
    """A tool that the client runs; ``schema`` names the field with its parameters."""
    made: dict[str, Any] = {"name": expect(tool.get("name"), str, f"{where}.name")}
    wanted = (("description", "description", str), (schema, "parameters", dict))
    for name, chat_name, kind in (*wanted, ("strict", "strict", bool)):
        if tool.get(name) is not None:
            made[chat_name] = expect(tool[name], kind, f"{where}.{name}")
    return {"type": "function", "function": made}


def put_stream(given: dict[str, Any], chat: dict[str, Any]) -> None:
    """Both APIs end a stream with what was used; the chat route only tells on request."""
    if expect(given.get("stream", False), bool, "stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}


class Talk:
    """A conversation for the chat route, said in the order in which the other API has it.

    Templates know texts as results of tools, and no images. So these come after the results, from
    the user.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._shown: list[dict[str, Any]] = []

    def say(self, role: str, parts: list[dict[str, Any]]) -> None:
        if role == "user":
            parts, self._shown = self._shown + parts, []
        self.show()
        if parts:
            text_only = len(parts) == 1 and parts[0]["type"] == "text"
            content = parts[0]["text"] if text_only else parts
            self.messages.append({"role": role, "content": content})

    def call(self, name: str, call_id: str, arguments: str) -> None:
        """Of the assistant, together with what it said just before."""
        self.show()
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        made = {"name": name, "arguments": arguments}
        calls = self.messages[-1].setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": made})

    def result(self, call_id: str, parts: list[dict[str, Any]]) -> None:
        texts = [part["text"] for part in parts if part["type"] == "text"]
        images = [part for part in parts if part["type"] != "text"]
        self._shown += images
        content = "\n".join(texts) or (PICTURES_FOLLOW if images else "")
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def show(self) -> None:
        """The images of the results so far, where no words of the user's come with them."""
        if self._shown:
            self.messages.append({"role": "user", "content": self._shown})
            self._shown = []


def short_id(document: dict[str, Any]) -> str:
    """What is an answer's own of its id."""
    return str(document.get("id", "")).removeprefix("chatcmpl-")


def failure(document: dict[str, Any], status: int | None = None) -> ApiError:
    """The error in an answer of the chat route (with its status) or in an event of its stream."""
    error = document["error"]
    code, kind = error.get("code"), str(error.get("type"))
    if status is None:
        status = code if isinstance(code, int) else STATUSES.get(kind, 502)
    return ApiError(status, str(error["message"]), str(code), kind, error.get("param"))


class ChatEvents(ABC):
    """Turns a chat stream into another API's events, whatever the pieces in which it comes.

    Thoughts, text and each call follow one another; no two of them are open at the same time.
    """

    def __init__(self) -> None:
        self.thoughts = True
        self.usage: dict[str, Any] | None = None
        self._rest = b""
        self._started = self._ended = False
        self._open: tuple[Kind, int] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """The events that are whole by now, in the other API's words."""
        *events, self._rest = (self._rest + chunk).split(b"\n\n")
        return b"".join([self._translated(event) for event in events if event])

    def _translated(self, event: bytes) -> bytes:
        if self._ended:
            return b""
        if event.startswith(b":"):
            return self.keep_alive(event)
        try:
            return b"".join([written(made) for made in self._events(event)])
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            return self._failed(engine_lost())

    def _failed(self, error: ApiError) -> bytes:
        self._ended = True
        return b"".join([written(made) for made in self.fail(error)])

    def _events(self, event: bytes) -> Iterator[Event]:
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            self._ended = True
            yield from self._close()
            yield from self.end() if self._started else self.fail(engine_lost())
            return
        document = orjson.loads(data)
        if "error" in document:
            self._ended = True
            yield from self.fail(failure(document))
            return
        if not self._started:
            self._started = True
            yield from self.start(document)
        self.usage = document.get("usage") or self.usage
        for choice in document["choices"][:1]:
            yield from self._of_choice(choice)

    def _of_choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        delta = choice["delta"]
        if delta.get("reasoning") and self.thoughts:
            yield from self._piece(("reasoning", 0), delta["reasoning"])
        if delta.get("content"):
            yield from self._piece(("text", 0), delta["content"])
        for call in delta.get("tool_calls") or ():
            arguments = (call.get("function") or {}).get("arguments") or ""
            yield from self._piece(("call", call["index"]), arguments, call)
        if choice.get("finish_reason"):
            self.finish(choice)
            yield from self._close()

    def _piece(
        self, key: tuple[Kind, int], text: str, call: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        if key != self._open:
            yield from self._close()
            self._open = key
            yield from self.open(key[0], call or {})
        if text:
            yield from self.add(key[0], text)

    def _close(self) -> Iterator[Event]:
        if self._open:
            (kind, _), self._open = self._open, None
            yield from self.close(kind)

    @abstractmethod
    def keep_alive(self, comment: bytes) -> bytes: ...

    @abstractmethod
    def start(self, document: dict[str, Any]) -> Iterator[Event]: ...

    @abstractmethod
    def open(self, kind: Kind, call: Mapping[str, Any]) -> Iterator[Event]: ...

    @abstractmethod
    def add(self, kind: Kind, text: str) -> Iterator[Event]: ...

    @abstractmethod
    def close(self, kind: Kind) -> Iterator[Event]: ...

    @abstractmethod
    def finish(self, choice: dict[str, Any]) -> None:
        """Note why the answer ends; what is open is closed next."""

    @abstractmethod
    def end(self) -> Iterator[Event]: ...

    @abstractmethod
    def fail(self, error: ApiError) -> Iterator[Event]: ...


def written(event: Event) -> bytes:
    kind: str = event["type"]
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
