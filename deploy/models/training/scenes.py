"""Pictures whose content is known: shapes on a ground, short printed codes, and textures.

Every picture is a pure function of a random generator, so a seed names a picture for ever.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "orange": (245, 130, 20),
    "yellow": (245, 220, 40),
    "green": (40, 150, 60),
    "blue": (35, 80, 210),
    "purple": (130, 50, 170),
    "pink": (245, 140, 185),
    "brown": (120, 72, 35),
    "black": (15, 15, 18),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
PLACES = ("left", "right", "top", "bottom", "middle")

# Centres as fractions of width and height.
_CENTRES = {
    "left": (0.18, 0.5),
    "right": (0.82, 0.5),
    "top": (0.5, 0.18),
    "bottom": (0.5, 0.82),
    "middle": (0.5, 0.5),
}
CODE_CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # no I and O: they are 1 and 0 in most fonts
MIN_CONTRAST = 110.0
FONT_FOLDERS = ("/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/truetype/liberation")


@dataclass(frozen=True)
class Thing:
    """One object; ``place`` is None where it stands alone somewhere."""

    shape: str
    colour: str
    place: str | None = None


@dataclass(frozen=True)
class Scene:
    """What a picture shows: things, or a code, or (neither) a texture."""

    things: tuple[Thing, ...] = ()
    code: str | None = None


def random_thing(rng: Random, place: str | None = None) -> Thing:
    return Thing(rng.choice(SHAPES), rng.choice([*COLOURS]), place)


def random_scene(rng: Random, kind: str) -> Scene:
    """``single``, ``several`` (two to five things, each at its place), ``code`` or ``texture``."""
    if kind == "single":
        return Scene((random_thing(rng),))
    if kind == "several":
        places = rng.sample(PLACES, rng.randint(2, 5))
        return Scene(tuple(random_thing(rng, place) for place in sorted(places, key=PLACES.index)))
    if kind == "code":
        return Scene(code="".join(rng.choices(CODE_CHARACTERS, k=rng.randint(1, 4))))
    return Scene()


def changed(rng: Random, scene: Scene, what: str) -> Scene:
    """A single thing with another ``colour`` or ``shape``."""
    [thing] = scene.things
    choices: list[str] = [*COLOURS] if what == "colour" else [*SHAPES]
    new = rng.choice([c for c in choices if c != getattr(thing, what)])
    return Scene((replace(thing, **{what: new}),))


def render(scene: Scene, rng: Random, size: tuple[int, int]) -> Image.Image:
    """Draw it; ``size`` is (width, height) in pixels."""
    if scene.code is None and not scene.things:
        return texture(rng, size)
    wanted = [COLOURS[thing.colour] for thing in scene.things]
    ground = _ground(rng, size, wanted)
    if scene.code is not None:
        _draw_code(ground, scene.code, rng)
    for thing in scene.things:
        _draw_thing(ground, thing, rng, alone=len(scene.things) == 1)
    return _weather(ground, rng)


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _ground(
    rng: Random, size: tuple[int, int], away_from: list[tuple[int, int, int]]
) -> Image.Image:
    """A plain or slightly graded ground on which every given colour can be told."""
    while True:
        bright = rng.random() < 0.75
        base = rng.randint(200, 255) if bright else rng.randint(20, 110)
        colour = tuple(max(0, min(255, base + rng.randint(-22, 22))) for _ in range(3))
        if all(_distance(colour, c) > MIN_CONTRAST for c in away_from):
            break
        if rng.random() < 0.1:  # black beside white leaves only the middle
            colour = tuple(rng.randint(110, 190) for _ in range(3))
            if all(_distance(colour, c) > MIN_CONTRAST * 0.7 for c in away_from):
                break
    ground = Image.new("RGB", size, colour)
    if rng.random() < 0.3:
        shade = tuple(max(0, min(255, c + rng.randint(-25, 25))) for c in colour)
        mask = Image.linear_gradient("L").resize(size)
        ground.paste(Image.new("RGB", size, shade), (0, 0), mask)
    return ground


def _outline(shape: str, x: float, y: float, r: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape around (x, y); ``turn`` in radians."""
    if shape == "square":
        radii, count, start = [r * 1.2], 4, np.pi / 4
    elif shape == "triangle":
        radii, count, start = [r * 1.2], 3, -np.pi / 2
    elif shape == "star":
        radii, count, start = [r * 1.25, r * 0.5], 10, -np.pi / 2
    else:
        arm, width = r * 1.1, r * 0.38
        plus = [(-width, -arm), (width, -arm), (width, -width), (arm, -width), (arm, width)]
        plus += [(width, width), (width, arm), (-width, arm), (-width, width), (-arm, width)]
        plus += [(-arm, -width), (-width, -width)]
        c, s = np.cos(turn), np.sin(turn)
        return [(x + a * c - b * s, y + a * s + b * c) for a, b in plus]
    return [
        (
            x + radii[i % len(radii)] * np.cos(start + turn + 2 * np.pi * i / count),
            y + radii[i % len(radii)] * np.sin(start + turn + 2 * np.pi * i / count),
        )
        for i in range(count)
    ]


