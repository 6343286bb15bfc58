"""How long the model may think, and how much of its tokens that leaves for the answer.

The engine has one limit for both, so that a model that always thinks can spend all of it before its
first word. Here ``max_tokens`` counts the answer, and thinking has a budget of its own on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from webui.gateway.errors import ApiError, wrong

Mode = Literal["off", "low", "high", "auto"]
MODES: tuple[Mode, ...] = get_args(Mode)
# OpenAI's words for it.
EFFORTS: Mapping[str, Mode] = {
    "none": "off",
    "minimal": "off",
    "low": "low",
    "medium": "auto",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# Endings of a model's name, for clients that can choose nothing else.
ALIASES: Mapping[str, Mode] = {":fast": "off", ":deep": "high"}
# The token that closes a thought, also one that is cut off.
END_OF_THOUGHT = 1
CLOSED = "</think>\n"
# What an answer should be able to have where the request sets no limit to it.
ANSWER_ROOM = 1024


class Allowance(NamedTuple):
    """Tokens for the thought, and for the answer; None where only the context limits it."""

    thinking: int
    answer: int | None

    @property
    def wanted(self) -> int:
        """What must be left of the context for both."""
        answer = ANSWER_ROOM if self.answer is None else self.answer
        return self.thinking + END_OF_THOUGHT + answer

    def within(self, room: int) -> Allowance:
        """The same with a thought that leaves the answer its part of ``room`` tokens."""
        answer = min(ANSWER_ROOM, room // 2) if self.answer is None else self.answer
        most = room - answer - END_OF_THOUGHT
        return self._replace(thinking=max(0, min(self.thinking, most)))


@dataclass(frozen=True)
class Thinking:
    """What a mode means, and which one goes without saying."""

    default: Mode
    tokens: Mapping[Mode, int]

    def taken_from(self, document: dict[str, Any]) -> Allowance:
        """What a chat request asks for. Its own fields for it are taken out of it.

        The most exact wins: ``thinking_token_budget``, ``thinking``, ``reasoning_effort``, the
        model's name.

        Raises:
            ApiError: a value is not among those that there are.
        """
        mode = self._of_name(document)
        effort = document.pop("reasoning_effort", None)
        if effort is not None:
            mode = EFFORTS.get(effort) if isinstance(effort, str) else None
            if mode is None:
                raise _no_choice("reasoning_effort", EFFORTS)
        budget = self._tokens(document.pop("thinking", None), mode or self.default)
        exact = document.get("thinking_token_budget")
        if exact is not None:
            budget = _count(exact, "thinking_token_budget", least=0)
        return Allowance(budget, _answer_tokens(document))

    def _of_name(self, document: dict[str, Any]) -> Mode | None:
        name = document.get("model")
        for ending, mode in ALIASES.items():
            if isinstance(name, str) and name.endswith(ending):
                document["model"] = name.removesuffix(ending)
                return mode
        return None

    def _tokens(self, wish: Any, mode: Mode) -> int:
        """Of a ``thinking`` field: a mode, or an object as Anthropic's clients send it."""
        if wish is None:
            wish = mode
        if isinstance(wish, dict) and wish.get("type") == "enabled" and "budget_tokens" in wish:
            return _count(wish["budget_tokens"], "thinking.budget_tokens", least=0)
        if isinstance(wish, dict):
            kinds = {"disabled": "off", "enabled": "auto", "adaptive": "auto"}
            wish = kinds.get(str(wish.get("type")))
        if wish not in MODES:
            raise _no_choice("thinking", MODES)
        return 0 if wish == "off" else self.tokens[wish]


STANDARD = Thinking("auto", {"low": 512, "auto": 4096, "high": 16384})


def _answer_tokens(document: dict[str, Any]) -> int | None:
    """The newer of OpenAI's two names wins."""
    for name in ("max_completion_tokens", "max_tokens"):
        if document.get(name) is not None:
            return _count(document[name], name, least=1)
    return None


def put_in(document: dict[str, Any], allowance: Allowance) -> None:
    """Tell the engine in its own fields."""
    document.pop("max_completion_tokens", None)
    document.pop("max_tokens", None)
    document["thinking_token_budget"] = allowance.thinking
    if allowance.answer is not None:
        document["max_tokens"] = allowance.thinking + END_OF_THOUGHT + allowance.answer


def without_budget(document: dict[str, Any]) -> dict[str, Any]:
    """A request for an engine that knows no budgets: it then thinks as it will. Not to think at
    all, it is given the end of a thought as the beginning of its answer."""
    plain = dict(document)
    if plain.pop("thinking_token_budget", None) == 0:
        plain["messages"] = [*plain["messages"], {"role": "assistant", "content": CLOSED}]
        plain |= {"continue_final_message": True, "add_generation_prompt": False}
    return plain


def _count(value: Any, name: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 10**7:
        raise wrong(name, f"must be a whole number of tokens, {least} or more")
    return value


def _no_choice(name: str, choices: Mapping[str, Any] | tuple[str, ...]) -> ApiError:
    return wrong(name, f"must be one of: {', '.join(choices)}")
