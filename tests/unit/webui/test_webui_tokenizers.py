"""webui.gateway.tokenizers: what tells the tokens of a text, and what if nothing does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from webui.gateway.context import Context
from webui.gateway.errors import ApiError
from webui.gateway.relay import Relay
from webui.gateway.tokenizers import RayTokenizer, Tokenizer, VllmTokenizer

# One token for each letter.
TEXT = "abcdef"


class FakeRelay:
    """An engine that answers on these paths, and notes what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def open(self, _method: str, path: str, body: bytes) -> Any:
        document = json.loads(body)
        self.asked.append((path, document))
        answer = self.answers[path.rsplit("/", 1)[-1]]
        return self._response(answer(document))

    @contextlib.asynccontextmanager
    async def _response(self, answer: dict[str, Any]) -> AsyncIterator[Any]:
        yield SimpleNamespace(status=200 if "error" not in answer else 400, answer=answer)

    async def read_json(self, response: Any) -> Any:
        return response.answer

    async def fetch_json(self, _path: str) -> dict[str, Any]:
        return {"data": [{"id": "one", "metadata": {"max_request_context_length": 5000}}]}


def vllm() -> FakeRelay:
    return FakeRelay(
        tokenize=lambda d: {"tokens": [ord(c) for c in d["prompt"]], "count": len(d["prompt"])},
        detokenize=lambda d: {"prompt": "".join(map(chr, d["tokens"]))},
    )


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """As vLLM 0.32 within Ray 2.60."""
    prompt = document["prompt"]
    if isinstance(prompt, str):
        return {"choices": [{"text": "?", "prompt_token_ids": [ord(c) for c in prompt]}]}
    return {"choices": [{"text": "".join(map(chr, prompt)), "prompt_token_ids": None}]}


def context(tokenizer: Tokenizer, relay: FakeRelay) -> Context:
    return Context(cast("Relay", relay), tokenizer)


def tokenizer(kind: str, relay: FakeRelay) -> Tokenizer:
    known = cast("Relay", relay)
    return VllmTokenizer(known) if kind == "vllm" else RayTokenizer(known, "one")


@pytest.mark.parametrize(("most", "expected"), [(3, "abc"), (6, None), (5, "abcde"), (99, None)])
@pytest.mark.parametrize("kind", ["vllm", "ray"])
def test_an_answer_is_cut_to_its_tokens(kind: str, most: int, expected: str | None) -> None:
    relay = vllm() if kind == "vllm" else FakeRelay(completions=completed)
    found = context(tokenizer(kind, relay), relay).first_tokens(TEXT, most)
    assert asyncio.run(found) == expected


def test_an_engine_that_does_not_tell_leaves_the_answer_whole() -> None:
    relay = FakeRelay(completions=lambda _: {"error": {"message": "no"}})
    assert asyncio.run(context(tokenizer("ray", relay), relay).first_tokens(TEXT, 3)) is None


def test_ray_counts_no_conversations() -> None:
    relay = FakeRelay()
    with pytest.raises(ApiError) as caught:
        asyncio.run(tokenizer("ray", relay).tokenized({"prompt": "x"}))
    assert (caught.value.status, caught.value.code) == (501, "not_supported_by_backend")
    assert relay.asked == []


def test_without_a_count_room_is_what_is_left_for_certain() -> None:
    """Each byte may be a token: the thought becomes shorter than it might be, never too long."""
    relay = FakeRelay()
    document = {"model": "one", "messages": [{"role": "user", "content": "x" * 3000}]}
    room = context(tokenizer("ray", relay), relay).room(document, 3000, 100, 4096)
    assert 0 < asyncio.run(room) <= 5000 - 3000 - 100
    assert relay.asked == [], "nothing is computed for it"
