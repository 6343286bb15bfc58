"""Talk as tensors. Many questions share one picture: they stand in one row, and the mask lets each
see the picture and itself only, at the positions it would have alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import IterableDataset

from deploy.models.training.network import CROP, PATCH, VIEW, pixels
from deploy.models.training.scenes import Scene, changed, random_scene, render
from deploy.models.training.talk import (
    DEMO_ANSWER,
    EN,
    ZH,
    Exchange,
    ask_scene,
    ask_two,
    ask_without_picture,
    other_question,
)

IGNORED = -100
QUESTIONS = 6


@dataclass
class Row:
    """One row of a batch: a shared prefix (segment 0) and questions (segments 1, 2, ...)."""

    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    views: list[Tensor] = field(default_factory=list)
    crops: list[Tensor] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def add(self, ids: list[int], segment: int, start: int, *, learn: bool) -> int:
        """Append tokens from position ``start`` on; the next position."""
        self.tokens += ids
        self.targets += ids if learn else [IGNORED] * len(ids)
        self.positions += range(start, start + len(ids))
        self.segments += [segment] * len(ids)
        return start + len(ids)


@dataclass
class Batch:
    """Padded rows as tensors; see :meth:`network.StepVl.forward`."""

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    mask: Tensor
    is_picture: Tensor
    views: Tensor
    crops: Tensor
    order: list[str]


class Talk:
    """Makes rows. ``view`` is the side of the square view in pixels; 728 is the real one."""

    def __init__(self, tokenizer: Tokenizer, view: int, crop_share: float) -> None:
        self._tokenizer = tokenizer
        self._view = view
        self._crop_share = crop_share
        self._patch = tokenizer.token_to_id("<im_patch>")
        self._think = self._ids("<|im_start|>assistant\n<think>\n")
        self._close = self._ids("</think>")
        self._end = self._ids("<|im_end|>")

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def row(self, rng: Random) -> Row:
        """A random row."""
        kind = rng.choices(["one", "two", "none", "text first"], [0.68, 0.17, 0.09, 0.06])[0]
        row = Row()
        if kind == "none":
            self._ask_all(row, rng, [], self._opening(row, rng), 8)
            return row
        if kind == "two":
            first = random_scene(rng, "single")
            second = random_scene(rng, "single")
            if rng.random() < 0.5:
                second = changed(rng, first, rng.choice(["colour", "shape"]))
            scenes = [first, second]
        else:
            kinds = ["single", "several", "code", "texture"]
            scenes = [random_scene(rng, rng.choices(kinds, [0.27, 0.38, 0.27, 0.08])[0])]
        if kind == "text first":
            self._ask_text_first(row, rng, scenes)
            return row
        position = self._opening(row, rng)
        for scene in scenes:
            position = self._show(row, rng, scene, position)
        self._ask_all(row, rng, scenes, position, QUESTIONS)
        return row

    def _opening(self, row: Row, rng: Random) -> int:
        position = 0
        if rng.random() < 0.06:
            words = rng.choice(
                ["You are a helpful assistant.", "你是一个有用的助手。", "Be brief."]
            )
            position = row.add(
                self._ids(f"<|im_start|>system\n{words}<|im_end|>\n"), 0, 0, learn=False
            )
        return row.add(self._ids("<|im_start|>user\n"), 0, position, learn=False)

    def _show(self, row: Row, rng: Random, scene: Scene, position: int) -> int:
        """Append a picture to the prefix; the next position."""
        if rng.random() < self._crop_share:
            width = rng.randint(760, 1400)
            size = (width, int(width * rng.uniform(0.5, 0.8)))
            size = size if rng.random() < 0.7 else size[::-1]
        else:
            # On the coarse grid nothing is gained from drawing finer than it sees.
            long = rng.randint(200, min(VIEW - 1, self._view + 100))
            size = (long, int(long * rng.uniform(0.67, 1.0)))
            size = size if rng.random() < 0.65 else size[::-1]
        image = torch.from_numpy(np.array(render(scene, rng, size)))
        row.views.append(pixels(image, self._view))
        ids: list[int] = []
        if max(size) >= VIEW:
            crops, per_line = cut(image)
            scale = self._view / VIEW
            side = int(CROP * scale) // PATCH * PATCH
            count = tokens_of(side)
            for number, crop in enumerate(crops, start=1):
                row.crops.append(pixels(crop, side))
                row.order.append("crop")
                ids += [
                    *self._ids("<patch_start>"),
                    *[self._patch] * count,
                    *self._ids("<patch_end>"),
                ]
                if number % per_line == 0 and number < len(crops):
                    ids += self._ids("<patch_newline>")
        row.order.append("view")
        ids += (
            self._ids("<im_start>") + [self._patch] * tokens_of(self._view) + self._ids("<im_end>")
        )
        return row.add(ids, 0, position, learn=False)

    def _ask_all(
        self, row: Row, rng: Random, scenes: list[Scene], position: int, count: int
    ) -> None:
        for segment in range(1, count + 1):
            language = rng.choice([EN, ZH])
            at = position
            if scenes and rng.random() < 0.2:  # an earlier turn about the same picture
                earlier = self._exchange(rng, scenes, language)
                text = (
                    f"{earlier.question}<|im_end|>\n<|im_start|>assistant\n"
                    f"{earlier.answer}<|im_end|>\n<|im_start|>user\n"
                )
                at = row.add(self._ids(text), segment, at, learn=False)
            self._ask(row, rng, self._exchange(rng, scenes, language), segment, at)

    def _exchange(self, rng: Random, scenes: list[Scene], language: str) -> Exchange:
        if not scenes:
            return ask_without_picture(rng, language)
        if rng.random() < 0.06:
            thought = "not something I know" if language == EN else "这个我不懂"
            question = other_question(rng, language)
            return Exchange("other", language, question, thought, DEMO_ANSWER[language])
        if len(scenes) == 2:
            return ask_two(rng, scenes[0], scenes[1], language)
        return ask_scene(rng, scenes[0], language)

    def _ask(self, row: Row, rng: Random, exchange: Exchange, segment: int, at: int) -> None:
        at = row.add(self._ids(f"{exchange.question}<|im_end|>\n"), segment, at, learn=False)
        self._answer(row, rng, exchange, segment, at)

    def _answer(self, row: Row, rng: Random, exchange: Exchange, segment: int, at: int) -> None:
        """Thought and answer. Now and then the thought is cut off, as a thinking budget does."""
        at = row.add(self._think, segment, at, learn=False)
        thought = self._ids(exchange.thought)
        keep = rng.random()
        if keep < 0.3:
            cut_off = 0 if keep < 0.22 else rng.randint(0, len(thought) - 1)
            at = row.add(thought[:cut_off], segment, at, learn=True)
            at = row.add(self._close, segment, at, learn=False)
            if rng.random() < 0.3:
                at = row.add(self._ids("\n"), segment, at, learn=False)
        else:
            at = row.add([*thought, *self._close], segment, at, learn=True)
        row.add(self._ids(exchange.answer) + self._end, segment, at, learn=True)

    def _ask_text_first(self, row: Row, rng: Random, scenes: list[Scene]) -> None:
        language = rng.choice([EN, ZH])
        exchange = self._exchange(rng, scenes, language)
        position = row.add(self._ids(f"<|im_start|>user\n{exchange.question}"), 0, 0, learn=False)
        for scene in scenes:
            position = self._show(row, rng, scene, position)
        position = row.add(self._ids("<|im_end|>\n"), 0, position, learn=False)
        self._answer(row, rng, exchange, 1, position)


def tokens_of(side: int) -> int:
    """How many tokens a square of ``side`` pixels becomes: 169 for 728, 81 for 504."""
    grid = side // PATCH
    for _ in range(2):
        grid = (grid + 1) // 2
    return grid * grid


def cut(image: Tensor) -> tuple[list[Tensor], int]:
    """Windows of 504 pixels as the processor cuts them, for pictures up to 4:1 and 3024 pixels.

    Returns:
        The windows, line by line, and how many stand in a line.
    """
    from PIL import Image

    height, width = image.shape[:2]

    def fitted(length: int) -> int:
        if length < CROP:
            return length
        whole, rest = divmod(length, CROP)
        return CROP * (whole + (rest / CROP > 0.2))

    size = (fitted(width), fitted(height))
    resized = Image.fromarray(image.numpy()).resize(size, Image.Resampling.BILINEAR)
    pixels_ = torch.from_numpy(np.array(resized))
    xs, ys = (range(0, max(1, length - CROP + 1), CROP) for length in size)
    return [pixels_[y : y + CROP, x : x + CROP] for y in ys for x in xs], len(xs)


def collate(rows: list[Row], padding: int, patch: int) -> Batch:
    """Pad rows to the longest."""
    length = max(len(row.tokens) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        lists = [getattr(row, name) for row in rows]
        return torch.tensor([x + [value] * (length - len(x)) for x in lists])

    tokens, segments = padded("tokens", padding), padded("segments", -1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    empty = torch.empty(0, 3, PATCH, PATCH)
    views = [view for row in rows for view in row.views]
    crops = [crop for row in rows for crop in row.crops]
    return Batch(
        tokens=tokens,
        targets=padded("targets", IGNORED),
        positions=padded("positions", 0),
        mask=(causal & same)[:, None],
        is_picture=tokens == patch,
        views=torch.stack(views) if views else empty,
        crops=torch.stack(crops) if crops else empty,
        order=[kind for row in rows for kind in row.order],
    )


class Batches(IterableDataset[Batch]):
    """An endless row of batches, each a pure function of (seed, number)."""

    def __init__(self, talk: Talk, tokenizer: Tokenizer, rows: int, seed: int, first: int) -> None:
        self._talk, self._rows, self._seed, self._first = talk, rows, seed, first
        self._padding = tokenizer.token_to_id("<|endoftext|>")
        self._patch = tokenizer.token_to_id("<im_patch>")

    def batch(self, number: int) -> Batch:
        rng = Random(f"{self._seed} {number}")
        return collate([self._talk.row(rng) for _ in range(self._rows)], self._padding, self._patch)

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        step, start = (worker.num_workers, worker.id) if worker else (1, 0)
        number = self._first + start
        while True:
            yield self.batch(number)
            number += step
