"""Probabilities of tokens: which of an answer's belong to its text."""

from __future__ import annotations

from typing import Any

_END_OF_THOUGHT = "</think>"


def place_of(entries: list[dict[str, Any]], text: str) -> slice:
    """Of the engine's entries, one a token of all that it wrote, those that make up a text.

    A thought with its end comes before them, and after them what ended the answer or was too much.
    """
    tokens = [entry["token"] for entry in entries]
    start = tokens.index(_END_OF_THOUGHT) + 1 if _END_OF_THOUGHT in tokens else 0
    wanted = text.encode()
    while start < len(entries) and not wanted.startswith(_bytes_of(entries[start])[:1]):
        start += 1  # white space between thought and answer
    stop, size = start, 0
    while stop < len(entries) and size < len(wanted):
        size += len(_bytes_of(entries[stop]))
        stop += 1
    return slice(start, stop)


def shorten(choice: dict[str, Any], text: str) -> None:
    """Take from a chat choice the entries beyond its text, which was cut."""
    scores = choice.get("logprobs") or {}
    if entries := scores.get("content"):
        scores["content"] = entries[: place_of(entries, text).stop]


def of_text(choice: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """A text's tokens with their probabilities, as the Responses API has them; empty where none
    were asked for.

    Args:
        choice: of a chat answer or of an event of its stream; ``text`` is in it.
    """
    entries = (choice.get("logprobs") or {}).get("content") or []
    return [
        _entry(entry) | {"top_logprobs": [_entry(other) for other in entry.get("top_logprobs", ())]}
        for entry in entries[place_of(entries, text)]
    ]


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "token": entry["token"],
        "bytes": list(_bytes_of(entry)),
        "logprob": entry["logprob"],
    }


def _bytes_of(entry: dict[str, Any]) -> bytes:
    """A token may be a part of a character."""
    given = entry.get("bytes")
    return entry["token"].encode() if given is None else bytes(given)
