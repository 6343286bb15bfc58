"""What clients get of the engine's chat answers: thoughts under both names, no stray tags, and no
more tokens than were asked for.

The engine calls a thought ``reasoning``; many clients still read ``reasoning_content``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import orjson

from webui.gateway.errors import engine_lost, is_lost

# The parser of tool calls leaves these in the text.
# An engine that is being stopped gives this, and no text, to whoever comes now.
ABORTED = "abort"
STRAY_TAGS = ("<tool_calls>", "</tool_calls>")
_STRAY = re.compile("|".join(map(re.escape, STRAY_TAGS)))
_THOUGHT = re.compile(rb'"reasoning":("(?:[^"\\]|\\.)*")')
_TOKEN_IDS = re.compile(rb',"token_ids":\[([0-9,]+)\]')
_DONE = b"data: [DONE]\n\n"
_END = b"\n\n"


def with_both_names(message: dict[str, Any]) -> None:
    """Give a message or a delta its thought under the older name too."""
    if "reasoning" in message:
        message["reasoning_content"] = message["reasoning"]


def without_stray_tags(text: str) -> str:
    return _STRAY.sub("", text)


def shape(choice: dict[str, Any], *, tools: bool, thoughts: bool) -> None:
    """Change a whole answer in place to what clients get."""
    message = choice["message"]
    if not thoughts:
        message.pop("reasoning", None)
    with_both_names(message)
    if tools and isinstance(message.get("content"), str):
        message["content"] = without_stray_tags(message["content"])


def is_unanswered(choice: dict[str, Any]) -> bool:
    """Whether a whole answer is a thought and no more."""
    message = choice["message"]
    said = message.get("content") or message.get("tool_calls")
    return bool(message.get("reasoning")) and not said


class StrayTags:
    """:func:`without_stray_tags` for text that comes in pieces: holds back what may become one."""

    def __init__(self) -> None:
        self._held = ""

    def rest(self, piece: str, *, last: bool) -> str:
        """What of the text so far may go out."""
        text = without_stray_tags(self._held + piece)
        end = len(text) if last else _start_of_a_tag(text)
        self._held = text[end:]
        return text[:end]


def _start_of_a_tag(text: str) -> int:
    """Where an unfinished tag begins at the end of a text; its length if there is none."""
    start = text.rfind("<")
    unfinished = start >= 0 and any(tag.startswith(text[start:]) for tag in STRAY_TAGS)
    return start if unfinished else len(text)


@dataclass
class _Choice:
    """How far one of a stream's answers is; ``tokens`` are those after its thought."""

    tokens: int = 0
    thought: bool = False
    answering: bool = False
    answered: bool = False
    ended: bool = False
    cut: bool = False
    tags: StrayTags = field(default_factory=StrayTags)


