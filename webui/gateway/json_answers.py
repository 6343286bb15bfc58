"""Answers that were asked for as JSON: whether they are, and what to say to the model if not."""

from __future__ import annotations

from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from webui.gateway.errors import ApiError

# The engine's grammar sees to these; Python's expressions can be made to run for ever.
PATTERNS = ("pattern", "patternProperties")
MAX_COMPLAINT = 300


class JsonAnswers:
    """What a request's ``response_format`` asks for.

    Args:
        response_format: of the request; None or ``text`` asks for nothing.
    """

    def __init__(self, response_format: Any) -> None:
        wish = response_format if isinstance(response_format, dict) else {}
        self.wanted = wish.get("type") in ("json_object", "json_schema")
        schema = (wish.get("json_schema") or {}).get("schema")
        self._schema = _without_patterns(schema) if isinstance(schema, dict) else None

    def complaint(self, text: str | None) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        try:
            value = orjson.loads(text or "")
        except orjson.JSONDecodeError as error:
            return f"It is not JSON: {error}."
        if self._schema is None:
            return None
        try:
            # An empty registry: nothing is fetched for a $ref.
            Draft202012Validator(self._schema, registry=Registry()).validate(value)
        except ValidationError as error:
            where = f"At {error.json_path}: " if error.absolute_path else ""
            return f"{where}{error.message[:MAX_COMPLAINT]}"
        except (SchemaError, Unresolvable, TypeError, ValueError, RecursionError):
            return None  # a schema that cannot be checked; the engine took it
        return None


def told(messages: list[Any], answer: str | None, complaint: str) -> list[Any]:
    """A conversation that says to the model what was wrong with its answer."""
    correction = (
        f"This answer cannot be used. {complaint} Give the same answer once more as JSON alone, "
        "short enough to be finished."
    )
    return [
        *messages,
        {"role": "assistant", "content": answer or "{}"},
        {"role": "user", "content": correction},
    ]


def no_json(complaint: str) -> ApiError:
    """After the second try."""
    return ApiError(
        502,
        f"The model gave no JSON of the wanted form, twice. {complaint} "
        "Give it more max_tokens or a simpler schema.",
        "invalid_json_answer",
        "server_error",
        param="response_format",
    )


def _without_patterns(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _without_patterns(v) for k, v in schema.items() if k not in PATTERNS}
    return [_without_patterns(item) for item in schema] if isinstance(schema, list) else schema
