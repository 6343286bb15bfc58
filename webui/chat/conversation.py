"""A talk as plain values, and as the messages that the engine and the page want."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from webui.chat.pdf import page_label


@dataclass(frozen=True)
class Figures:
    """What an answer took: seconds from the question on, tokens as the engine counts them. None
    where it is not known (yet)."""

    first_token_s: float | None = None
    thought_s: float | None = None
    total_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """Thinking included."""

    @classmethod
    def of(cls, document: Any) -> Figures:
        """From a JSON document, as another version or anybody may have written it."""
        known = document if isinstance(document, dict) else {}
        found = {field.name: known.get(field.name) for field in fields(cls)}
        return cls(**{name: value for name, value in found.items() if _is_figure(name, value)})

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token; None for an answer too short to tell."""
        if self.completion_tokens is None or self.total_s is None or self.first_token_s is None:
            return None
        seconds = self.total_s - self.first_token_s
        return (self.completion_tokens - 1) / seconds if seconds > 0 else None


def _is_figure(name: str, value: Any) -> bool:
    kinds = (int,) if name.endswith("_tokens") else (int, float)
    return type(value) in kinds and 0 <= value < math.inf


@dataclass(frozen=True)
class Turn:
    """A question with its pictures, and as much of the answer as has come.

    ``task`` is the name of the ready-made task that it was asked for; empty for a free question.
    """

    question: str
    pictures: tuple[Path, ...] = ()
    reasoning: str = ""
    answer: str = ""
    done: bool = False
    task: str = ""
    figures: Figures = field(default_factory=Figures)

    @property
    def is_cut(self) -> bool:
        """Whether an answer began and nothing said that it had ended: then it can go on."""
        return self.done and bool(self.answer) and self.figures.completion_tokens is None

    def with_more(self, reasoning: str, answer: str) -> Turn:
        return replace(self, reasoning=self.reasoning + reasoning, answer=self.answer + answer)

    def asked_again(self, question: str | None = None) -> Turn:
        """The same question, or another about the same pictures, without an answer."""
        words = self.question if question is None else question
        return Turn(words, self.pictures, task=self.task)


@dataclass(frozen=True)
class Conversation:
    """Turns, oldest first. ``key`` is its own from its first question on: what is kept under it is
    this conversation, however it goes on."""

    turns: tuple[Turn, ...] = field(default=())
    key: str = ""

    def with_key(self) -> Conversation:
        """The same; one that has no key yet is given one that nobody can guess."""
        return self if self.key else replace(self, key=secrets.token_urlsafe(16))

    def with_turn(self, turn: Turn) -> Conversation:
        return replace(self, turns=(*self.turns, turn))

    def with_last(self, turn: Turn) -> Conversation:
        return replace(self, turns=(*self.turns[:-1], turn))

    def without_last(self) -> Conversation:
        return self.before(-1)

    def without(self, turn: Turn) -> Conversation:
        """Without this very turn, not one that is equal to it; the same where it is not there."""
        return replace(self, turns=tuple(other for other in self.turns if other is not turn))

    def before(self, turn: int) -> Conversation:
        """The turns before the one of this index."""
        return replace(self, turns=self.turns[:turn])


def api_messages(
    conversation: Conversation, url_of: Callable[[Path], str], system: str = ""
) -> list[dict[str, Any]]:
    """Chat-completion messages; pictures stand before the words they belong to, and after the
    label of the page that they show.

    A question whose answer never came stays, without one: the engine accepts two user messages in
    a row. Reasoning is not sent back.

    Args:
        url_of: how a picture is named.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in conversation.turns:
        parts: list[dict[str, Any]] = []
        for path in turn.pictures:
            if label := page_label(path):
                parts.append({"type": "text", "text": f"{label}:"})
            parts.append({"type": "image_url", "image_url": {"url": url_of(path)}})
        if turn.question:
            parts.append({"type": "text", "text": turn.question})
        messages.append({"role": "user", "content": parts})
        if turn.answer:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages
