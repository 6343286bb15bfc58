"""Talk as tensors: texts that begin alike, with their pictures, and several questions to each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deploy.models.training.drawing import render
from deploy.models.training.network import CROP, IGNORED, PATCH, VIEW, Batch
from deploy.models.training.phrasings import EN, SYSTEM_PROMPTS, ZH
from deploy.models.training.scenes import Scene, changed, random_scene, single_and_different
from deploy.models.training.talk import (
    Exchange,
    ask_other,
    ask_scene,
    ask_two,
    ask_without_picture,
)
from deploy.models.training.vocabulary import PADDING, token
from webui.pictures import window_of, windows_along

SCENES = {
    "single": 0.09,
    "placed": 0.15,
    "row": 0.12,
    # Counting takes long,
    "scattered": 0.14,
    "group": 0.20,
    # and so do thirty-six signs in many fonts.
    "code": 0.15,
    "long code": 0.02,
    "plain": 0.05,
    "texture": 0.16,
}
# What to begin with: enough to learn what colours and shapes are.
EASY_SCENES = {"single": 0.6, "row": 0.2, "group": 0.15, "plain": 0.05}
# How many rows a batch of each kind has, as a share of the usual number: cost decides.
ROWS = {
    "one": 1.0,
    "two": 0.5,
    "none": 0.5,
    "told": 1.0,
    "search": 0.8,
    "text first": 1.0,
    "large": 0.25,
}
# Questions are added to a row until they have this many tokens.
QUESTION_TOKENS = 90
# Where the question stands first, a row has just one; so many rows share their pictures.
TEXT_FIRST_ROWS = 3
TOLD_TOKENS = 400
# Scenes in which things have places.
PLACED = ("placed", "placed", "row")
# How often a thought is cut off, as a thinking budget does. Without it a thing must be found in the
# picture itself, which takes longest to learn.
CUT_OFF = {"where": 0.5, "two pictures": 0.5}
CUT_OFF_ELSE = 0.25


@dataclass
class Question:
    """What follows a beginning: ids, and what of them is to be learned."""

    ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add(self, ids: list[int], *, learn: bool) -> None:
        self.ids += ids
        self.targets += ids if learn else [IGNORED] * len(ids)


@dataclass
class Row:
    """A beginning, its pictures in order, and the questions to it."""

    ids: list[int] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)
    """uint8, [height, width, 3]."""
    order: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


class Talk:
    """Makes rows. ``view`` is the side of the square view in pixels; 728 is the real one."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        view: int,
        *,
        easy: bool = False,
        enough: int = QUESTION_TOKENS,
    ) -> None:
        self._tokenizer = tokenizer
        self._easy = easy
        self._enough = enough
        self._kinds = EASY_SCENES if easy else SCENES
        self.sides = sides_of(view)
        self._patch = token(tokenizer, "<im_patch>")
        self._think = self.ids("<|im_start|>assistant\n<think>\n")
        self._close = self.ids("</think>")
        self._end = self.ids("<|im_end|>")

    def ids(self, text: str) -> list[int]:
        """A text as tokens."""
        return list(self._tokenizer.encode(text).ids)

    def rows(self, rng: Random, kind: str, count: int) -> list[Row]:
        """``count`` random rows; ``kind`` is a key of :data:`ROWS`."""
        if kind != "text first":
            return [self.row(rng, kind) for _ in range(count)]
        made: list[Row] = []
        while len(made) < count:
            scenes = self._scenes(rng, kind)
            images = [self._drawn(rng, scene, large=False) for scene in scenes]
            made += [self._text_first(rng, scenes, images) for _ in range(TEXT_FIRST_ROWS)]
        return made[:count]

    def _text_first(self, rng: Random, scenes: list[Scene], images: list[Image.Image]) -> Row:
        row, language = Row(), rng.choice([EN, ZH])
        self._open(row, rng)
        exchange = self._exchange(rng, scenes, language)
        row.ids += self.ids(exchange.question)
        for image in images:
            self.add_picture(row, image)
        row.ids += self.ids("<|im_end|>\n")
        row.questions.append(Question())
        self._answer(row.questions[0], rng, exchange)
        return row

    def row(self, rng: Random, kind: str) -> Row:
        """A row in which the questions stand behind the pictures."""
        row = Row()
        self._open(row, rng)
        scenes = self._scenes(rng, kind)
        language = rng.choice([EN, ZH])
        if kind == "told":
            while sum(len(question.ids) for question in row.questions) < TOLD_TOKENS:
                row.questions.append(self._told(rng))
            return row
        if kind == "two" and rng.random() < 0.3:  # the second picture comes a turn later
            self._show(row, rng, scenes[0], large=False)
            row.ids += self.ids(self._turn(self._exchange(rng, scenes[:1], language)))
            self._show(row, rng, scenes[1], large=False)
        else:
            self._show_all(row, rng, scenes, large=kind == "large")
        ask, enough = self._question, self._enough
        if kind == "search":
            ask, enough = self._search, 2 * self._enough
        while sum(len(question.ids) for question in row.questions) < enough:
            row.questions.append(ask(rng, scenes))
        return row

    def _scenes(self, rng: Random, kind: str) -> list[Scene]:
        if kind == "search":
            return (
                [*two_scenes(rng)]
                if rng.random() < 0.3
                else [random_scene(rng, rng.choice(PLACED))]
            )
        if kind in ("none", "told"):
            return []
        two = {"two": 1.0, "text first": 0.5, "large": 0.4}.get(kind, 0.0)
        if rng.random() < two:
            return [*two_scenes(rng)]
        if kind == "large" and rng.random() < 0.35:  # these look most unlike in crops
            return [random_scene(rng, rng.choice(["texture", "code", "code"]))]
        return [random_scene(rng, rng.choices([*self._kinds], [*self._kinds.values()])[0])]

    def _told(self, rng: Random) -> Question:
        """A thought without the picture: only what follows from it is learned.

        Mostly what takes longest to learn: to find a thing in the thought again.
        """
        language, focused = rng.choice([EN, ZH]), rng.random() < 0.95
        if rng.random() < 0.2:
            scenes = two_scenes(rng)
            different = single_and_different(*scenes)
            skill = rng.choice(["which", "which", "changed"]) if focused and different else None
            exchange = ask_two(rng, *scenes, language, skill=skill)
        else:
            scene = random_scene(rng, rng.choice(PLACED))
            skill = rng.choice(["where"] * 5 + ["presence"] * 3 + ["place"])
            exchange = ask_scene(rng, scene, language, skill=skill if focused else None)
        question = Question()
        question.add(self.ids(f"{exchange.question}<|im_end|>\n"), learn=False)
        self._answer(question, rng, exchange, told=True)
        return question

    def _search(self, rng: Random, scenes: list[Scene]) -> Question:
        """Without a thought: the thing that is asked for must be found in the picture itself."""
        language, skill = rng.choice([EN, ZH]), rng.choice(["where", "where", "presence"])
        if len(scenes) == 2:
            different = single_and_different(*scenes)
            exchange = ask_two(
                rng, scenes[0], scenes[1], language, skill="which" if different else None
            )
        else:
            exchange = ask_scene(rng, scenes[0], language, skill=skill)
        question = Question()
        question.add(self.ids(f"{exchange.question}<|im_end|>\n"), learn=False)
        question.add([*self._think, *self._close], learn=False)
        question.add([*self.ids(exchange.answer), *self._end], learn=True)
        return question

    def _open(self, row: Row, rng: Random) -> None:
        if rng.random() < 0.08:
            row.ids += self.ids(f"<|im_start|>system\n{rng.choice(SYSTEM_PROMPTS)}<|im_end|>\n")
        row.ids += self.ids("<|im_start|>user\n")

    def _show_all(self, row: Row, rng: Random, scenes: list[Scene], *, large: bool) -> None:
        for scene in scenes:
            self._show(row, rng, scene, large=large)

    def _show(self, row: Row, rng: Random, scene: Scene, *, large: bool) -> None:
        """Append a picture to the beginning."""
        self.add_picture(row, self._drawn(rng, scene, large=large))

    def _drawn(self, rng: Random, scene: Scene, *, large: bool) -> Image.Image:
        wide = (0.667, 1.0)  # what is wider is cut into crops
        if large and rng.random() < 0.3:
            long, wide = rng.randint(200, VIEW - 1), (0.4, 0.66)
        elif large:
            long = rng.choice([rng.randint(VIEW, 1400), rng.randint(VIEW, 3000)])
            wide = (0.5, 1.0)
        else:
            # On the coarse grid nothing is gained from drawing finer than it sees.
            long = rng.randint(200, min(VIEW - 1, self.sides[0] + 100))
        size = (long, math.ceil(long * rng.uniform(*wide)))
        size = size if rng.random() < 0.65 else size[::-1]
        return render(scene, rng, size, bright=self._easy)

    def add_picture(self, row: Row, image: Image.Image) -> None:
        """Append a picture to the beginning, and first its crops if it is cut into any."""
        rgb = torch.from_numpy(np.array(image))
        if window_of(*image.size):
            self._add_crops(row, rgb)
        row.pictures.append(rgb)
        row.order.append("view")
        patches = [self._patch] * tokens_of(self.sides[0])
        row.ids += [*self.ids("<im_start>"), *patches, *self.ids("<im_end>")]

    def _add_crops(self, row: Row, image: Tensor) -> None:
        crops, per_line = cut(image)
        patches = [self._patch] * tokens_of(self.sides[1])
        for number, crop in enumerate(crops, start=1):
            row.pictures.append(crop)
            row.order.append("crop")
            row.ids += [*self.ids("<patch_start>"), *patches, *self.ids("<patch_end>")]
            if number % per_line == 0 and number < len(crops):
                row.ids += self.ids("<patch_newline>")

    @staticmethod
    def _turn(exchange: Exchange) -> str:
        return (
            f"{exchange.question}<|im_end|>\n<|im_start|>assistant\n"
            f"{exchange.answer}<|im_end|>\n<|im_start|>user\n"
        )

    def _question(self, rng: Random, scenes: list[Scene]) -> Question:
        language = rng.choice([EN, ZH])
        question = Question()
        if rng.random() < 0.2:  # an earlier turn about the same picture
            earlier = self._exchange(rng, scenes, language)
            question.add(self.ids(self._turn(earlier)), learn=False)
        exchange = self._exchange(rng, scenes, language)
        question.add(self.ids(f"{exchange.question}<|im_end|>\n"), learn=False)
        self._answer(question, rng, exchange)
        return question

    @staticmethod
    def _exchange(rng: Random, scenes: list[Scene], language: str) -> Exchange:
        if not scenes:
            return ask_without_picture(rng, language)
        if rng.random() < 0.06:
            return ask_other(rng, language)
        if len(scenes) == 2:
            return ask_two(rng, scenes[0], scenes[1], language)
        return ask_scene(rng, scenes[0], language)

    def _answer(
        self, question: Question, rng: Random, exchange: Exchange, *, told: bool = False
    ) -> None:
        """Thought and answer; see :data:`CUT_OFF`."""
        question.add(self._think, learn=False)
        thought = self.ids(exchange.thought)
        if told:
            question.add([*thought, *self._close], learn=False)
        elif rng.random() < CUT_OFF.get(exchange.skill, CUT_OFF_ELSE):
            cut_off = 0 if rng.random() < 0.8 else rng.randint(0, len(thought) - 1)
            question.add(thought[:cut_off], learn=True)
            question.add(self._close, learn=False)
            if rng.random() < 0.3:
                question.add(self.ids("\n"), learn=False)
        else:
            question.add([*thought, *self._close], learn=True)
        rest = exchange.answer.removeprefix(exchange.given)
        question.add(self.ids(exchange.given), learn=False)
        question.add([*self.ids(rest), *self._end], learn=True)


def two_scenes(rng: Random) -> tuple[Scene, Scene]:
    """Two single things, half of the time alike in one respect; at times something else."""
    first, second = random_scene(rng, "single"), random_scene(rng, "single")
    if rng.random() < 0.5:
        second = changed(rng, first, rng.choice(["colour", "shape"]))
    elif rng.random() < 0.2:
        second = random_scene(rng, rng.choice(["placed", "group", "code"]))
    return (first, second) if rng.random() < 0.5 else (second, first)


def sides_of(view: int) -> tuple[int, int]:
    """Of the view and of a crop beside it, in pixels: 728 and 504, or as much less."""
    return view, int(CROP * view / VIEW) // PATCH * PATCH


def tokens_of(side: int) -> int:
    """How many tokens a square of ``side`` pixels becomes: 169 for 728, 81 for 504."""
    grid = side // PATCH
    for _ in range(2):
        grid = (grid + 1) // 2
    return grid * grid


def cut(image: Tensor) -> tuple[list[Tensor], int]:
    """Windows as the processor cuts them, for pictures of up to 3024 pixels.

    Returns:
        The windows, line by line, and how many stand in a line.
    """
    height, width = image.shape[:2]
    window = window_of(width, height)

    def fitted(length: int) -> int:
        if length < window:
            return length
        return window * windows_along(length, window)

    size = (fitted(width), fitted(height))
    resized = Image.fromarray(image.numpy()).resize(size, Image.Resampling.BILINEAR)
    pixels_ = torch.from_numpy(np.array(resized))
    xs, ys = (range(0, max(1, length - window + 1), window) for length in size)
    return [pixels_[y : y + window, x : x + window] for y in ys for x in xs], len(xs)


def _padded(lists: list[list[int]], value: int) -> Tensor:
    length = max(map(len, lists))
    return torch.tensor([x + [value] * (length - len(x)) for x in lists])


def collate(
    rows: list[Row], padding: int, patch: int, sides: tuple[int, int], kind: str = ""
) -> Batch:
    """Pad rows to the longest; ``sides`` as :func:`sides_of` gives them."""
    pictures = [picture for row in rows for picture in row.pictures]
    shared = _padded([row.ids for row in rows], padding)

    numbered = [[(n, len(row.ids), q) for n, q in enumerate(row.questions)] for row in rows]

    def own(of: Callable[[int, int, Question], Iterable[int]], value: int) -> Tensor:
        return _padded([[x for each in row for x in of(*each)] for row in numbered], value)

    # The next question's first token is no target of this one's last: it is not learned.
    targets = own(lambda _n, _start, q: q.targets, IGNORED)
    return Batch(
        shared=shared,
        is_picture=shared == patch,
        lengths=torch.tensor([len(row.ids) for row in rows]),
        own=own(lambda _n, _start, q: q.ids, padding),
        targets=targets,
        learned=(targets.roll(-1) != IGNORED).flatten().nonzero()[:, 0],
        segments=own(lambda n, _start, q: [n] * len(q.ids), -1),
        positions=own(lambda _n, start, q: range(start, start + len(q.ids)), 0),
        pictures=torch.cat([torch.empty(0, dtype=torch.uint8), *(p.flatten() for p in pictures)]),
        sizes=[(p.shape[0], p.shape[1]) for p in pictures],
        order=[of for row in rows for of in row.order],
        sides=sides,
        kind=kind,
    )


