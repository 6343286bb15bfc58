"""A stand-in for vLLM: a program of its own, with faults on demand, that records what it saw.

    python fake_vllm.py --host 127.0.0.1 --port 8000 --served-model-name NAME ... [any other option]

It answers at once with words that repeat the question, so that a test can check an answer. How it
behaves is a :class:`Script`, given as JSON in the environment variable ``FAKE_VLLM`` and replaced
at any time by ``POST /fake/script``; ``GET /fake/seen`` lists the requests so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

LOAD_LINES = (
    "(Worker pid=1) INFO 01-01 00:00:00 [runner.py:1] Starting to load model fake...",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  1.0it/s]\r",
    "(Worker pid=1) INFO 01-01 00:00:00 [loader.py:1] Loading weights took 0.01 seconds",
    "(EngineCore pid=1) INFO 01-01 00:00:00 [core.py:1] init engine (profile, create kv cache,"
    " warmup model) took 0.01 s",
)


@dataclass
class Script:
    """How to behave; times in seconds."""

    load_s: float = 0.0
    """From start to listening."""
    last_words: list[str] = field(default_factory=list)
    """Printed before ``exit_code`` takes effect."""
    exit_code: int | None = None
    """Leave with this code instead of listening."""
    exit_after_s: float | None = None
    """Leave with ``exit_code`` this long after listening began."""
    ignore_term: bool = False
    leave_child: bool = False
    """Start a child that outlives this process."""
    words: int = 8
    """Length of an answer; a word is a token."""
    thought: int = 1
    """Length of the thought before it."""
    never_answers: bool = False
    """Spend everything on the thought, unless there is no budget for it."""
    says: list[str] = field(default_factory=list)
    """Answers to give in turn instead; the last one for ever."""
    budgets: bool = True
    """Take thinking_token_budget, as an engine with a parser for thoughts does."""
    tags: bool = False
    """Leave tags of tool calls in the answer."""
    context: int = 8192
    """The model's limit, in words."""
    keeps_images: bool = True
    """Know images by their uuid, once seen with their bytes."""
    delay_s: float = 0.0
    """Before each word."""
    slots: int | None = None
    """Answer so many requests at once; others wait."""
    prefill_s: float = 0.0
    """Before the first word; the KV cache fills meanwhile."""
    break_after: int | None = None
    """Cut the connection after so many words."""
    break_inside: int | None = None
    """The same, in the middle of the event of that word."""
    stall_after: int | None = None
    """Say nothing more after so many words."""
    garbage_after: int | None = None
    """Send something else than JSON after so many words."""
    status: int = 200
    """Anything else: answer with an error of vLLM's shape."""
    error: str = "as the script says"
    """Its message."""


