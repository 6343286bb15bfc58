"""Some of the tools, for one answer."""

from __future__ import annotations

from typing import Any

import pytest

from webui.gateway.errors import ApiError
from webui.gateway.tool_choice import allow_tools


def named(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in names]


def choice(mode: Any, tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_the_allowed_are_offered(mode: str) -> None:
    """Whole, in the order of the request, and the mode is the choice."""
    tools = named("a", "b", "c")
    tools[2]["function"]["parameters"] = {"type": "object"}
    document = {"tools": tools, "tool_choice": choice(mode, named("c", "a"))}
    allow_tools(document)
    assert document == {"tools": [tools[0], tools[2]], "tool_choice": mode}


@pytest.mark.parametrize("other", ["auto", None, {"type": "function", "function": {"name": "a"}}])
def test_other_choices_stay(other: Any) -> None:
    """The engine knows them."""
    document = {"tools": named("a", "b"), "tool_choice": other}
    allow_tools(document)
    assert document == {"tools": named("a", "b"), "tool_choice": other}


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (choice("auto", named("d")), "tool_choice.allowed_tools.tools.0"),
        (choice("auto", [*named("a"), 5]), "tool_choice.allowed_tools.tools.1"),
        (choice("auto", [{"function": {"name": ["a"]}}]), "tool_choice.allowed_tools.tools.0"),
        (choice("all", named("a")), "tool_choice.allowed_tools.mode"),
        (choice(["auto"], named("a")), "tool_choice.allowed_tools.mode"),
        (choice("auto", []), "tool_choice.allowed_tools"),
        (choice("auto", None), "tool_choice.allowed_tools"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools", "allowed_tools": "a"}, "tool_choice.allowed_tools"),
    ],
)
def test_wrong_choices_are_named(wrong: dict[str, Any], place: str) -> None:
    """With their place."""
    with pytest.raises(ApiError) as caught:
        allow_tools({"tools": named("a", "b"), "tool_choice": wrong})
    assert (caught.value.status, caught.value.param) == (400, place)


@pytest.mark.parametrize("tools", [None, [], "a", [None, {"function": None}]])
def test_without_such_tools_nothing_can_be_allowed(tools: Any) -> None:
    """Whatever stands in their place."""
    with pytest.raises(ApiError):
        allow_tools({"tools": tools, "tool_choice": choice("auto", named("a"))})
