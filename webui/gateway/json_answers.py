"""Answers that were asked for as JSON: whether they are, and what to say to the model if not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from webui.gateway.errors import ApiError

MAX_COMPLAINT = 300
# A check is given up after so many keywords, about a tenth of a second: references can make a
# short schema endless.
MAX_STEPS = 20_000
# Left to the engine's grammar: expressions that can be made to run for ever, and what looks at
# every pair.
UNCHECKED = (
    "pattern",
    "patternProperties",
    "uniqueItems",
    "unevaluatedItems",
    "unevaluatedProperties",
)
Keyword = Callable[..., Iterable[ValidationError] | None]
_steps_left: ContextVar[list[int]] = ContextVar("steps_left")


class _EndlessError(Exception):
    """The check takes too long."""


def _counted(name: str, keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        left = _steps_left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _EndlessError
        if name == "additionalProperties" and "patternProperties" in schema:
            return None  # it would try the expressions
        return keyword(validator, value, instance, schema)

    return check


_CHECKED = {
    name: _counted(name, (lambda *_: None) if name in UNCHECKED else keyword)
    for name, keyword in Draft202012Validator.VALIDATORS.items()
}
_Validator = extend(Draft202012Validator, _CHECKED)  # type: ignore[no-untyped-call]


class JsonAnswers:
    """What a request's ``response_format`` asks for.

    Args:
        response_format: of the request; None or ``text`` asks for nothing.
    """

    def __init__(self, response_format: Any) -> None:
        wish = response_format if isinstance(response_format, dict) else {}
        self.wanted = wish.get("type") in ("json_object", "json_schema")
        named = wish.get("json_schema") if wish.get("type") == "json_schema" else None
        schema = named.get("schema") if isinstance(named, dict) else None
        self._schema = schema if isinstance(schema, dict) else None

    def complaint(self, text: str | None) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        try:
            value = orjson.loads(text or "")
        except orjson.JSONDecodeError as error:
            return f"It is not JSON: {error}."
        if self._schema is None:
            return None
        _steps_left.set([MAX_STEPS])
        try:
            # An empty registry: nothing is fetched for a $ref.
            _Validator(self._schema, registry=Registry()).validate(value)
        except ValidationError as error:
            where = f"At {error.json_path}: " if error.absolute_path else ""
            return f"{where}{error.message[:MAX_COMPLAINT]}"
        except (_EndlessError, SchemaError, Unresolvable, TypeError, ValueError, RecursionError):
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
