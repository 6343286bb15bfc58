"""OpenAI's ``allowed_tools``, which the engine does not know: some of the tools, for one answer."""

from __future__ import annotations

from typing import Any

from webui.gateway.errors import wrong

MODES = ("auto", "required")


def allow_tools(document: dict[str, Any]) -> None:
    """Offer a chat request's engine no other tools than those that are allowed.

    Raises:
        ApiError: the choice is not one, or allows a tool that the request does not have.
    """
    choice = document.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return
    allowed = choice.get("allowed_tools")
    named = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(allowed, dict) or not isinstance(named, list) or not named:
        raise wrong("tool_choice.allowed_tools", "must have a mode and a list of tools")
    if allowed.get("mode") not in MODES:
        raise wrong("tool_choice.allowed_tools.mode", f"must be one of: {', '.join(MODES)}")
    tools = document.get("tools")
    offered = {_name(tool): tool for tool in tools} if isinstance(tools, list) else {}
    names = [_name(tool) for tool in named]
    for index, name in enumerate(names):
        if name is None or name not in offered:
            raise wrong(f"tool_choice.allowed_tools.tools.{index}", "is none of the tools")
    document["tools"] = [tool for name, tool in offered.items() if name in names]
    document["tool_choice"] = allowed["mode"]


def _name(tool: Any) -> str | None:
    """Of a function, as it stands among the tools of a chat request."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
