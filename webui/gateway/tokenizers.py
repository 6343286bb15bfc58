"""Texts as the engine's tokens, where the gateway must know how many they are."""

from __future__ import annotations

from typing import Any, Protocol

from webui.gateway.documents import encoded
from webui.gateway.errors import unsupported_by_engine
from webui.gateway.relay import Relay

COMPLETIONS = "/v1/completions"


class Tokenizer(Protocol):
    """All raise ApiError where the engine is not there."""

    async def tokenized(self, asked: dict[str, Any], /) -> tuple[int, dict[str, Any]]:
        """Status and answer to a request of ``/tokenize``."""

    async def count(self, asked: dict[str, Any], /) -> int | None:
        """Tokens of a conversation; None where the engine does not tell."""

    async def tokens(self, text: str) -> list[int] | None:
        """Of a text alone; None where the engine does not tell."""

    async def text(self, tokens: list[int]) -> str | None:
        """What they stand for; None where the engine does not tell."""


class VllmTokenizer:
    """vLLM has routes for it."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def tokenized(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return await _ask(self._relay, "/tokenize", asked)

    async def count(self, asked: dict[str, Any]) -> int | None:
        count = (await self.tokenized(asked))[1].get("count")
        return count if isinstance(count, int) else None

    async def tokens(self, text: str) -> list[int] | None:
        asked = {"prompt": text, "add_special_tokens": False}
        tokens = (await self.tokenized(asked))[1].get("tokens")
        return tokens if isinstance(tokens, list) else None

    async def text(self, tokens: list[int]) -> str | None:
        _, answer = await _ask(self._relay, "/detokenize", {"tokens": tokens})
        text = answer.get("prompt")
        return text if isinstance(text, str) else None


class RayTokenizer:
    """Ray Serve has none that work with this vLLM. But a completion tells the tokens of its prompt,
    and repeats the text of tokens.

    Whole conversations are not counted like that: each would be computed a second time.
    """

    def __init__(self, relay: Relay, model: str) -> None:
        self._relay = relay
        self._model = model

    async def tokenized(self, _asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        raise unsupported_by_engine("Counting tokens")

    async def count(self, _asked: dict[str, Any]) -> int | None:
        return None

    async def tokens(self, text: str) -> list[int] | None:
        more = {"add_special_tokens": False, "return_token_ids": True, "max_tokens": 1}
        tokens = (await self._completed(text, more)).get("prompt_token_ids")
        return tokens if isinstance(tokens, list) else None

    async def text(self, tokens: list[int]) -> str | None:
        text = (await self._completed(tokens, {"echo": True, "max_tokens": 0})).get("text")
        return text if isinstance(text, str) else None

    async def _completed(self, prompt: str | list[int], more: dict[str, Any]) -> dict[str, Any]:
        asked = {"model": self._model, "prompt": prompt, "temperature": 0, **more}
        _, answer = await _ask(self._relay, COMPLETIONS, asked)
        choices: list[dict[str, Any]] = answer.get("choices") or [{}]
        return choices[0]


async def _ask(relay: Relay, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with await relay.open("POST", path, encoded(asked)) as response:
        return response.status, await relay.read_json(response)
