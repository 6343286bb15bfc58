"""Chat answers, whole and as streams, for the tests of what other APIs make of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings

# A busy machine is no failure.
PATIENT = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def answer(
    reasoning: str | None = None, content: str | None = None, *calls: str, **choice: Any
) -> dict[str, Any]:
    """A whole chat answer; each call is its arguments."""
    message: dict[str, Any] = {"role": "assistant", "content": content, "reasoning": reasoning}
    message["tool_calls"] = [
        {"id": f"call_{i}", "type": "function", "function": {"name": f"f{i}", "arguments": text}}
        for i, text in enumerate(calls)
    ]
    reason = "tool_calls" if calls else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason, **choice}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def streamed(whole: dict[str, Any], size: int) -> bytes:
    """The same answer as a stream, ``size`` characters a time."""
    [choice] = whole["choices"]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning", "content"):
        deltas += [{name: piece} for piece in pieces(message[name] or "", size)]
    for index, call in enumerate(message["tool_calls"]):
        function = {"name": call["function"]["name"], "arguments": ""}
        deltas.append({"tool_calls": [{**call, "index": index, "function": function}]})
        for piece in pieces(call["function"]["arguments"], size):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    head = {name: whole[name] for name in ("id", "created", "model")}
    events = [head | {"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    last = {name: value for name, value in choice.items() if name != "message"}
    events.append(head | {"choices": [{**last, "delta": {}}]})
    events.append(head | {"choices": [], "usage": whole["usage"]})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return f": keep-alive\n\n{body}data: [DONE]\n\n".encode()


def pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]
