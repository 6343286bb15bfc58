"""A talk as plain values, and as the messages that the engine and the page want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from webui.pictures import data_url


@dataclass(frozen=True)
class Turn:
    """A question with its pictures, and as much of the answer as has come."""

    question: str
    pictures: tuple[Path, ...] = ()
    reasoning: str = ""
    answer: str = ""
    done: bool = False

    def with_more(self, reasoning: str, answer: str) -> Turn:
        return replace(self, reasoning=self.reasoning + reasoning, answer=self.answer + answer)


@dataclass(frozen=True)
class Conversation:
    """Turns, oldest first."""

    turns: tuple[Turn, ...] = field(default=())

    def with_turn(self, turn: Turn) -> Conversation:
        return Conversation((*self.turns, turn))

    def with_last(self, turn: Turn) -> Conversation:
        return Conversation((*self.turns[:-1], turn))

    def without_last(self) -> Conversation:
        return Conversation(self.turns[:-1])


def api_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """Chat-completion messages; pictures stand before the words they belong to.

    A question whose answer never came stays, without one: the engine accepts two user messages in
    a row. Reasoning is not sent back.

    Raises:
        PictureError: a picture of an earlier turn is no longer there, or cannot be used.
    """
    messages: list[dict[str, Any]] = []
    for turn in conversation.turns:
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(path)}} for path in turn.pictures
        ]
        if turn.question:
            parts.append({"type": "text", "text": turn.question})
        messages.append({"role": "user", "content": parts})
        if turn.answer:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages


def chatbot_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Messages for the page's Chatbot; thinking is a fold of its own."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        for path in turn.pictures:
            messages.append({"role": "user", "content": {"path": str(path)}})
        if turn.question:
            messages.append({"role": "user", "content": turn.question})
        if turn.reasoning:
            thinking = "pending" if not (turn.answer or turn.done) else "done"
            messages.append(
                {
                    "role": "assistant",
                    "content": turn.reasoning,
                    "metadata": {"title": "Thinking", "status": thinking},
                }
            )
        if turn.answer or not turn.done:
            messages.append({"role": "assistant", "content": turn.answer or "…"})
    return messages
