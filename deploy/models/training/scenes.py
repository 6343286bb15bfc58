"""What a picture shows, before anything is drawn: things, a printed code, a colour, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random

COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
SHAPES = ("circle", "square", "triangle", "star", "cross")
PLACES = ("left", "right", "top", "bottom", "middle")
CENTRES = {
    "left": (0.18, 0.5),
    "right": (0.82, 0.5),
    "top": (0.5, 0.18),
    "bottom": (0.5, 0.82),
    "middle": (0.5, 0.5),
}
# How far the corners of a thing are from its centre, as a multiple of its size.
REACH = 1.3
DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Beside digits, I and O can be 1 and 0 in most fonts.
CODE_CHARACTERS = DIGITS + LETTERS.replace("I", "").replace("O", "")


@dataclass(frozen=True)
class Thing:
    """One object; its centre and ``size`` (half its width) as fractions of the picture.

    ``place`` names where it stands, where that can be said in one word.
    """

    shape: str
    colour: str
    place: str | None = None
    x: float = 0.5
    y: float = 0.5
    size: float = 0.12

    @property
    def look(self) -> tuple[str, str]:
        """Colour and shape."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """What a picture shows: things, a code, one ``plain`` colour, or (none of them) a texture."""

    things: tuple[Thing, ...] = ()
    code: str | None = None
    plain: str | None = None

    @property
    def known(self) -> bool:
        """Whether there is anything to say of it."""
        return bool(self.things or self.code or self.plain)

    @property
    def alike(self) -> bool:
        """Several things that share colour and shape."""
        return len(self.things) > 1 and len({t.look for t in self.things}) == 1

    @property
    def scattered(self) -> bool:
        """Several things, of which no place can be said in a word."""
        return len(self.things) > 1 and self.things[0].place is None


def at(place: str, shape: str, colour: str) -> Thing:
    """A thing exactly at a place."""
    x, y = CENTRES[place]
    return Thing(shape, colour, place, x, y)


def single_and_different(first: Scene, second: Scene) -> bool:
    """Whether each shows one thing, and the two things look different."""
    looks = [[thing.look for thing in scene.things] for scene in (first, second)]
    return len(looks[0]) == len(looks[1]) == 1 and looks[0] != looks[1]


def random_scene(rng: Random, kind: str) -> Scene:
    """``kind`` is a key of :data:`KINDS`."""
    return KINDS[kind](rng)


def changed(rng: Random, scene: Scene, what: str) -> Scene:
    """A single thing with another ``colour`` or ``shape``, somewhere else."""
    [thing] = scene.things
    choices = COLOURS if what == "colour" else SHAPES
    new = rng.choice([c for c in choices if c != getattr(thing, what)])
    looks = {"shape": thing.shape, "colour": thing.colour, what: new}
    elsewhere = _single(rng).things[0]
    return Scene((replace(elsewhere, shape=looks["shape"], colour=looks["colour"]),))


def _random_looks(rng: Random) -> tuple[str, str]:
    return rng.choice(SHAPES), rng.choice(COLOURS)


def _single(rng: Random) -> Scene:
    size = rng.uniform(0.1, 0.36)
    edge = min(0.5, size * REACH)
    x, y = rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge)
    return Scene((Thing(*_random_looks(rng), None, x, y, size),))


def _placed(rng: Random) -> Scene:
    """Two to five things, each near the middle or an edge."""
    places = sorted(rng.sample(PLACES, rng.randint(2, 5)), key=PLACES.index)
    while True:
        things = []
        for place in places:
            x, y = (centre + rng.uniform(-0.055, 0.055) for centre in CENTRES[place])
            looks = _random_looks(rng)
            things.append(Thing(*looks, place, x, y, rng.uniform(0.085, 0.125)))
        if not any(_touch(a, b) for a, b in combinations(things, 2)):
            return Scene(tuple(things))


def _touch(a: Thing, b: Thing) -> bool:
    """On a square picture; corners reach a little further than ``size``."""
    return math.dist((a.x, a.y), (b.x, b.y)) < REACH * (a.size + b.size)


def _row(rng: Random) -> Scene:
    """Two or three things beside or above each other, not quite in line."""
    count = rng.randint(2, 3)
    names = [("left", "top"), ("middle", "middle"), ("right", "bottom")]
    names = [names[0], names[2]] if count == 2 else names
    beside = rng.random() < 0.5
    spread = 0.22 if count == 2 else 0.15
    while True:
        things = []
        for i, name in enumerate(names):
            along = 0.5 + (i - (count - 1) / 2) * rng.uniform(0.28, 0.62 / (count - 1))
            across = 0.5 + rng.uniform(-spread, spread)
            x, y = (along, across) if beside else (across, along)
            looks = _random_looks(rng)
            thing = Thing(*looks, name[0 if beside else 1], x, y, rng.uniform(0.08, 0.13))
            things.append(thing)
        if not any(_touch(a, b) for a, b in combinations(things, 2)):
            return Scene(tuple(sorted(things, key=lambda t: PLACES.index(t.place or "middle"))))


def _spread(rng: Random, count: int) -> list[tuple[float, float, float]]:
    """Centres anywhere and a common size, so that none touches another."""
    while True:
        size = rng.uniform(0.06, 0.1)
        low = size * REACH
        points = [(rng.uniform(low, 1 - low), rng.uniform(low, 1 - low)) for _ in range(count)]
        gaps = [math.dist(a, b) for a, b in combinations(points, 2)]
        if min(gaps) > 2 * REACH * size * 1.1:
            return [(x, y, size * rng.uniform(0.9, 1.1)) for x, y in points]


def _scattered(rng: Random) -> Scene:
    """Four or five things anywhere."""
    points = _spread(rng, rng.randint(4, 5))
    things = tuple(Thing(*_random_looks(rng), None, x, y, size) for x, y, size in points)
    return Scene(things)


def _group(rng: Random) -> Scene:
    """Two to five things of one kind, anywhere."""
    looks = _random_looks(rng)
    points = _spread(rng, rng.randint(2, 5))
    return Scene(tuple(Thing(*looks, None, x, y, size) for x, y, size in points))


def _code(rng: Random, shortest: int = 1, longest: int = 4) -> Scene:
    """Never I and O alone, which are drawn like 1 and 0 in most fonts."""
    characters = rng.choice([DIGITS, LETTERS, CODE_CHARACTERS])
    while True:
        code = "".join(rng.choices(characters, k=rng.randint(shortest, longest)))
        if set(code) - set("IO"):
            return Scene(code=code)


KINDS: dict[str, Callable[[Random], Scene]] = {
    "single": _single,
    "placed": _placed,
    "row": _row,
    "scattered": _scattered,
    "group": _group,
    "code": _code,
    # Longer than is asked for later: more to learn from one picture.
    "long code": lambda rng: _code(rng, 5, 8),
    "plain": lambda rng: Scene(plain=rng.choice(COLOURS)),
    "texture": lambda _rng: Scene(),
}
