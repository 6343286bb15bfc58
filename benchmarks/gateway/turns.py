"""The fifth turn of a talk about four large photos: through the WebUI, and from vLLM directly.

    python -m benchmarks.gateway.turns [--engine http://127.0.0.1:8000]
        [--webui http://127.0.0.1:7860] [--model Step3-VL-10B] [--sets 5] [--api-key KEY]

Both must run already. Each set of photos is new to the engine, and used on one side only, so that
neither side finds what the other has left in the engine's caches. Turns 1 to 4 go the same way as
turn 5. The engine's context must have room for 4 photos, about 11,000 tokens.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 4000, 3000
PHOTOS = 4
QUALITY = 90
GOAL = 0.6
ANSWER_TOKENS = 8
TIMEOUT_S = 600.0
# The answers between are made up, so that both sides get the same messages.
TALK = (
    ("What is in the first photo?", "A meadow under a grey sky."),
    ("And in the second one?", "The same meadow, later in the day."),
    ("Which of the four is the brightest?", "The third one."),
    ("Is there a person in any of them?", "No, I see none."),
    ("Which two are most alike?", ""),
)
VLLM_FIELDS = {"thinking_token_budget": 0}
WEBUI_FIELDS = {"thinking": "off"}


@dataclass(frozen=True)
class Side:
    """A server, and how it is told not to think."""

    name: str
    url: str
    fields: Mapping[str, Any]
    api_key: str = ""


class TurnError(Exception):
    """A turn was not answered; the message says what came instead."""


def photo(seed: int) -> str:
    """A picture with a photo's size and weight, as a ``data:`` URL: soft shapes and grain."""
    random = np.random.default_rng(seed)
    shapes = Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    soft = np.asarray(shapes.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.integers(-12, 13, (HEIGHT, WIDTH, 1), dtype=np.int16)
    stream = io.BytesIO()
    whole = Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8))
    whole.save(stream, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def messages(photos: list[str], turn: int) -> list[dict[str, Any]]:
    """What a client sends at a turn, from 1: the photos stand in the first question."""
    talk: list[dict[str, Any]] = []
    for question, answer in TALK[:turn]:
        talk.append({"role": "user", "content": question})
        talk.append({"role": "assistant", "content": answer})
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in photos]
    talk[0]["content"] = [*parts, {"type": "text", "text": TALK[0][0]}]
    return talk[:-1]


def first_token_s(side: Side, model: str, talk: list[dict[str, Any]]) -> float:
    """Seconds from sending a request to the first piece of thought or answer; reads to the end.

    Raises:
        TurnError: there is none.
    """
    document = {"model": model, "messages": talk, "max_tokens": ANSWER_TOKENS, "stream": True}
    body = json.dumps({**document, "temperature": 0, **side.fields}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {side.api_key}"}
    connection = http.client.HTTPConnection(urlsplit(side.url).netloc, timeout=TIMEOUT_S)
    try:
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        if response.status != 200:
            text = response.read(600).decode(errors="replace")
            raise TurnError(f"{side.name}: status {response.status}: {text}")
        came = [time.perf_counter() for text in _pieces(response) if text]
    finally:
        connection.close()
    if not came:
        raise TurnError(f"{side.name}: a stream without a token")
    return came[0] - began


def _pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    """Of thought and answer, as they come."""
    for line in response:
        if line.startswith(b"data: {"):
            document = json.loads(line[6:])
            if "error" in document:
                raise TurnError(str(document["error"])[:300])
            for choice in document["choices"]:
                delta = choice["delta"]
                yield delta.get("content") or delta.get("reasoning") or ""


def talk_s(side: Side, model: str, seed: int) -> list[float]:
    """Seconds to the first token of each turn, over photos of this seed."""
    photos = [photo(seed * PHOTOS + number) for number in range(PHOTOS)]
    return [first_token_s(side, model, messages(photos, turn)) for turn in range(1, len(TALK) + 1)]


def measured(sides: tuple[Side, Side], model: str, sets: int, seed: int) -> dict[str, list[float]]:
    """Seconds to the first token of the last turn, a value a set. The sides take turns to begin."""
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(-1, sets):  # the one before the first warms everything up
        for place, side in enumerate(sides if number % 2 else sides[::-1]):
            times = talk_s(side, model, seed + 2 * number + place)
            shown = ", ".join(f"{1000 * seconds:.0f}" for seconds in times)
            print(f"set {number + 1}, {side.name}: {shown} ms", file=sys.stderr, flush=True)
            if number >= 0:
                found[side.name].append(times[-1])
    return found


def table(sides: tuple[Side, Side], found: dict[str, list[float]]) -> str:
    base, ours = (statistics.median(found[side.name]) for side in sides)
    ratio = ours / base
    rows = [
        f"| turn {len(TALK)}, {PHOTOS} photos of {WIDTH} x {HEIGHT} | median | least | most |",
        "| --- | ---: | ---: | ---: |",
    ]
    for side in sides:
        values = [1000 * seconds for seconds in found[side.name]]
        median = statistics.median(values)
        rows.append(
            f"| {side.name} | {median:.0f} ms | {min(values):.0f} ms | {max(values):.0f} ms |"
        )
    verdict = "met" if ratio <= GOAL else "**missed**"
    rows.append(f"| ratio (goal: <= {GOAL} x) | {ratio:.2f} x | {verdict} | |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.turns")
    parser.add_argument("--engine", default="http://127.0.0.1:8000")
    parser.add_argument("--webui", default="http://127.0.0.1:7860")
    parser.add_argument("--model", default="Step3-VL-10B")
    parser.add_argument("--api-key", default="", help="of the WebUI, where keys are in use")
    parser.add_argument("--sets", type=int, default=5, help="sets of photos for each side")
    given = parser.parse_args()
    sides = (
        Side("vLLM directly", given.engine, VLLM_FIELDS),
        Side("through the WebUI", given.webui, WEBUI_FIELDS, given.api_key),
    )
    seed = time.time_ns() // 1_000_000 % 1_000_000_000  # an engine that ran before knows none
    try:
        found = measured(sides, given.model, given.sets, seed)
    except (TurnError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(sides, found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
