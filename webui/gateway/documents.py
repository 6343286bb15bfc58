"""A request's body as a JSON object, and back."""

from __future__ import annotations

from typing import Any

import jiter
import orjson

from webui.gateway.errors import invalid_json

# A body of more bytes is looked at before it is parsed. Parsing holds up every other request, in a
# thread as well, and what it makes of a pair of brackets takes thirty times as much memory.
LOOKED_AT_BYTES = 128_000
# Commas and opening brackets, those in texts too: far more than a text has that fits the model.
MAX_STRUCTURE = 200_000


def parsed(body: bytes) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        ApiError: it is none. (Numbers beyond a double, lone surrogates, hundreds of levels of
            brackets, names given twice in an object and hundreds of thousands of values count as
            none.)
    """
    if len(body) > LOOKED_AT_BYTES:
        _check_structure(body)
    try:
        # Of two values under one name orjson takes the last without a word, others the first. What
        # this makes is given up at once: two documents of 20 MB side by side cost 20 ms more.
        jiter.from_json(body, catch_duplicate_keys=True, cache_mode="none")
        document = orjson.loads(body)
    except ValueError as error:
        raise invalid_json(str(error)) from None
    if not isinstance(document, dict):
        raise invalid_json("it must be an object")
    return document


def _check_structure(body: bytes) -> None:
    """Raises:
    ApiError: there is too much of it.
    """
    left = MAX_STRUCTURE
    for mark in (b"{", b"[", b","):
        at = body.find(mark)  # four times as fast as count() where there are few, as in images
        while at >= 0:
            left -= 1
            if left < 0:
                raise invalid_json(f"it has more than {MAX_STRUCTURE:,} commas and brackets")
            at = body.find(mark, at + 1)


def encoded(document: dict[str, Any]) -> bytes:
    """The opposite of :func:`parsed`, which takes more levels.

    Raises:
        ApiError: there are too many of them.
    """
    try:
        return orjson.dumps(document)
    except TypeError:
        raise invalid_json("it has too many levels") from None
