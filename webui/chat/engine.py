"""The page's way to the engine: the asynchronous openai client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import openai

MAX_TOKENS = 2048
# Thinking may use this much of MAX_TOKENS, so that an answer always follows.
THINKING_TOKENS = 1024


class EngineError(Exception):
    """No answer, or no more of it; the message is for the person who asked."""


@dataclass(frozen=True)
class Delta:
    """A piece of an answer."""

    reasoning: str
    answer: str


def connect(upstream: str) -> openai.AsyncOpenAI:
    """A client for the engine, which asks for no key and is never behind a proxy."""
    return openai.AsyncOpenAI(
        base_url=f"{upstream}/v1",
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


async def stream_answer(
    client: openai.AsyncOpenAI, model: str, messages: list[dict[str, Any]]
) -> AsyncIterator[Delta]:
    """The answer as it comes. Leaving the loop early stops the engine's work on it.

    Raises:
        EngineError: the engine refused, is not there, or went away.
    """
    try:
        stream = await client.chat.completions.create(
            model=model,
            messages=cast("Any", messages),
            max_tokens=MAX_TOKENS,
            stream=True,
            extra_body={"thinking_token_budget": THINKING_TOKENS},
        )
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    # vLLM's own field; the client keeps what it does not know.
                    reasoning = getattr(choice.delta, "reasoning", None) or ""
                    yield Delta(reasoning, choice.delta.content or "")
    except openai.APIStatusError as error:
        raise EngineError(_reason(error)) from None
    except openai.APIError:
        raise EngineError("The model does not answer just now.") from None


def _reason(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return f"The model refused: {str(body.get('message') or error.message)[:300]}"