class AnswerEvents:
    """A chat stream on its way to the client.

    Args:
        limit: tokens that an answer may have; None where the engine's own limit will do. Counting
            needs ``return_token_ids`` in the request.
        tools: whether tools were offered, so that stray tags may come.
        usage: whether the client wants to know at the end what was used.
        ids: whether the client asked for tokens' numbers itself.
        choices: how many answers there will be.
        thoughts: whether the client wants to see them.
    """

    def __init__(
        self,
        *,
        limit: int | None,
        tools: bool,
        usage: bool,
        ids: bool,
        choices: int,
        thoughts: bool = True,
    ) -> None:
        self._limit = limit
        self._tools = tools
        self._usage = usage
        self._ids = ids
        self._expected = choices
        self._choices: dict[int, _Choice] = defaultdict(_Choice)
        self._rest = b""
        self._head: dict[str, Any] = {}
        self._thoughts = thoughts
        self._plain = choices == 1 and thoughts and not (tools or ids)
        self._prompt_tokens = self._generated = self._pieces = 0
        self._resumed = False
        self.used: dict[str, int] = {}
        """Tokens, once the end has come."""
        self.complete = False
        """The end has come."""
        self.over = False
        """Nothing more is wanted of the engine's stream: the end came before its own, or it sent
        something else than events of JSON."""
        self.unanswered = False
        """A thought came and no answer to it; the end was kept back."""

    def feed(self, chunk: bytes) -> bytes:
        """The events that are whole by now, as the client gets them."""
        if not self._rest and 0 <= chunk.find(_END) == len(chunk) - len(_END):
            return self._event(chunk)  # one event, as nearly always
        *events, self._rest = (self._rest + chunk).split(_END)
        return b"".join([self._event(event + _END) for event in events])

    @property
    def generated(self) -> int:
        """Tokens so far, about: of a stream that breaks off nothing else tells."""
        return max(self._generated, self._pieces)

    def resume(self) -> None:
        """What is fed from now on answers the same question, without a thought."""
        self._resumed, self._plain, self._rest = True, False, b""
        self.unanswered = False
        self._choices.clear()

    def _event(self, event: bytes) -> bytes:
        """What the client gets of it; both with the empty line at the end."""
        if self.complete or self.over or (self.unanswered and b'"usage":' not in event):
            return b""
        if (quick := self._quick(event)) is not None:
            return quick
        if not event.startswith(b"data: "):
            return b"" if event == _END else event
        if event == _DONE:
            self.complete = True
            return _DONE
        try:
            return self._shaped(orjson.loads(event[6:]))
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            self.over = True
            return b""

    def _quick(self, event: bytes) -> bytes | None:
        """An event from the midst of a thought or an answer, changed without parsing it; None for
        all others. Inside of a text no quotation mark stands without a backslash before it, so that
        what is looked for cannot be found there."""
        if not self._plain or b'"finish_reason":null' not in event:
            return None
        state = self._choices[0]
        thought = _THOUGHT.search(event)
        if not (state.thought and not state.answering if thought else state.answered):
            return None
        if thought and b'"content":' in event:
            return None
        if self._limit is not None and (ids := _TOKEN_IDS.search(event)):
            count = ids[1].count(b",") + 1
            if not thought and state.tokens + count > self._limit:
                return None
            self._generated += count
            state.tokens += 0 if thought else count
            event = event[: ids.start()] + event[ids.end() :]
        if thought:  # it stands before the tokens' numbers, so that its place is still right
            older = b',"reasoning_content":' + thought[1]
            event = event[: thought.end()] + older + event[thought.end() :]
        self._pieces += 1
        return event

    def _shaped(self, document: dict[str, Any]) -> bytes:
        if "error" in document:
            if is_lost(document["error"]):
                raise engine_lost()
            return _event_of(document)
        if not self._head:
            kept = ("id", "object", "created", "model")
            self._head = {name: document[name] for name in kept if name in document}
        if self._resumed:  # every event of a stream bears the same id
            document |= self._head
        self._prompt_tokens += len(document.get("prompt_token_ids") or ())
        if not self._ids:
            document.pop("prompt_token_ids", None)
        choices = document["choices"]
        if not choices and document.get("usage"):
            return self._used(document)
        document["choices"] = [choice for choice in choices if self._shape_choice(choice)]
        if self.unanswered or (choices and not document["choices"]):
            return b""
        return _event_of(document) + self._early_end()

    def _used(self, document: dict[str, Any]) -> bytes:
        """Add up what was used: after a thought without an answer there is a second stream."""
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        usage = {name: document["usage"].get(name) or 0 for name in names}
        if self.used:
            usage["completion_tokens"] += self.used["completion_tokens"]
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        self.used = usage
        if not self._usage or self.unanswered:
            return b""
        return _event_of(document | {"usage": document["usage"] | usage})

    def _shape_choice(self, choice: dict[str, Any]) -> bool:
        """Change it in place; whether there is anything left of it to send."""
        state, delta = self._choices[choice["index"]], choice["delta"]
        if state.ended:
            return False
        if choice.get("finish_reason") == ABORTED:
            raise engine_lost()
        self._count(choice, delta, state)
        self._pieces += 1
        state.ended = last = choice.get("finish_reason") is not None
        if self._tools and ("content" in delta or last):
            delta["content"] = state.tags.rest(delta.get("content") or "", last=last)
        state.thought |= delta.get("reasoning") is not None
        if not self._thoughts:
            delta.pop("reasoning", None)
        with_both_names(delta)
        state.answered |= bool(delta.get("content") or delta.get("tool_calls"))
        if last and state.thought and not state.answered and self._expected == 1:
            self.unanswered = not self._resumed
        if not self._thoughts and not last and not delta:
            return False
        # Of a second stream the beginning was told already.
        return last or not (self._resumed and "role" in delta)

    def _count(self, choice: dict[str, Any], delta: dict[str, Any], state: _Choice) -> None:
        """End a choice at the first token beyond those that its answer may have."""
        ids = choice.get("token_ids") or ()
        if not self._ids:
            choice.pop("token_ids", None)
        if self._limit is None or not ids:
            return
        self._generated += len(ids)
        # Empty while a character or a stop text is not yet decided on.
        thinking = delta.get("reasoning") is not None
        if state.answering:
            state.tokens += len(ids)
        else:
            # Here the thought ends, with a token of its own; now and then the answer comes with it.
            state.answering = not thinking or bool(delta.get("content"))
            state.tokens = int(state.answering) if thinking else len(ids) - 1
        of_the_end = choice.get("finish_reason") in ("stop", "tool_calls")
        if state.tokens - of_the_end > self._limit:
            state.cut = True
            choice["finish_reason"] = "length"
            delta.clear()

    def _early_end(self) -> bytes:
        """The last events, where the engine would go on for nothing."""
        states = self._choices.values()
        ended = len(states) == self._expected and all(state.ended for state in states)
        if not ended or not any(state.cut for state in states):
            return b""
        self.complete = self.over = True
        usage = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._generated,
            "total_tokens": self._prompt_tokens + self._generated,
        }
        return self._used(self._head | {"choices": [], "usage": usage}) + _DONE


def _event_of(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + _END


class TextEvents:
    """A stream of ``/completions``, which goes on as it is but for what the engine was asked to
    tell of its use."""

    def __init__(self, *, usage: bool) -> None:
        self._usage = usage
        self._rest = b""
        self.over = False
        self.used: dict[str, Any] = {}

    def feed(self, chunk: bytes) -> bytes:
        """The events that are whole by now, as the client gets them."""
        *events, self._rest = (self._rest + chunk).split(_END)
        return b"".join([event + _END for event in events if self._is_wanted(event)])

    def _is_wanted(self, event: bytes) -> bool:
        if event.startswith(b'data: {"error"') and b"EngineCore" in event:
            raise engine_lost()
        if b'"usage":{' not in event:
            return True
        try:
            document = orjson.loads(event.removeprefix(b"data: "))
            self.used = document["usage"]
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return True
        return self._usage or bool(document.get("choices"))
