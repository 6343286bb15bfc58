"""A request's body as a JSON object, and back."""

from __future__ import annotations

from typing import Any

import orjson

from webui.gateway.errors import invalid_json


def parsed(body: bytes) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        ApiError: it is none. (Numbers beyond a double, lone surrogates and a thousand levels of
            brackets count as none.)
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid_json(str(error)) from None
    if not isinstance(document, dict):
        raise invalid_json("it must be an object")
    return document


def encoded(document: dict[str, Any]) -> bytes:
    """The opposite of :func:`parsed`, which takes more levels.

    Raises:
        ApiError: there are too many of them.
    """
    try:
        return orjson.dumps(document)
    except TypeError:
        raise invalid_json("it has too many levels") from None
