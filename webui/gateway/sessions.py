"""Which of several engines: the one that has a conversation's pictures and beginning already.

A conversation is told by what its client calls it, else by its caller and how it begins: up to the
first question, the names of its pictures included. The router keeps each on one engine.
"""

from __future__ import annotations

import hashlib
from typing import Any

HEADER = b"x-session-id"
DIGEST_BYTES = 12


def session_of(caller: str, given: bytes, document: dict[str, Any]) -> str:
    """A name for the conversation, of letters and digits.

    Args:
        caller: whose it is; two callers never share a conversation.
        given: the client's own name for it, or empty.
        document: a chat request with its pictures as the engine gets them, or one for a completion.
    """
    digest = hashlib.blake2b(caller.encode(errors="replace"), digest_size=DIGEST_BYTES)
    digest.update(b"\0")
    if given:
        digest.update(given)
    else:
        for text in _beginning(document):
            digest.update(text.encode(errors="replace") + b"\0")
    return digest.hexdigest()


def _beginning(document: dict[str, Any]) -> list[str]:
    messages = document.get("messages")
    if not isinstance(messages, list):
        return [str(document.get("prompt"))]
    found: list[str] = []
    for message in messages:
        if not isinstance(message, dict):
            break
        found += _texts(message.get("content"))
        if message.get("role") == "user":
            break
    return found


def _texts(content: Any) -> list[str]:
    if not isinstance(content, list):
        return [str(content)]
    parts = [part for part in content if isinstance(part, dict)]
    return [str(part.get("uuid") or part.get("text")) for part in parts]
