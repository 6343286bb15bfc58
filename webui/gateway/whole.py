"""Whole chat answers, seen to before they go out: answered, of the form asked for, no longer than
they may be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from webui.gateway import logprobs
from webui.gateway.answers import ABORTED, is_unanswered, shape
from webui.gateway.context import Context
from webui.gateway.documents import encoded
from webui.gateway.engine_client import EngineAnswer
from webui.gateway.errors import engine_lost, is_lost
from webui.gateway.images import Placed
from webui.gateway.json_answers import JsonAnswers, no_json, told
from webui.gateway.relay import Relay
from webui.gateway.thinking import Allowance, put_in, without_budget
from webui.gateway.translation import failure

# Of the engine's refusal where no parser for thoughts is configured.
NO_BUDGETS = "thinking_token_budget is set but"
ENGINE_PATH = "/v1/chat/completions"


@dataclass
class ChatRequest:
    """As the engine gets it, and what its answer may have."""

    document: dict[str, Any]
    text_bytes: int
    """Of the client's request, without its images."""
    images: Placed
    allowance: Allowance
    json: JsonAnswers
    ids: bool
    """Whether the client wants the numbers of tokens."""
    usage: bool
    """Whether the client of a stream wants to know what was used."""
    thoughts: bool
    """Whether the client wants to see them."""
    session: str = ""
    """The conversation, where there are several engines."""

    @property
    def limit(self) -> int | None:
        """Tokens to count up to; None where the engine's own limit is exact."""
        return self.allowance.answer if self.allowance.thinking else None

    @property
    def tools(self) -> bool:
        return bool(self.document.get("tools"))

    @property
    def choices(self) -> int:
        return self.document.get("n") or 1

    @property
    def continues_an_answer(self) -> bool:
        """Whether the engine goes on with a text whose thought, if any, is closed."""
        if not self.document.get("continue_final_message"):
            return False
        text = str(self.document["messages"][-1].get("content"))
        return text.count("<think>") <= text.count("</think>")

    def without_thought(
        self, *, choices: int = 1, messages: list[Any] | None = None
    ) -> ChatRequest:
        """The same question, or some other messages, to be answered at once."""
        allowance = self.allowance._replace(thinking=0)
        document = self.document | {"n": choices}
        if messages is not None:
            document["messages"] = messages
            for name in ("tools", "tool_choice", "continue_final_message", "add_generation_prompt"):
                document.pop(name, None)
        put_in(document, allowance)
        return replace(self, document=document, allowance=allowance)


def _call_it_an_answer(message: dict[str, Any]) -> None:
    """The engine's parser takes all for a thought in which it sees no end of one."""
    if not message.get("content") and message.get("reasoning"):
        message["content"], message["reasoning"] = message["reasoning"], None


def _take_over(choice: dict[str, Any], other: dict[str, Any]) -> None:
    """The answer of a further request, to the thought of the first."""
    choice["message"]["content"] = other["message"].get("content")
    for name in ("finish_reason", "logprobs"):
        choice[name] = other.get(name)


class WholeAnswers:
    """Completes answers, by asking the engine again where it must."""

    def __init__(self, relay: Relay, context: Context) -> None:
        self._relay = relay
        self._context = context

    async def open(self, request: ChatRequest) -> EngineAnswer:
        """Send a request to the engine, in terms that it knows.

        Raises:
            ApiError: the engine is not there.
        """
        session = request.session
        response = await self._relay.open("POST", ENGINE_PATH, encoded(request.document), session)
        if response.status in {400, 500}:
            error = (await self._relay.read_json(response)).get("error")
            if is_lost(error):
                raise engine_lost()
            if NO_BUDGETS in str(error):
                plain = encoded(without_budget(request.document))
                return await self._relay.open("POST", ENGINE_PATH, plain, session)
        return response

    async def complete(self, request: ChatRequest, answer: dict[str, Any]) -> None:
        """Change an answer in place to what the client gets.

        Raises:
            ApiError: it should be JSON and is not, the second time either.
        """
        choices = answer["choices"]
        if any(choice.get("finish_reason") == ABORTED for choice in choices):
            raise engine_lost()
        if request.continues_an_answer:
            for choice in choices:
                _call_it_an_answer(choice["message"])
        await self._fill([choice for choice in choices if is_unanswered(choice)], request, answer)
        for choice in choices:
            shape(choice, tools=request.tools, thoughts=request.thoughts)
        generated = (answer.get("usage") or {}).get("completion_tokens", 0)
        if request.limit is not None and generated > request.limit:
            for choice in choices:
                await self._cut(choice, request.limit)
        if request.json.wanted:
            for choice in choices:
                await self._see_to_json(choice, request, answer)

    async def _fill(
        self, empty: list[dict[str, Any]], request: ChatRequest, answer: dict[str, Any]
    ) -> None:
        """Answers to what was only thought about."""
        if not empty:
            return
        second = await self._again(request.without_thought(choices=len(empty)), answer)
        for choice, other in zip(empty, second, strict=False):
            _take_over(choice, other)

    async def _cut(self, choice: dict[str, Any], limit: int) -> None:
        """The engine's limit leaves room for a thought; an answer may have used that too."""
        text = choice["message"].get("content")
        shorter = await self._context.first_tokens(text, limit) if text else None
        if shorter is not None:
            choice["message"]["content"], choice["finish_reason"] = shorter, "length"
            logprobs.shorten(choice, shorter)

    async def _see_to_json(
        self, choice: dict[str, Any], request: ChatRequest, answer: dict[str, Any]
    ) -> None:
        """Ask once more, saying what was wrong."""
        message = choice["message"]
        complaint = request.json.complaint(message.get("content"))
        if complaint is None or message.get("tool_calls"):
            return
        messages = told(request.document["messages"], message.get("content"), complaint)
        for other in await self._again(request.without_thought(messages=messages), answer):
            _take_over(choice, other)
        complaint = request.json.complaint(message["content"])
        if complaint is not None:
            raise no_json(complaint)

    async def _again(self, request: ChatRequest, answer: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of a further request, whose tokens are added to the answer's.

        Raises:
            ApiError: the engine refuses it.
        """
        async with await self.open(request) as response:
            second = await self._relay.read_json(response)
        if response.status != 200:
            raise failure(second, response.status)
        used, more = answer.get("usage"), second.get("usage")
        if used and more:
            for name in ("completion_tokens", "total_tokens"):
                used[name] += more["completion_tokens"]
        choices: list[dict[str, Any]] = second["choices"]
        return choices