@dataclass
class Seen:
    """A request, as it came and how it ended."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    outcome: str = "running"
    ended_at: float | None = None


@web.middleware
async def require_key(request: web.Request, handler: Any) -> web.StreamResponse:
    """As the middleware does that vLLM is given in a cluster."""
    if (file := os.environ.get("STEP3VL_CLUSTER_KEY_FILE")) is None:
        return await handler(request)
    assert request.transport is not None
    is_near = request.remote == request.transport.get_extra_info("sockname")[0]
    key = Path(file).read_text().strip()
    if "authorization" in request.headers:
        if request.headers["authorization"] == f"Bearer {key}":
            return await handler(request)
    elif is_near or request.path in {"/health", "/tokenize", "/detokenize"}:
        return await handler(request)
    return web.json_response({"error": {"message": "no key"}}, status=401)


class FakeVllm:
    def __init__(self, script: Script, names: list[str]) -> None:
        self.script = script
        self.names = names
        self.seen: list[Seen] = []
        self.images: set[str] = set()
        self.numbers: dict[str, int] = {}
        self.running = 0
        self.words = 0
        self.kv_cache = 0.0
        self.slots = asyncio.Semaphore(script.slots or sys.maxsize)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=200_000_000, middlewares=[require_key])
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.chat)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/detokenize", self.detokenize)
        app.router.add_get("/fake/seen", self.list_seen)
        app.router.add_get("/fake/speak", self.speak)
        app.router.add_post("/fake/script", self.set_script)
        app.router.add_route("*", "/{tail:.*}", self.anything)
        return app

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def metrics(self, _request: web.Request) -> web.Response:
        """Those by which the engine's parent sees progress, and those that the page shows."""
        figures = {
            "num_requests_running": self.running,
            "num_requests_waiting": 0,
            "kv_cache_usage_perc": self.kv_cache,
            "generation_tokens_total": self.words,
        }
        return web.Response(
            text="".join(f'vllm:{name}{{engine="0"}} {value}\n' for name, value in figures.items())
        )

    async def list_seen(self, _request: web.Request) -> web.Response:
        return web.json_response([asdict(seen) for seen in self.seen])

    async def speak(self, _request: web.Request) -> web.Response:
        with contextlib.suppress(OSError):
            print("a line of log", flush=True)
        return web.Response()

    async def set_script(self, request: web.Request) -> web.Response:
        self.script = Script(**await request.json())
        self.seen.clear()
        return web.Response()

    async def anything(self, request: web.Request) -> web.Response:
        seen = await self._note(request)
        seen.outcome = "not found"
        return web.json_response({"detail": "Not Found"}, status=404)

    async def _note(self, request: web.Request) -> Seen:
        raw = await request.read()
        with contextlib.suppress(ValueError):
            raw = json.loads(raw)
        body = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        seen = Seen(request.method, request.raw_path, dict(request.headers), body)
        self.seen.append(seen)
        return seen

    async def models(self, request: web.Request) -> web.Response:
        (await self._note(request)).outcome = "done"
        model = {"object": "model", "owned_by": "fake", "max_model_len": self.script.context}
        return web.json_response(
            {"object": "list", "data": [{"id": name, **model} for name in self.names]}
        )

    async def tokenize(self, request: web.Request) -> web.Response:
        """Words as tokens, each with the white space before it."""
        asked = await request.json()
        if asked.get("model", self.names[0]) not in self.names:
            message = "The model does not exist."
            error = {"message": message, "type": "NotFoundError", "code": 404, "param": "model"}
            return web.json_response({"error": error}, status=404)
        text = asked["prompt"] if "prompt" in asked else said_in(asked["messages"])
        tokens = [
            self.numbers.setdefault(w, len(self.numbers)) for w in re.findall(r"\s*\S+", text)
        ]
        return web.json_response({"tokens": tokens, "count": len(tokens)})

    async def detokenize(self, request: web.Request) -> web.Response:
        words = {number: word for word, number in self.numbers.items()}
        prompt = "".join(words[token] for token in (await request.json())["tokens"])
        return web.json_response({"prompt": prompt})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        seen = await self._note(request)
        self.running += 1
        try:
            async with self.slots:
                await self._prefill()
                response = await self._answer(request, seen.body)
        except (asyncio.CancelledError, ConnectionResetError):
            seen.outcome, seen.ended_at = "aborted", time.time()
            raise
        finally:
            self.running -= 1
        seen.outcome, seen.ended_at = "done", time.time()
        return response

    async def _prefill(self) -> None:
        until = time.monotonic() + self.script.prefill_s
        while time.monotonic() < until:
            await asyncio.sleep(min(1.0, self.script.prefill_s))
            self.kv_cache += 0.001

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.script.status != 200:
            error = {"message": self.script.error, "type": "FakeError", "code": 1, "param": None}
            return web.json_response({"error": error}, status=self.script.status)
        if not self.script.budgets and "thinking_token_budget" in body:
            message = "thinking_token_budget is set but reasoning_config is not configured."
            return web.json_response({"error": {"message": message, "code": 400}}, status=400)
        if missing := self._lost_image(body):
            error = {"message": f"Cache miss for image at index {missing}", "code": 400}
            return web.json_response({"error": error}, status=400)
        reply = Reply.to(body, self.script)
        if body.get("stream"):
            return await self._stream(request, reply, body)
        for _ in reply.answer:
            await asyncio.sleep(self.script.delay_s)
        if self.script.break_after is not None:
            request.transport.abort()
        message = {"role": "assistant", "content": "".join(reply.answer) or None}
        message["reasoning"] = "".join(reply.thought) or None
        choice = {"message": message, "finish_reason": reply.reason}
        return web.json_response(
            {
                "id": "fake",
                "object": "chat.completion",
                "model": self.names[0],
                "choices": [{"index": i, **choice} for i in range(body.get("n") or 1)],
                "usage": reply.usage(),
            }
        )

    def _lost_image(self, body: dict[str, Any]) -> str | None:
        """The place of an image that came by name only and is not known."""
        if not self.script.keeps_images:
            self.images.clear()
        for number, part in enumerate(image_parts(body.get("messages", []))):
            if part["image_url"] is None and part["uuid"] not in self.images:
                return str(number)
            self.images.add(part.get("uuid", ""))
        return None

    async def _stream(
        self, request: web.Request, reply: Reply, body: dict[str, Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        ids = bool(body.get("return_token_ids"))
        await self._send(response, {"role": "assistant", "content": ""}, None)
        for word in reply.thought:
            await self._send(response, {"reasoning": word}, None, ids=ids)
        if reply.closed and ids:
            await self._send(response, {}, None, ids=ids)
        for count, word in enumerate(reply.answer):
            if count == self.script.break_after:
                request.transport.abort()
            if count == self.script.break_inside:
                await response.write(b'data: {"choices": [{"delta": {"conte')
                request.transport.abort()
            if count == self.script.stall_after:
                await asyncio.sleep(3600)
            if count == self.script.garbage_after:
                await response.write(b"data: no JSON\n\n")
            await asyncio.sleep(self.script.delay_s)
            await self._send(response, {"content": word}, None, ids=ids)
        await self._send(response, {}, reply.reason, ids=ids and reply.reason == "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            await self._write(response, {"choices": [], "usage": reply.usage()})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(
        self, response: web.StreamResponse, delta: dict[str, str], reason: str | None,
        *, ids: bool = False,
    ) -> None:  # fmt: skip
        self.words += 1
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        await self._write(response, {"choices": [choice | ({"token_ids": [1]} if ids else {})]})

    async def _write(self, response: web.StreamResponse, more: dict[str, Any]) -> None:
        chunk = {
            "id": "fake",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": self.names[0],
            **more,
        }
        text = json.dumps(chunk, separators=(",", ":"))
        await response.write(f"data: {text}\n\n".encode())


@dataclass
class Reply:
    """Words of a thought and of an answer, as far as the limits of a request let them come."""

    thought: list[str]
    closed: bool
    answer: list[str]
    reason: str

    @classmethod
    def to(cls, body: dict[str, Any], script: Script) -> Reply:
        budget = body.get("thinking_token_budget")
        budget = 10**6 if budget is None else budget
        left = body.get("max_tokens") or script.context
        if script.never_answers and budget:
            return cls(["Hmm."] * min(left, 5), False, [], "length")
        thought = ["Hmm."] + [" Hmm."] * (script.thought - 1)
        thought = thought[: min(budget, script.thought, left)]
        left -= len(thought) + 1
        words = answer_words(body, script.words)
        if script.says:
            words = [script.says.pop(0) if len(script.says) > 1 else script.says[0]]
        if script.tags:
            words[1:1] = [" <tool", "_calls>", " a < b", " </tool_calls>"]
        cut = len(words) > left
        return cls(thought, left >= 0, words[: max(0, left)], "length" if cut else "stop")

    def usage(self) -> dict[str, int]:
        used = len(self.thought) + self.closed + len(self.answer) + (self.reason == "stop")
        return {"prompt_tokens": 1, "completion_tokens": used, "total_tokens": used + 1}


def image_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    parts = [p for m in messages if isinstance(m["content"], list) for p in m["content"]]
    return [part for part in parts if part["type"] == "image_url"]


def said_in(messages: list[dict[str, Any]]) -> str:
    """All texts of a conversation."""
    texts = []
    for message in messages:
        content = message["content"]
        parts = content if isinstance(content, list) else [{"text": content}]
        texts += [part.get("text", "") for part in parts]
    return "\n".join(texts)


def answer_words(body: dict[str, Any], count: int) -> list[str]:
    """What the request held, then numbers, ``count`` words in all."""
    messages = body.get("messages", [])
    parts = [p for m in messages if isinstance(m["content"], list) for p in m["content"]]
    images = len(image_parts(messages))
    texts = [m["content"] for m in messages if isinstance(m["content"], str)]
    texts += [part["text"] for part in parts if part["type"] == "text"]
    said = f"{len(messages)} messages, {images} images, last: {texts[-1] if texts else ''}."
    return [said, *(f" {number}" for number in range(1, count))]


async def serve(arguments: argparse.Namespace, script: Script) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(
            number, (lambda: None) if script.ignore_term else stop.set
        )
    if script.leave_child:
        await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    for line in LOAD_LINES:
        print(line, flush=True)
        await asyncio.sleep(script.load_s / len(LOAD_LINES))
    if script.exit_code is not None and script.exit_after_s is None:
        leave(script)
    fake = FakeVllm(script, arguments.served_model_name)
    runner = web.AppRunner(fake.application(), handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, arguments.host, arguments.port).start()
    print("INFO:     Application startup complete.", flush=True)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), script.exit_after_s)
        await runner.cleanup()
        return
    leave(script)


def leave(script: Script) -> None:
    for line in script.last_words:
        print(line, flush=True)
    os._exit(script.exit_code or 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--served-model-name", nargs="+", default=["fake"])
    arguments, _ = parser.parse_known_args()
    script = Script(**json.loads(os.environ.get("FAKE_VLLM", "{}")))
    asyncio.run(serve(arguments, script))


if __name__ == "__main__":
    sys.exit(main())
