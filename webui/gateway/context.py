"""How much of the model's context a request leaves for its answer."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from webui.gateway.relay import Relay
from webui.gateway.tokenizers import Tokenizer

# After a restart the engine may have another limit.
KEEP_LIMIT_S = 30.0
# What a chat template adds beyond the bytes of a request's own JSON; its words on tools most of it.
TEMPLATE_TOKENS = 400


class Context:
    """Knows the engine's limit, and counts tokens only where a request may come near it."""

    def __init__(self, relay: Relay, tokenizer: Tokenizer) -> None:
        self._relay = relay
        self._tokenizer = tokenizer
        self._limit = 0
        self._checkpoint = ""
        self._asked_at = float("-inf")

    async def room(
        self, document: dict[str, Any], text_bytes: int, image_tokens: int, wanted: int
    ) -> int:
        """Tokens that are left for thought and answer: at least so many, or exactly, where
        ``wanted`` might not fit.

        Args:
            text_bytes: of the request without its images. A token has at least one.
            image_tokens: of all its images.

        Raises:
            ApiError: the engine is not there.
        """
        limit = (await self._look())._limit
        sure = limit - text_bytes - image_tokens - TEMPLATE_TOKENS
        if sure >= wanted:
            return sure
        text_tokens = await self._count(document)
        return sure if text_tokens is None else max(0, limit - text_tokens - image_tokens)

    async def checkpoint(self) -> str:
        """What the engine serves, in its own words.

        Raises:
            ApiError: the engine is not there.
        """
        return (await self._look())._checkpoint

    async def _look(self) -> Self:
        now = asyncio.get_running_loop().time()
        if now - self._asked_at > KEEP_LIMIT_S:
            listing = await self._relay.fetch_json("/v1/models")
            lengths = [_length_of(model) for model in listing["data"]]
            self._limit = min((n for n in lengths if isinstance(n, int)), default=2**31)
            self._checkpoint = str(listing["data"][0].get("root")) if listing["data"] else ""
            self._asked_at = now
        return self

    async def _count(self, document: dict[str, Any]) -> int | None:
        """As the engine counts, without images; None where it cannot."""
        names = ("model", "tools", "add_generation_prompt", "continue_final_message")
        asked = {name: document[name] for name in names if document.get(name) is not None}
        asked["messages"] = [_without_images(message) for message in document["messages"]]
        return await self._tokenizer.count(asked)

    async def tokenized(
        self, document: dict[str, Any], image_tokens: int
    ) -> tuple[dict[str, Any], int]:
        """The engine's answer on a text or a conversation, and its status. Pictures are counted,
        but are not in the list of tokens.

        Raises:
            ApiError: the engine is not there.
        """
        if isinstance(messages := document.get("messages"), list):
            document["messages"] = [_without_images(message) for message in messages]
        status, answer = await self._tokenizer.tokenized(document)
        if isinstance(answer.get("count"), int):
            answer["count"] += image_tokens
        return answer, status

    async def first_tokens(self, text: str, most: int) -> str | None:
        """What remains of a text with at most so many tokens; None where that is all of it."""
        if len(text.encode()) <= most:
            return None
        tokens = await self._tokenizer.tokens(text)
        if tokens is None or len(tokens) <= most:
            return None
        shorter = await self._tokenizer.text(tokens[:most])
        return None if shorter is None else shorter.rstrip("\ufffd")


def _length_of(model: dict[str, Any]) -> Any:
    """The model's context in the words of vLLM, or of Ray."""
    length = model.get("max_model_len")
    return (model.get("metadata") or {}).get("max_request_context_length", length)


def _without_images(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    kept = [p for p in content if not (isinstance(p, dict) and p.get("type") == "image_url")]
    return {**message, "content": kept or ""}
