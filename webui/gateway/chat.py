"""A chat request on its way to the engine, and its answer on the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from webui.gateway.answers import AnswerEvents
from webui.gateway.cache import AnswerCache, cache_key, cacheable
from webui.gateway.context import Context
from webui.gateway.documents import encoded
from webui.gateway.engine_client import EngineAnswer
from webui.gateway.errors import wrong
from webui.gateway.exchange import Exchange
from webui.gateway.fields import check_fields
from webui.gateway.images import Images
from webui.gateway.json_answers import JsonAnswers
from webui.gateway.names import Names
from webui.gateway.relay import Relay, is_event_stream
from webui.gateway.thinking import Thinking, put_in
from webui.gateway.tokenizers import Tokenizer
from webui.gateway.tool_choice import allow_tools
from webui.gateway.whole import ChatRequest, WholeAnswers

# Of ordinary text; for a stream that ends before it is known.
BYTES_A_TOKEN = 4
PATH = "/chat/completions"


@dataclass(frozen=True)
class Form:
    """The API in whose form a chat answer goes out; by default the chat's own.

    ``events`` is called for each stream, and what it gives, if anything, for each piece of it.
    """

    whole: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    events: Callable[[], Callable[[bytes], bytes] | None] = lambda: None
    refusal: Callable[[dict[str, Any], int], dict[str, Any]] = lambda answer, _status: answer
    """Of the engine's answers that are errors, with their status."""


def _is_about_a_picture(status: int, answer: dict[str, Any]) -> bool:
    """Whether a refusal may come from a damaged image: vLLM says so, or only fails."""
    return status == 500 or (status == 400 and "image" in str(answer.get("error")).lower())


class Chat:
    """Answers chat requests, also those that came in another API's form."""

    def __init__(
        self,
        relay: Relay,
        images: Images,
        thinking: Thinking,
        cache: AnswerCache | None,
        tokenizer: Tokenizer,
        names: Names,
        checkpoint: str = "",
    ) -> None:
        self._checkpoint = checkpoint
        self._cache = cache
        self._relay = relay
        self._images = images
        self._thinking = thinking
        self._names = names
        self._context = Context(relay, tokenizer)
        self._whole = WholeAnswers(relay, self._context)

    async def answer(
        self, document: dict[str, Any], size: int, exchange: Exchange, form: Form
    ) -> None:
        """Send the answer to a request.

        Args:
            document: of ``/chat/completions``; it is changed.
            size: of the body that it came in, in bytes.

        Raises:
            ApiError: the request is wrong, or the engine has no answer.
        """
        request = await self._prepared(document, size)
        request.session = exchange.session_for(document)
        exchange.images = len(request.images)
        if self._cache is None or not cacheable(document):
            await self._ask(request, exchange, form)
            return
        with request.images.names_alone():
            # Answers are kept as they went out: with thoughts, or without.
            thoughts = "thoughts" if request.thoughts else ""
            of = (exchange.key, thoughts, self._checkpoint, await self._context.checkpoint())
            key = cache_key(document, *of)
        kept = await self._cache.get(key)
        exchange.cache = "miss" if kept is None else "hit"
        exchange.headers.append((b"x-cache", exchange.cache.encode()))
        if kept is None:
            answer = await self._ask(request, exchange, form)
            if answer is not None:
                self._cache.put(key, encoded(answer))
        else:
            await exchange.send_json(encoded(form.whole(orjson.loads(kept))))

    async def _ask(
        self, request: ChatRequest, exchange: Exchange, form: Form
    ) -> dict[str, Any] | None:
        """Answer from the engine; the whole answer, if it is one."""
        response = await self._whole.open(request)
        if request.images.named_only and response.status >= 400:
            # Most likely the engine has lost one; whatever it is, bytes are as good as new.
            response.release()
            await request.images.fill(with_bytes=True)
            response = await self._whole.open(request)
        # Leaving this block before the end of the answer closes the engine's connection, and
        # with it the engine stops generating.
        async with response:
            if response.status == 200:
                request.images.accepted()
                exchange.prompt_tokens = request.images.tokens + request.text_bytes // BYTES_A_TOKEN
            if is_event_stream(response):
                await self._send_events(request, response, exchange, form)
                return None
            answer = await self._relay.read_json(response)
        if response.status != 200:
            if _is_about_a_picture(response.status, answer):
                await request.images.check()
            exchange.code = "refused_by_engine"
            refusal = form.refusal(answer, response.status)
            await exchange.send_json(encoded(refusal), response.status)
            return None
        try:
            await self._whole.complete(request, answer)
        finally:
            exchange.count(answer.get("usage"))
        await exchange.send_json(encoded(form.whole(answer)))
        return answer

    async def tokenize(self, document: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """How many tokens a text or a conversation is, pictures included: the engine's answer, and
        its status.

        Raises:
            ApiError: an image cannot be used, or the engine is not there.
        """
        self._thinking.taken_from(document)  # it may be in the model's name
        self._names.put_in(document)
        images = await self._images.put_in(document)
        return await self._context.tokenized(document, images.tokens)

    async def _prepared(self, document: dict[str, Any], size: int) -> ChatRequest:
        check_fields(PATH, document)
        if not isinstance(document.get("messages"), list):
            raise wrong("messages", "must be a list")
        allow_tools(document)
        allowance = self._thinking.taken_from(document)
        self._names.put_in(document)
        images = await self._images.put_in(document)
        text_bytes = size - images.characters
        if allowance.thinking:
            room = await self._context.room(document, text_bytes, images.tokens, allowance.wanted)
            allowance = allowance.within(room)
        put_in(document, allowance)
        options = document.get("stream_options")
        options = options if isinstance(options, dict) else {}
        request = ChatRequest(
            document,
            text_bytes,
            images,
            allowance,
            JsonAnswers(document.get("response_format")),
            ids=bool(document.get("return_token_ids")),
            usage=bool(options.get("include_usage")),
            # Asked of the engine in any case: without it, it tells nothing to count by.
            thoughts=document.pop("include_reasoning", True) is not False,
        )
        if document.get("stream"):
            # To be counted here, whether or not the client wants to know.
            document["stream_options"] = options | {"include_usage": True}
            if request.limit is not None:
                document["return_token_ids"] = True
        return request

    async def _send_events(
        self, request: ChatRequest, response: EngineAnswer, exchange: Exchange, form: Form
    ) -> None:
        events = AnswerEvents(
            limit=request.limit,
            tools=request.tools,
            usage=request.usage,
            ids=request.ids,
            choices=request.choices,
            thoughts=request.thoughts,
        )

        async def again() -> EngineAnswer:
            return await self._whole.open(request.without_thought())

        try:
            error = await self._relay.forward_answer(
                response, events, form.events(), again, exchange.send
            )
            exchange.code = error.code if error else ""
        finally:
            exchange.count(events.used)
            # A stream that broke off has told nothing of it.
            exchange.completion_tokens = exchange.completion_tokens or events.generated
