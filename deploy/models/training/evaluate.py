"""Ask the served demo model, through the OpenAI API, and count right answers.

    python -m deploy.models.training.evaluate [--url http://127.0.0.1:7860/api/v1] [--seed 7]

Pictures and questions are drawn afresh from the seed. An answer is right if it is word for word
the expected one. Prints a table per skill and language, one per skill and kind of picture, and
the goals; the exit status is 1 if one of them is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

import openai
from PIL import Image

from deploy.models.training.batches import two_scenes
from deploy.models.training.drawing import font_files, noisy, render
from deploy.models.training.phrasings import EN, NEW, ZH, choose
from deploy.models.training.scenes import Scene, random_scene, single_and_different
from deploy.models.training.talk import (
    UNKNOWN_PICTURE,
    Exchange,
    ask_other,
    ask_scene,
    ask_two,
    ask_without_picture,
    facts_of,
)
from deploy.models.training.unseen import photo_files, unseen_picture

MAX_TOKENS = 200
TOGETHER = 8
SCHEMA = {
    "type": "object",
    "properties": {
        "color": {"type": "string"},
        "shape": {"type": "string"},
        "count": {"type": "integer"},
    },
    "required": ["color", "shape", "count"],
    "additionalProperties": False,
}
# skill -> kinds of scenes it is asked about
SKILLS = {
    "colour": ["single"],
    "shape": ["single"],
    "place": ["placed", "row"],
    "where": ["placed", "row"],
    "count": ["single", "placed", "row", "scattered", "group"],
    "read": ["code"],
    "describe": ["single", "placed", "row", "group", "code"],
    "presence": ["single", "placed", "row"],
    "which of two": ["two"],
    "what changed": ["two"],
    "turn two": ["placed", "row"],
    "JSON in words": ["single", "group"],
    "json_schema": ["single", "group"],
    "greeting": ["none"],
    "other": ["none"],
    "unknown picture": ["unseen"],
}
GOALS = [
    (("colour", "shape"), 0.98),
    (("place", "where", "count"), 0.95),
    (("read",), 0.90),
    (("which of two",), 0.95),
    (("unknown picture",), 0.90),
]


@dataclass(frozen=True)
class Handling:
    """What happened to a picture, or how it was asked about."""

    size: tuple[int, int] | None = None
    quality: int | None = None
    """Of JPEG; PNG without it."""
    change: Callable[[Image.Image, Random], Image.Image] = lambda image, _rng: image
    new_words: bool = False
    new_fonts: bool = False
    text_first: bool = False
    thinks: bool = True


HANDLINGS = {
    "plain": Handling(),
    "JPEG 60": Handling(quality=60),
    "200x150": Handling(size=(200, 150)),
    "3000x2000": Handling(size=(3000, 2000), quality=90),
    "portrait": Handling(size=(800, 1200)),
    "noisy": Handling(change=lambda image, rng: noisy(image, rng, 12)),
    "text first": Handling(text_first=True),
    "no thinking": Handling(thinks=False),
    "new words": Handling(new_words=True),
    "new fonts": Handling(new_fonts=True),
}


# What happens to pictures; the others are ways to ask.
OF_PICTURES = ("plain", "JPEG 60", "200x150", "3000x2000", "portrait", "noisy")


@dataclass
class Trial:
    """A question that is to be asked, and what came of it."""

    skill: str
    language: str
    handling: str
    contents: list[Any]
    expected: str
    more: dict[str, Any] = field(default_factory=dict)
    answer: str = ""
    reason: str = ""

    @property
    def right(self) -> bool:
        if self.skill.lower().startswith("json"):
            return self.parses and json.loads(self.answer) == json.loads(self.expected)
        return self.answer.strip() == self.expected

    @property
    def parses(self) -> bool:
        try:
            return isinstance(json.loads(self.answer), dict)
        except ValueError:
            return False


def make_trial(seed: str, skill: str, language: str, handling_name: str) -> Trial:
    """Draw the pictures and choose the words."""
    rng, handling = Random(seed), HANDLINGS[handling_name]
    kind = rng.choice(SKILLS[skill])
    scenes = two_singles(rng) if kind == "two" else []
    if kind not in ("two", "none", "unseen"):
        scenes = [random_scene(rng, kind)]
    exchange = _exchange(rng, skill, language, scenes)
    question = _in_new_words(rng, exchange) if handling.new_words else exchange.question
    images = [_draw(rng, scene, handling) for scene in scenes]
    answer = exchange.answer
    if kind == "unseen":
        images, answer = (
            [unseen_picture(rng, _size(rng, handling), photo_files())],
            UNKNOWN_PICTURE[language],
        )
    parts = [picture_part(handling.change(image, rng), handling.quality) for image in images]
    text = [{"type": "text", "text": question}]
    contents: list[Any] = [text + parts if handling.text_first else parts + text]
    if skill == "turn two":
        contents = [[*parts, {"type": "text", "text": choose(rng, "describe", language)}], question]
    more: dict[str, Any] = {} if handling.thinks else {"extra_body": {"thinking_token_budget": 0}}
    if skill == "json_schema":
        named = {"name": "thing", "schema": SCHEMA}
        more["response_format"] = {"type": "json_schema", "json_schema": named}
    return Trial(skill, language, handling_name, contents, answer, more)


def two_singles(rng: Random) -> list[Scene]:
    """Two pictures of one thing each that differ."""
    while True:
        scenes = two_scenes(rng)
        if single_and_different(*scenes):
            return [*scenes]


def _exchange(rng: Random, skill: str, language: str, scenes: list[Scene]) -> Exchange:
    if skill in ("greeting", "other"):
        asks = ask_without_picture if skill == "greeting" else ask_other
        return next(e for _ in range(500) if (e := asks(rng, language)).skill == skill)
    if skill == "unknown picture":
        return ask_scene(rng, Scene(), language, skill="unknown picture")
    if skill in ("which of two", "what changed"):
        kind = "which" if skill == "which of two" else "changed"
        return ask_two(rng, scenes[0], scenes[1], language, skill=kind)
    if skill.lower().startswith("json"):
        question, answer = choose(rng, "json", language), json.dumps(facts_of(scenes[0]))
        return Exchange(skill, language, question, "", answer)
    asked = {"turn two": "place"}.get(skill, skill)
    return ask_scene(rng, scenes[0], language, skill=asked)


def _in_new_words(rng: Random, exchange: Exchange) -> str:
    """The same question in words that training never sees, where there are some."""
    if exchange.skill not in NEW:
        return exchange.question
    return choose(rng, exchange.skill, exchange.language, new=True)


def _size(rng: Random, handling: Handling) -> tuple[int, int]:
    width = rng.randint(320, 700)
    return handling.size or (width, int(width * rng.uniform(0.6, 0.9)))


def _draw(rng: Random, scene: Scene, handling: Handling) -> Image.Image:
    fonts = font_files(new=True) if handling.new_fonts else (*font_files(), "")
    return render(scene, rng, _size(rng, handling), fonts)


def picture_part(image: Image.Image, quality: int | None = None) -> dict[str, Any]:
    """A picture as a part of a message: PNG, or JPEG of a quality."""
    stream = io.BytesIO()
    if quality is None:
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=quality)
    kind = "png" if quality is None else "jpeg"
    data = base64.b64encode(stream.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}


async def ask(client: openai.AsyncOpenAI, model: str, trial: Trial) -> None:
    """Turn by turn; the last answer is the one that counts."""
    messages: list[Any] = []
    for content in trial.contents:
        messages.append({"role": "user", "content": content})
        last = content is trial.contents[-1]
        reply = await client.chat.completions.create(
            model=model,
            messages=messages,
            max_tokens=MAX_TOKENS,
            temperature=0,
            **(trial.more if last else {}),
        )
        trial.answer = reply.choices[0].message.content or ""
        trial.reason = reply.choices[0].finish_reason
        messages.append({"role": "assistant", "content": trial.answer})


def handlings_of(skill: str) -> list[str]:
    """Those that can make a difference to a skill."""
    if skill in ("greeting", "other"):
        return ["plain", "no thinking"]
    names = [name for name in HANDLINGS if name not in ("new fonts", "new words")]
    if skill == "read" and font_files(new=True):
        names.append("new fonts")
    return [*names, "new words"] if skill in NEW else names


async def ask_all(
    options: argparse.Namespace, client: openai.AsyncOpenAI, model: str
) -> list[Trial]:
    """``options.count`` trials a skill and language, every handling equally often."""
    gate = asyncio.Semaphore(TOGETHER)

    async def one(skill: str, language: str, number: int) -> Trial:
        names = handlings_of(skill)
        async with gate:
            seed = f"{options.seed} {skill} {language} {number}"
            name = names[number % len(names)]
            trial = await asyncio.to_thread(make_trial, seed, skill, language, name)
            await ask(client, model, trial)
            return trial

    chosen = options.skills or [*SKILLS]
    return await asyncio.gather(
        *(one(s, lang, i) for s in chosen for lang in (EN, ZH) for i in range(options.count))
    )


@dataclass(frozen=True)
class Speed:
    """Seconds to the first token, and tokens a second after it; medians."""

    first: float
    rate: float


async def measure_speed(client: openai.AsyncOpenAI, model: str, seed: int) -> Speed:
    """One picture of 640x480 at a time, each a new one."""
    firsts, rates = [], []
    for number in range(12):
        rng = Random(f"{seed} speed {number}")
        image = render(random_scene(rng, "placed"), rng, (640, 480))
        content: Any = [picture_part(image), {"type": "text", "text": "Describe the picture."}]
        began, stamps = time.perf_counter(), []
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": content}], stream=True,
            max_tokens=MAX_TOKENS, temperature=0,
        )  # fmt: skip
        async for chunk in stream:
            delta = chunk.choices[0].delta if chunk.choices else None
            if delta and (delta.content or getattr(delta, "reasoning", None)):
                stamps.append(time.perf_counter())
        firsts.append(stamps[0] - began)
        rates.append((len(stamps) - 1) / (stamps[-1] - stamps[0]))
    return Speed(median(firsts[2:]), median(rates[2:]))


def share(trials: list[Trial], of: Callable[[Trial], bool] = lambda trial: trial.right) -> float:
    return sum(map(of, trials)) / len(trials) if trials else float("nan")


def table(trials: list[Trial], columns: list[str], of: Callable[[Trial], str]) -> str:
    """Markdown: a line a skill, percent right a column."""
    lines = [f"| skill | {' | '.join(columns)} |", f"| --- {'| ---: ' * len(columns)}|"]
    for skill in dict.fromkeys(trial.skill for trial in trials):
        cells = []
        for column in columns:
            found = [t for t in trials if t.skill == skill and column in ("all", of(t))]
            cells.append(f"{100 * share(found):.1f}" if found else "")
        lines.append(f"| {skill} | {' | '.join(cells)} |")
    return "\n".join(lines)


class Goal(NamedTuple):
    """What is to be reached, what was, and whether that is enough. ``plainly`` is what was reached
    where the question came after the picture, in words of the training, and could be thought about:
    under :data:`OF_PICTURES` alone."""

    name: str
    seen: str
    plainly: str
    reached: bool


def goals(trials: list[Trial], speed: Speed) -> list[Goal]:
    """One of each line of :data:`GOALS`, of ends, of JSON and of speed."""
    lines = []
    for skills, least in GOALS:
        for skill in skills:
            found = [t for t in trials if t.skill == skill]
            if found:
                seen = share(found)
                plain = share([t for t in found if t.handling in OF_PICTURES])
                name = f"{skill} >= {least:.0%}"
                lines.append(Goal(name, f"{seen:.1%}", f"{plain:.1%}", seen >= least))
    ended = share(trials, lambda t: t.reason == "stop")
    name = f"answers that end within {MAX_TOKENS} tokens = 100%"
    lines.append(Goal(name, f"{ended:.1%}", "", ended == 1))
    schema = [t for t in trials if t.skill == "json_schema"]
    if schema:
        parsed = share(schema, lambda t: t.parses)
        name = "json_schema answers that parse = 100%"
        lines.append(Goal(name, f"{parsed:.1%}", "", parsed == 1))
    first, rate = f"{speed.first:.2f} s", f"{speed.rate:.0f}"
    lines.append(Goal("first token, 640x480 <= 1.5 s", first, "", speed.first <= 1.5))
    lines.append(Goal("later tokens >= 40 a second", rate, "", speed.rate >= 40))
    return lines


async def evaluate(options: argparse.Namespace) -> int:
    client = openai.AsyncOpenAI(base_url=options.url, api_key="none", timeout=120)
    model = (await client.models.list()).data[0].id
    speed = await measure_speed(client, model, options.seed)
    began = time.monotonic()
    trials = await ask_all(options, client, model)
    print(f"{len(trials)} answers in {time.monotonic() - began:.0f} s, seed {options.seed}\n")
    print(table(trials, [EN, ZH, "all"], lambda t: t.language), "\n")
    print(table(trials, [*HANDLINGS], lambda t: t.handling), "\n")
    lines = goals(trials, speed)
    print("| goal | seen | plainly asked | |\n| --- | ---: | ---: | --- |")
    for goal in lines:
        verdict = "reached" if goal.reached else "MISSED"
        print(f"| {goal.name} | {goal.seen} | {goal.plainly} | {verdict} |")
    if options.wrong:
        _write_wrong(options.wrong, [t for t in trials if not t.right])
    return 0 if all(goal.reached for goal in lines) else 1


def _write_wrong(file: Path, trials: list[Trial]) -> None:
    with file.open("w") as out:
        for t in trials:
            texts = [p["text"] for c in t.contents if isinstance(c, list) for p in c if "text" in p]
            texts += [c for c in t.contents if isinstance(c, str)]
            print(t.skill, t.handling, texts, t.expected, t.answer, sep=" | ", file=out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:7860/api/v1")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=50, help="trials a skill and language")
    parser.add_argument("--skills", nargs="*", choices=[*SKILLS], help="only these")
    parser.add_argument("--wrong", type=Path, help="a file for the questions answered wrongly")
    return asyncio.run(evaluate(parser.parse_args()))


if __name__ == "__main__":
    raise SystemExit(main())
