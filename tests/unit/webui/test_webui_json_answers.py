"""Whether an answer is the JSON it should be, whatever schema the caller sends."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from webui.gateway.json_answers import JsonAnswers


def complaint(schema: dict[str, Any], value: Any) -> str | None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return JsonAnswers(form).complaint(json.dumps(value))


def test_a_schema_is_kept_to() -> None:
    """The complaint says where."""
    schema = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"type": "integer"}}},
        "required": ["items"],
        "additionalProperties": False,
    }
    assert complaint(schema, {"items": [1, 2]}) is None
    assert "$.items[1]" in (complaint(schema, {"items": [1, "2"]}) or "")
    assert "required" in (complaint(schema, {}) or "")
    assert complaint(schema, {"items": [], "more": 1}) is not None


def test_properties_may_be_called_like_keywords() -> None:
    """Only keywords are left unchecked, not names."""
    schema = {
        "properties": {"pattern": {"type": "string"}},
        "required": ["pattern"],
        "additionalProperties": False,
    }
    assert complaint(schema, {"pattern": "x"}) is None
    assert complaint(schema, {"pattern": 1}) is not None


def test_properties_by_pattern_are_left_to_the_engine() -> None:
    """Whatever they say of other ones."""
    schema = {"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False}
    assert complaint(schema, {"a": "x", "b": 1}) is None


@pytest.mark.fault(15, "no schema takes long")
@pytest.mark.parametrize(
    "schema",
    [
        {
            "$ref": "#/$defs/a0",
            "$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
            | {"a40": {}},
        },
        {"type": "string", "pattern": "(a+)+$"},
        {"$ref": "#"},
        {"$ref": "http://127.0.0.1:1/schema"},
        {"items": {"anyOf": [{"const": i} for i in range(500)]}},
        {"type": 5},
    ],
)
def test_no_schema_takes_long(schema: dict[str, Any]) -> None:
    """The event loop waits for the check: what would not end is given up, and counts as right."""
    value = "a" * 50 + "!" if schema.get("type") == "string" else [-1] * 500
    began = time.process_time()
    complaint(schema, value)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "form",
    [None, "x", {}, {"type": "text"}, {"type": "json_schema", "json_schema": "x"}, {"type": []}],
)
def test_odd_forms_ask_for_nothing_special(form: Any) -> None:
    """The engine says what is wrong with them."""
    assert JsonAnswers(form).complaint("{}") is None


def test_an_object_alone_has_no_schema() -> None:
    """Not even where one is sent with it: the engine would not keep to it."""
    form = {"type": "json_object", "json_schema": {"schema": {"type": "string"}}}
    assert JsonAnswers(form).complaint("{}") is None
