"""The page's way to the engine: the asynchronous openai client, on the gateway's API.

So the page has what the API has: a budget for thinking beside the answer's, pictures that are sent
to the engine once, limits, and errors that say what to do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai

# Fields that are no fields of OpenAI's.
OWN = {"thinking", "continue_final_message", "add_generation_prompt"}
# The client holds each message against its types: 13 ms for a talk of thirty turns, in which nobody
# else is served. The gateway does that too.
UNCHECKED = {*OWN, "messages"}


# Over its socket, whatever the host.
GATEWAY = "http://127.0.0.1"
METRICS_TIMEOUT_S = 5.0


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


def http_client(socket: Path) -> httpx2.AsyncClient:
    """For the gateway's socket."""
    limits = httpx2.Limits(max_connections=None)  # the gateway has its own
    transport = httpx2.AsyncHTTPTransport(uds=str(socket), limits=limits)
    return openai.DefaultAsyncHttpxClient(transport=transport, trust_env=False)


def connect(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """A client for the gateway's API."""
    return openai.AsyncOpenAI(
        base_url=f"{GATEWAY}/v1",
        api_key="none",
        max_retries=0,
        timeout=None,  # the gateway has its own
        http_client=http,
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
    unchecked = {name: fields[name] for name in fields.keys() & UNCHECKED}
    fields = {name: value for name, value in fields.items() if name not in unchecked}
    try:
        stream = await client.chat.completions.create(
            **fields,
            messages=[],  # in its place: see UNCHECKED
            stream=True,
            stream_options={"include_usage": True},
            extra_body=unchecked,
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


async def metrics(http: httpx2.AsyncClient) -> bytes | None:
    """The gateway's figures and the engine's, in Prometheus's format; None without an answer."""
    try:
        answer = await http.get(f"{GATEWAY}/metrics", timeout=METRICS_TIMEOUT_S)
    except httpx2.HTTPError:
        return None
    return answer.content if answer.is_success else None


def _headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _said(error: Exception) -> tuple[str, str]:
    """The API's own words, and its code."""
    body = getattr(error, "body", None)
    told = body if isinstance(body, dict) else {}
    message = str(told.get("message") or getattr(error, "message", "The answer broke off."))
    return message[:300], str(told.get("code") or "")
