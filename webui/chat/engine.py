"""The page's way to the engine: the asynchronous openai client, on the API of this process.

So the page has what the API has: a budget for thinking beside the answer's, pictures that are sent
to the engine once, limits, and errors that say what to do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from starlette.types import ASGIApp

from webui.chat.transport import InProcess

# Fields that are no fields of OpenAI's.
OWN = {"thinking", "continue_final_message", "add_generation_prompt"}


class EngineError(Exception):
    """No answer, or no more of it; the message is for the person who asked.

    ``code`` is the API's, and empty where there is none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. The last one has the tokens of the prompt and of all that came."""

    reasoning: str = ""
    answer: str = ""
    usage: tuple[int, int] | None = None


def connect(gateway: ASGIApp) -> openai.AsyncOpenAI:
    """A client for the API of this process."""
    return openai.AsyncOpenAI(
        base_url="http://127.0.0.1/v1",
        api_key="none",
        max_retries=0,
        timeout=None,  # the gateway has its own
        http_client=openai.DefaultAsyncHttpxClient(transport=InProcess(gateway), trust_env=False),
    )


async def stream_answer(
    client: openai.AsyncOpenAI, key: str, fields: dict[str, Any]
) -> AsyncGenerator[Delta, None]:
    """The answer as it comes. Leaving the loop early stops the engine's work on it.

    Args:
        key: of the API, of the person who asks; empty where none is needed.
        fields: of the request, those of our own API included.

    Raises:
        EngineError: the engine refused, is not there, or went away.
    """
    own = {name: fields[name] for name in fields.keys() & OWN}
    fields = {name: value for name, value in fields.items() if name not in own}
    try:
        stream = await client.chat.completions.create(
            **fields,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=own,
            extra_headers=_headers(key),
        )
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    # The client keeps fields that it does not know.
                    reasoning = getattr(choice.delta, "reasoning", None) or ""
                    yield Delta(reasoning, choice.delta.content or "")
                if chunk.usage is not None:
                    used = chunk.usage
                    yield Delta(usage=(used.prompt_tokens, used.completion_tokens))
    except openai.APIStatusError as error:
        raise EngineError(*_said(error)) from None
    except openai.APIConnectionError:
        raise EngineError("The model does not answer just now.") from None
    except (openai.APIError, httpx2.HTTPError) as error:
        raise EngineError(*_said(error)) from None


async def context_tokens(client: openai.AsyncOpenAI, key: str) -> int | None:
    """For prompt and answer together; None where the engine does not say just now."""
    try:
        models = await client.models.list(extra_headers=_headers(key))
    except openai.APIError:
        return None
    # vLLM's own field; the client keeps what it does not know.
    lengths = [getattr(model, "max_model_len", None) for model in models.data]
    return min((length for length in lengths if isinstance(length, int)), default=None)


def _headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _said(error: Exception) -> tuple[str, str]:
    """The API's own words, and its code."""
    body = getattr(error, "body", None)
    told = body if isinstance(body, dict) else {}
    message = str(told.get("message") or getattr(error, "message", "The answer broke off."))
    return message[:300], str(told.get("code") or "")