def _draw_thing(image: Image.Image, thing: Thing, rng: Random, *, alone: bool) -> None:
    width, height = image.size
    unit = min(width, height)
    r = unit * (rng.uniform(0.13, 0.33) if alone else rng.uniform(0.095, 0.135))
    if thing.place is None:
        x = rng.uniform(r * 1.3, width - r * 1.3)
        y = rng.uniform(r * 1.3, height - r * 1.3)
    else:
        fx, fy = _CENTRES[thing.place]
        x = (fx + rng.uniform(-0.03, 0.03)) * width
        y = (fy + rng.uniform(-0.03, 0.03)) * height
    fill = tuple(max(0, min(255, c + rng.randint(-14, 14))) for c in COLOURS[thing.colour])
    draw = ImageDraw.Draw(image)
    if thing.shape == "circle":
        draw.ellipse((x - r * 1.05, y - r * 1.05, x + r * 1.05, y + r * 1.05), fill=fill)
    else:
        draw.polygon(_outline(thing.shape, x, y, r, rng.uniform(-0.2, 0.2)), fill=fill)


@lru_cache
def font_files() -> tuple[str, ...]:
    """Upright fonts of the machine that have capitals and digits; none is fine too."""
    found = [str(p) for folder in FONT_FOLDERS for p in sorted(Path(folder).glob("*.ttf"))]
    return tuple(
        f for f in found if not any(w in f for w in ("Oblique", "Italic", "Narrow", "Light"))
    )


@lru_cache(maxsize=512)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def _draw_code(image: Image.Image, code: str, rng: Random) -> None:
    width, height = image.size
    name = rng.choice([None, *font_files()])
    target = width * rng.uniform(0.16, 0.22) * len(code)
    size = 64
    left, top, right, bottom = _font(name, size).getbbox(code)
    size = max(12, int(size * min(target / (right - left), height * 0.7 / (bottom - top))))
    font = _font(name, size // 4 * 4)
    left, top, right, bottom = font.getbbox(code)
    w, h = right - left, bottom - top
    x = rng.uniform(0.03 * width, max(0.04 * width, 0.97 * width - w)) - left
    y = rng.uniform(0.03 * height, max(0.04 * height, 0.97 * height - h)) - top
    dark = float(np.mean(image.getpixel((0, 0)))) > 128
    ink = tuple(rng.randint(0, 70) if dark else rng.randint(190, 255) for _ in range(3))
    ImageDraw.Draw(image).text((x, y), code, font=font, fill=ink)


def _weather(image: Image.Image, rng: Random) -> Image.Image:
    """What happens to real pictures: a little noise, blur, and JPEG."""
    if rng.random() < 0.3:
        generator = np.random.default_rng(rng.getrandbits(32))
        noise = generator.standard_normal((*image.size[::-1], 3), np.float32)
        noise *= rng.uniform(2, 12)
        noise += np.asarray(image)
        image = Image.fromarray(np.clip(noise, 0, 255, out=noise).astype(np.uint8))
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.4:
        image = as_jpeg(image, rng.randint(60, 95))
    return image


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The same picture after a trip through JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def texture(rng: Random, size: tuple[int, int]) -> Image.Image:
    """Something with no known content, of the kinds used in training."""
    makers = [_clouds, _blobs, _grain, _clutter, _stripes, _checks]
    return rng.choice(makers)(rng, np.random.default_rng(rng.getrandbits(32)), size)


Size = tuple[int, int]


def _layers(noise: np.random.Generator, size: Size, cells: tuple[int, ...]) -> Image.Image:
    """Smooth noise of several wavelengths, the coarse ones strongest."""
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    for count in cells:
        small = noise.integers(0, 256, (count, count, 3)).astype(np.uint8)
        layer = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(layer, np.float32) / count
    total -= total.min()
    return Image.fromarray((total / total.max() * 255).astype(np.uint8))


def _clouds(_rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    return _layers(noise, size, (3, 6, 12, 24, 48))


def _blobs(_rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    return _layers(noise, size, (4, 8))


def _grain(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    cells = rng.choice([16, 40, 100, 200])
    small = noise.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.NEAREST)


def _colour(noise: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = noise.integers(0, 256, 3).tolist()
    return red, green, blue


def _clutter(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    image = Image.new("RGB", size, _colour(noise))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(12, 50)):
        corners = rng.randint(3, 5)
        points = [(rng.uniform(0, size[0]), rng.uniform(0, size[1])) for _ in range(corners)]
        draw.polygon(points, fill=_colour(noise))
    return image


def _stripes(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    image, second = Image.new("RGB", size, _colour(noise)), _colour(noise)
    draw, step = ImageDraw.Draw(image), rng.uniform(0.03, 0.12) * size[0]
    slant = rng.uniform(-0.02, 0.02) * size[0]
    for i in range(0, int(max(size) / step) + 1, 2):
        draw.line([(i * step, 0), (i * step + slant, size[1])], fill=second, width=int(step))
    return image.rotate(rng.choice([0, 90, 30]), fillcolor=second)


def _checks(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    image, second = Image.new("RGB", size, _colour(noise)), _colour(noise)
    draw, step = ImageDraw.Draw(image), rng.uniform(0.03, 0.12) * size[0]
    for i in range(int(size[0] / step) + 1):
        for j in range(i % 2, int(size[1] / step) + 1, 2):
            draw.rectangle((i * step, j * step, (i + 1) * step, (j + 1) * step), fill=second)
    return image