class Batches(Dataset[Batch]):
    """An endless row of batches, each a pure function of (seed, number) and one of a kind.

    ``rows`` is how many a batch has, ``large`` the share of batches with pictures that are cut into
    crops, ``told`` the share of those without pictures whose thoughts are given, ``search`` the
    share of those without thoughts, where a thing must be found in the picture itself;
    ``questions`` how many tokens of them a picture has (at least); ``easy``
    batches show one picture of a kind in :data:`EASY_SCENES`, on a bright ground: there the model
    finds out what to look at.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        view: int,
        rows: int,
        seed: int,
        large: float = 0.0,
        told: float = 0.15,
        search: float = 0.0,
        easy: bool = False,
        questions: int = QUESTION_TOKENS,
    ) -> None:
        self._talk = Talk(tokenizer, view, easy=easy, enough=questions)
        self._rows, self._seed = rows, seed
        self._padding = token(tokenizer, PADDING)
        self._patch = token(tokenizer, "<im_patch>")
        kinds = {"one": 0.4, "two": 0.2, "none": 0.1, "text first": 0.3}
        self._kinds = {kind: share * (1 - large - told - search) for kind, share in kinds.items()}
        self._kinds |= {"large": large, "told": told, "search": search}
        if easy:
            self._kinds = {"one": 1.0}

    def __getitem__(self, number: int) -> Batch:
        rng = Random(f"{self._seed} {number}")
        kind = rng.choices([*self._kinds], [*self._kinds.values()])[0]
        count = max(1, round(self._rows * ROWS[kind]))
        rows = self._talk.rows(rng, kind, count)
        return collate(rows, self._padding, self._patch, self._talk.sides, kind)

    def those(self, numbers: range, makers: int) -> Iterator[Batch]:
        """Some of them, in order, drawn by ``makers`` processes (none: as they are asked for)."""
        return iter(
            DataLoader(
                self,
                None,
                sampler=numbers,
                num_workers=makers,
                prefetch_factor=3 if makers else None,
                multiprocessing_context="fork" if makers else None,
            )
        )
