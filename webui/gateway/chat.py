"""A chat request on its way to the engine, and its answer on the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.types import Send

from webui.gateway.answers import AnswerEvents, is_unanswered, shape
from webui.gateway.context import Context
from webui.gateway.documents import encoded, parsed
from webui.gateway.fields import check_fields
from webui.gateway.images import Images, Placed
from webui.gateway.relay import Relay, is_event_stream, send_json
from webui.gateway.thinking import Allowance, Thinking, put_in

PATH = "/chat/completions"
ENGINE_PATH = "/v1/chat/completions"
# Of the engine's refusal of a picture that it has no longer.
CACHE_MISS = "Cache miss"


@dataclass
class _Request:
    """As the engine gets it, and what its answer may have."""

    document: dict[str, Any]
    images: Placed
    allowance: Allowance
    ids: bool
    """Whether the client wants the numbers of tokens."""

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

    def without_thought(self, choices: int = 1) -> _Request:
        """The same question, to be answered at once."""
        allowance = self.allowance._replace(thinking=0)
        document = self.document | {"n": choices}
        put_in(document, allowance)
        return _Request(document, self.images, allowance, self.ids)


class Chat:
    """Answers ``/chat/completions``."""

    def __init__(self, relay: Relay, images: Images, thinking: Thinking) -> None:
        self._relay = relay
        self._images = images
        self._thinking = thinking
        self._context = Context(relay)

    async def answer(self, body: bytes, send: Send) -> None:
        """Send the answer to a request.

        Raises:
            ApiError: the request is wrong, or the engine has no answer.
        """
        request = await self._prepared(body)
        del body  # not to be kept in memory for as long as the answer takes
        response = await self._open(request)
        if request.images.named_only and await _is_cache_miss(response):
            await request.images.fill(with_bytes=True)
            response = await self._open(request)
        # Leaving this block before the end of the answer closes the engine's connection, and
        # with it the engine stops generating.
        async with response:
            if response.status == 200:
                request.images.accepted()
            if is_event_stream(response):
                await self._send_events(request, response, send)
            else:
                answer = await self._relay.read_json(response)
                if response.status == 200:
                    await self._complete(request, answer)
                await send_json(send, encoded(answer), response.status)

    async def _open(self, request: _Request) -> aiohttp.ClientResponse:
        return await self._relay.open("POST", ENGINE_PATH, encoded(request.document))

    async def _prepared(self, body: bytes) -> _Request:
        document = parsed(body)
        check_fields(PATH, document)
        allowance = self._thinking.taken_from(document)
        images = await self._images.put_in(document)
        if allowance.thinking:
            text_bytes = len(body) - images.characters
            room = await self._context.room(document, text_bytes, images.tokens, allowance.wanted)
            allowance = allowance.within(room)
        put_in(document, allowance)
        request = _Request(document, images, allowance, bool(document.get("return_token_ids")))
        if document.get("stream") and request.limit is not None:
            document["return_token_ids"] = True
        return request

    async def _send_events(
        self, request: _Request, response: aiohttp.ClientResponse, send: Send
    ) -> None:
        options = request.document.get("stream_options") or {}
        events = AnswerEvents(
            limit=request.limit,
            tools=request.tools,
            usage=bool(options.get("include_usage")),
            ids=request.ids,
            choices=request.choices,
        )

        async def again() -> aiohttp.ClientResponse:
            return await self._open(request.without_thought())

        await self._relay.forward_answer(response, events, again, send)

    async def _complete(self, request: _Request, answer: dict[str, Any]) -> None:
        """See to it that every choice of a whole answer is one, and no longer than it may be."""
        choices = answer["choices"]
        empty = [choice for choice in choices if is_unanswered(choice)]
        if empty:
            await self._fill(empty, request.without_thought(len(empty)), answer)
        used = answer.get("usage") or {}
        for choice in choices:
            shape(choice, tools=request.tools)
            text = choice["message"].get("content")
            if (
                request.limit is None
                or used.get("completion_tokens", 0) <= request.limit
                or not text
            ):
                continue
            shorter = await self._context.first_tokens(text, request.limit)
            if shorter is not None:
                choice["message"]["content"], choice["finish_reason"] = shorter, "length"

    async def _fill(
        self, empty: list[dict[str, Any]], request: _Request, answer: dict[str, Any]
    ) -> None:
        """Answers to what was only thought about."""
        async with await self._open(request) as response:
            second = await self._relay.read_json(response)
        if response.status != 200:
            return
        for choice, other in zip(empty, second["choices"], strict=True):
            choice["message"] |= {"content": other["message"].get("content")}
            choice["finish_reason"] = other["finish_reason"]
        used, more = answer.get("usage"), second.get("usage")
        if used and more:
            for name in ("completion_tokens", "total_tokens"):
                used[name] += more["completion_tokens"]


async def _is_cache_miss(response: aiohttp.ClientResponse) -> bool:
    return response.status == 400 and CACHE_MISS in await response.text()
