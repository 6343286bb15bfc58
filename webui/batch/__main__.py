"""``launch batch IN OUT``: the same question about many pictures, through a running box."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from webui.batch.work import (
    Asker,
    BatchError,
    Journal,
    Picture,
    Progress,
    Result,
    in_words,
    pictures_in,
    run,
)
from webui.chat.tasks import all_tasks
from webui.client.tasks import Language, Task
from webui.gateway.thinking import MODES

FAILED, REFUSED, STOPPED = 1, 2, 130  # the last as shells have it for Ctrl-C
ANSWER_TOKENS = 2048
TELL_AGAIN_S = 10.0
SHOWN = 10
"""Of what failed; the rest is in the files."""


@dataclass(frozen=True)
class Order:
    """What is asked of whom; ``prompt`` takes the place of the task's own words. ``api`` is the
    address of the OpenAI API."""

    api: str
    key: str
    task: Task | None
    prompt: str
    language: Language
    thinking: str
    at_once: int

    @property
    def words(self) -> str:
        return self.prompt or (self.task.text(self.language) if self.task else "")

    def request(self) -> dict[str, Any]:
        """Fields of a chat request, without model and messages."""
        fields: dict[str, Any] = {"max_tokens": ANSWER_TOKENS}
        if self.task is not None:
            fields = {"max_tokens": self.task.max_tokens, "temperature": self.task.temperature}
            if self.task.response_format is not None:
                fields["response_format"] = self.task.response_format
        return {**fields, "extra_body": {"thinking": self.thinking}}


class Line:
    """Moves on a terminal; elsewhere there is a new one now and then."""

    def __init__(self) -> None:
        self._moves = sys.stdout.isatty()
        self._told_at = float("-inf")

    def show(self, progress: Progress) -> None:
        if self._moves:
            sys.stdout.write(f"\r\x1b[K{in_words(progress)}")
        elif time.monotonic() - self._told_at > TELL_AGAIN_S:
            self._told_at = time.monotonic()
            sys.stdout.write(f"{in_words(progress)}\n")
        sys.stdout.flush()

    def end(self) -> None:
        if self._moves:
            sys.stdout.write("\r\x1b[K")


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[Path, Path, Order]:
    """Pictures, folder for the results, and what is to be asked.

    Raises:
        BatchError: there is no such task, or nothing to ask.
    """
    parser = argparse.ArgumentParser(
        prog="launch batch",
        description="Ask the same about many pictures. What was stopped goes on where it was.",
    )
    parser.add_argument("source", metavar="IN", type=Path, help="a folder, a zip file or a picture")
    parser.add_argument("folder", metavar="OUT", type=Path, help="for results.jsonl, results.csv")
    parser.add_argument("--prompt", metavar="TEXT", default="", help="the question")
    parser.add_argument("--task", metavar="NAME", help="or a task of the page, like invoice")
    parser.add_argument("--language", choices=["en", "zh"], default="en", help="of the task (en)")
    parser.add_argument("--thinking", choices=MODES, default="auto", help="how long (auto)")
    parser.add_argument(
        "--at-once",
        type=int,
        choices=range(1, 257),
        default=4,
        metavar="N",
        help="as many questions at a time (4)",
    )
    parser.add_argument(
        "--url",
        default=environ.get("STEP3VL_URL", "http://localhost:7860"),
        help="of the box; without it: the WebUI that runs here",
    )
    given = parser.parse_args(arguments)
    tasks = {
        task.name: task
        for task in all_tasks(json.loads(environ.get("WEBUI_TASKS", "[]"))).values()
        if not task.then
    }
    if given.task is not None and given.task not in tasks:
        names = ", ".join(sorted(tasks))
        raise BatchError(
            f"--task: there is no {given.task!r} for single pictures; there are {names}"
        )
    if given.task is None and not given.prompt:
        raise BatchError("say what to ask: --prompt TEXT or --task NAME")
    order = Order(
        _api_of(given.url),
        environ.get("STEP3VL_API_KEY", ""),
        tasks.get(given.task),
        given.prompt,
        given.language,
        given.thinking,
        given.at_once,
    )
    return given.source, given.folder, order


def _api_of(url: str) -> str:
    address = url.rstrip("/")
    with contextlib.suppress(ValueError):  # of a port that is no number
        parts = urlsplit(address)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return address if address.endswith("/v1") else f"{address}/api/v1"
    raise BatchError(f"--url: write it as http://HOST:PORT, not {url!r}")


async def ask_all(
    pictures: Sequence[Picture], folder: Path, order: Order
) -> tuple[Progress, list[Result]]:
    """Ask about every picture that has no answer in the folder yet; and what failed.

    Raises:
        BatchError: nobody answers there, or the folder has answers to another question.
    """
    client = openai.AsyncOpenAI(
        base_url=order.api,
        api_key=order.key or "none",
        max_retries=0,
        timeout=None,  # the box has its own
        # A proxy of the environment's must not come between us and this machine.
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )
    async with client:
        request = {"model": await _model_of(client, order.api), **order.request()}
        journal = Journal(folder, {"words": order.words, **request})
        line, progress = Line(), Progress(0, 0, len(pictures), 0, 0.0)
        try:
            ask = Asker(client, request, order.words)
            async with contextlib.aclosing(run(pictures, journal, ask, order.at_once)) as steps:
                async for progress in steps:
                    line.show(progress)
        finally:
            line.end()
            journal.write_table()
        results = [journal.results[p.name] for p in pictures if p.name in journal.results]
        return progress, [result for result in results if result.error]


async def _model_of(client: openai.AsyncOpenAI, api: str) -> str:
    try:
        return (await client.models.list()).data[0].id
    except openai.APIConnectionError:
        raise BatchError(f"nobody answers at {api}; `launch up` starts it here") from None
    except openai.APIStatusError as error:
        raise BatchError(f"{api}: {error.message}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns:
    0 if all have an answer now, 1 if some failed, 2 if nothing could be asked, 130 if it was
    stopped with Ctrl-C.
    """
    try:
        source, folder, order = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        pictures, others = pictures_in(source)
        left_out = f"; {others} other files are left out" if others else ""
        sys.stdout.write(f"{len(pictures)} pictures{left_out}\n")
        last, failed = asyncio.run(ask_all(pictures, folder, order))
    except BatchError as error:
        sys.stderr.write(f"step3vl: {error}\n")
        return REFUSED
    except KeyboardInterrupt:
        sys.stdout.write("Stopped. The same command goes on from here.\n")
        return STOPPED
    sys.stdout.write(f"{in_words(last)}: {folder / 'results.csv'}\n")
    for result in failed[:SHOWN]:
        sys.stdout.write(f"  {result.file}: {result.error}\n")
    if failed:
        more = f"{len(failed) - SHOWN} more failed. " if len(failed) > SHOWN else ""
        sys.stdout.write(f"{more}The same command asks again about those that failed.\n")
    return FAILED if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
