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
    while start < len(entries) and _is_skipped(_bytes_of(entries[start]), wanted):
        start += 1
    stop, size = start, 0
    while stop < len(entries) and size < len(wanted):
        size += len(_bytes_of(entries[stop]))
        stop += 1
    return slice(start, stop)


def _is_skipped(token: bytes, wanted: bytes) -> bool:
    """White space between a thought and its answer."""
    return not token.strip() and not wanted.startswith(token)


def shorten(choice: dict[str, Any], text: str) -> None:
    """Take from a chat choice the entries beyond its text, which was cut."""
    scores = choice.get("logprobs") or {}
    if entries := scores.get("content"):
        scores["content"] = entries[: place_of(entries, text).stop]


def entries_of(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of a chat choice, or of an event of its stream; empty where none were asked for."""
    return (choice.get("logprobs") or {}).get("content") or []


def of_text(entries: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """A text's tokens with their probabilities, as the Responses API has them."""
    return as_responses(entries[place_of(entries, text)])


def as_responses(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries in the form of the Responses API."""
    return [
        _entry(entry) | {"top_logprobs": [_entry(other) for other in entry.get("top_logprobs", ())]}
        for entry in entries
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
