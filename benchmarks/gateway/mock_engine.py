"""An engine that costs next to nothing: the same answer to everyone, at one pace.

    python -m benchmarks.gateway.mock_engine --port 8000 --model NAME [--tick 0.01] [--tokens 64]

Its answers have the form of vLLM 0.32's. The first token comes at once, so that whatever is
measured before it is the gateway's; each further one a tick later.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
from typing import Any, cast

import httptools
import orjson
import uvloop

BACKLOG = 4096
CONTEXT = 8192
CREATED = 1_700_000_000
# One part in four of an answer is thought, where thinking is not switched off.
THOUGHT_PART = 4
WORD = " word"
END_OF_STREAM = b"0\r\n\r\n"
STREAM_HEADERS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Answers:
    """Everything that is ever sent, made once."""

    def __init__(self, model: str, tokens: int) -> None:
        self._model = model
        self._tokens = tokens
        card = {"id": model, "object": "model", "owned_by": "vllm", "max_model_len": CONTEXT}
        self.models = _document({"object": "list", "data": [card]})
        self.healthy = _http(200, b"", "text/plain")
        self.unknown = _document({"detail": "Not Found"}, 404)
        self.counted = _document({"count": 16, "max_model_len": CONTEXT, "tokens": [*range(16)]})

    @functools.cache  # noqa: B019  (there is one of these in a process)
    def whole(self, thinking: bool) -> bytes:
        thought = self._thought(thinking)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": WORD * (self._tokens - thought),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": [],
            "reasoning": WORD * thought or None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": None,
        }
        more = {"usage": self._usage(), "prompt_logprobs": None, "prompt_token_ids": None}
        return _document(self._head("chat.completion") | {"choices": [choice], **more})

    @functools.cache  # noqa: B019
    def frames(self, thinking: bool, ids: bool, usage: bool) -> tuple[bytes, ...]:
        """What a stream gets at each tick; nothing at some."""
        thought = self._thought(thinking)
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        role = self._event(
            [first | {"logprobs": None, "finish_reason": None}],
            prompt_token_ids=[1] * 16 if ids else None,
            prompt_text=None,
        )
        deltas = [self._delta({"reasoning": WORD}, ids)] * thought
        # The token that closes a thought has no text; it is sent where its number was asked for.
        deltas += [self._delta({}, ids) if ids else b""] * bool(thought)
        deltas += [self._delta({"content": WORD}, ids)] * (self._tokens - thought)
        end = self._delta({}, ids, finish_reason="stop", stop_reason=None)
        if usage:
            end += self._event([], usage=self._usage())
        last = end + _frame(b"data: [DONE]\n\n") + END_OF_STREAM
        return (role + deltas[0], *deltas[1:], last)

    def _thought(self, thinking: bool) -> int:
        return self._tokens // THOUGHT_PART if thinking else 0

    def _usage(self) -> dict[str, Any]:
        used = {"prompt_tokens": 16, "completion_tokens": self._tokens}
        return used | {"total_tokens": 16 + self._tokens}

    def _head(self, kind: str) -> dict[str, Any]:
        name = "chatcmpl-0123456789abcdef0123456789abcdef"
        return {"id": name, "object": kind, "created": CREATED, "model": self._model}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        document = self._head("chat.completion.chunk") | {"choices": choices, **more}
        return _frame(b"data: " + _compact(document) + b"\n\n")

    def _delta(self, delta: dict[str, str], ids: bool, **more: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return self._event([choice | {"token_ids": [1] if ids else None}])


def _compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _frame(data: bytes) -> bytes:
    """A chunk of a body whose length is not known."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _http(status: int, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} Any\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _document(document: dict[str, Any], status: int = 200) -> bytes:
    return _http(status, _compact(document))


class Stream:
    """One answer on its way, at a pace of its own from its first token on."""

    def __init__(
        self, transport: asyncio.WriteTransport, frames: tuple[bytes, ...], tick_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._frames = iter(frames)
        self._tick_s = tick_s
        self._due = self._loop.time()
        self._send(STREAM_HEADERS + next(self._frames))

    def _send(self, frame: bytes) -> None:
        if frame:
            self._transport.write(frame)
        self._due += self._tick_s
        self._loop.call_at(self._due, self._step)

    def _step(self) -> None:
        frame = next(self._frames, None)
        if frame is not None and not self._transport.is_closing():
            self._send(frame)


class Connection(asyncio.Protocol):
    """One client, that asks one thing after the other."""

    def __init__(self, answers: Answers, tick_s: float) -> None:
        self._answers = answers
        self._tick_s = tick_s
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url.partition(b"?")[0], []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answers = self._answers
        if self._path == b"/v1/chat/completions":
            self._chat(orjson.loads(b"".join(self._body)))
            return
        known = {
            b"/v1/models": answers.models,
            b"/health": answers.healthy,
            b"/tokenize": answers.counted,
        }
        self._transport.write(known.get(self._path, answers.unknown))

    def _chat(self, asked: dict[str, Any]) -> None:
        thinking = asked.get("thinking_token_budget") != 0
        if not asked.get("stream"):
            self._transport.write(self._answers.whole(thinking))
            return
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        frames = self._answers.frames(thinking, bool(asked.get("return_token_ids")), usage)
        Stream(self._transport, frames, self._tick_s)


async def serve(port: int, answers: Answers, tick_s: float) -> None:
    """Until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(answers, tick_s), "127.0.0.1", port, backlog=BACKLOG
    )
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tick", type=float, default=0.01, metavar="SECONDS")
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    uvloop.run(serve(given.port, Answers(given.model, given.tokens), given.tick))


if __name__ == "__main__":
    main()
