"""Scenes as pixels. A random generator decides on tints, grounds, fonts: a seed names a picture.

Pictures differ in what people's pictures differ in: size, ground, shade of a colour, font, a little
blur and noise, and JPEG.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from deploy.models.training.scenes import Scene, Thing
from deploy.models.training.textures import texture

Rgb = tuple[int, int, int]

# What people mean by a name: paint's palette, CSS, and softer tones.
TINTS: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (215, 30, 35), (200, 10, 15), (230, 50, 50)),
    "orange": ((255, 165, 0), (245, 130, 20), (255, 140, 0)),
    "yellow": ((255, 255, 0), (245, 220, 40), (255, 235, 60)),
    "green": ((0, 128, 0), (40, 150, 60), (0, 200, 0), (0, 255, 0), (34, 120, 50)),
    "blue": ((0, 0, 255), (35, 80, 210), (30, 120, 240), (20, 30, 170)),
    "purple": ((128, 0, 128), (130, 50, 170), (150, 20, 200)),
    "pink": ((255, 192, 203), (245, 140, 185), (255, 105, 180)),
    "brown": ((139, 69, 19), (120, 72, 35), (150, 42, 42), (101, 60, 25)),
    "black": ((0, 0, 0), (15, 15, 18), (35, 35, 35)),
    "white": ((255, 255, 255), (250, 250, 250), (240, 240, 240)),
}
MIN_CONTRAST = 100.0
# Packages that hold fonts; training uses the first list, the evaluation also the second.
FONT_PACKAGES = {
    "matplotlib": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "STIXGeneral",
        "STIXGeneralBol",
    ),
    "font_roboto": ("Roboto-Regular", "Roboto-Medium", "Roboto-Bold"),
    "font_source_sans_pro": ("SourceSansPro-Regular", "SourceSansPro-Bold"),
    "font_source_serif_pro": ("SourceSerifPro-Regular", "SourceSerifPro-Bold"),
}
NEW_FONT_PACKAGES = {
    "font_hanken_grotesk": ("HankenGrotesk-Regular", "HankenGrotesk-Bold"),
    "font_manrope": ("Manrope-Regular", "Manrope-Bold"),
}


def render(
    scene: Scene,
    rng: Random,
    size: tuple[int, int],
    fonts: tuple[str, ...] | None = None,
    *,
    bright: bool = False,
) -> Image.Image:
    """Draw it.

    Args:
        size: (width, height) in pixels.
        fonts: files to choose from; by default those of training and Pillow's own.
        bright: almost white grounds wherever what is shown can be told from them.
    """
    if not scene.known:
        return texture(rng, size)
    if scene.plain:
        return _weather(Image.new("RGB", size, _shade(rng, scene.plain)), rng)
    fills = [_shade(rng, thing.colour) for thing in scene.things]
    ground = _ground(rng, size, fills, bright=bright)
    if scene.code is not None:
        _draw_code(ground, scene.code, rng, fonts or (*font_files(), ""))
    outlined = rng.random() < 0.12
    for thing, fill in zip(scene.things, fills, strict=True):
        _draw_thing(ground, thing, fill, rng, outlined=outlined)
    return _weather(ground, rng)


def _near(rng: Random, colour: Rgb, by: int) -> Rgb:
    r, g, b = (max(0, min(255, c + rng.randint(-by, by))) for c in colour)
    return r, g, b


def _shade(rng: Random, name: str) -> Rgb:
    return _near(rng, rng.choice(TINTS[name]), 8)


def _ground(
    rng: Random, size: tuple[int, int], away_from: list[Rgb], *, bright: bool
) -> Image.Image:
    """A plain or slightly graded ground on which every given colour can be told."""
    contrast = MIN_CONTRAST
    while True:
        kind = 0.0 if bright and contrast == MIN_CONTRAST else rng.random()
        if kind < 0.35:
            colour = _near(rng, (245, 245, 245), 10)
        elif kind < 0.6:
            colour = _near(rng, (rng.randint(180, 240),) * 3, 22)
        elif kind < 0.75:
            colour = _near(rng, (rng.randint(15, 110),) * 3, 20)
        else:
            colour = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
        if all(math.dist(colour, c) > contrast for c in away_from):
            break
        contrast *= 0.99  # five colours leave little room
    ground = Image.new("RGB", size, colour)
    if rng.random() < 0.25:
        mask = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize(size)
        ground.paste(Image.new("RGB", size, _near(rng, colour, 25)), (0, 0), mask)
    return ground


def outline(shape: str, x: float, y: float, r: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape of half-width ``r`` around (x, y); ``turn`` in radians."""
    if shape == "cross":
        arm, w = r * 1.1, r * 0.37
        points = [(-w, -arm), (w, -arm), (w, -w), (arm, -w), (arm, w), (w, w)]
        points += [(-a, -b) for a, b in points]
        c, s = math.cos(turn), math.sin(turn)
        return [(x + a * c - b * s, y + a * s + b * c) for a, b in points]
    radii, start = {
        "square": ([r * 1.3] * 4, math.pi / 4),
        "triangle": ([r * 1.25] * 3, -math.pi / 2),
        "star": ([r * 1.25, r * 0.5] * 5, -math.pi / 2),
        "circle": ([r * 1.05] * 64, 0.0),
    }[shape]
    step = 2 * math.pi / len(radii)
    return [
        (x + k * math.cos(start + turn + step * i), y + k * math.sin(start + turn + step * i))
        for i, k in enumerate(radii)
    ]


def _draw_thing(
    image: Image.Image, thing: Thing, fill: Rgb, rng: Random, *, outlined: bool
) -> None:
    width, height = image.size
    r = min(width, height) * thing.size
    points = outline(thing.shape, thing.x * width, thing.y * height, r, rng.uniform(-0.25, 0.25))
    edge: Rgb | None = (0, 0, 0) if outlined else None
    ImageDraw.Draw(image).polygon(points, fill=fill, outline=edge, width=max(1, int(r * 0.05)))


@lru_cache
def font_files(*, new: bool = False) -> tuple[str, ...]:
    """Upright fonts from the packages that are installed, as paths."""
    found = []
    for package, names in (NEW_FONT_PACKAGES if new else FONT_PACKAGES).items():
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            files = {p.stem: str(p) for p in sorted(Path(folder).rglob("*.[to]tf"))}
            found += [files[name] for name in names]
    return tuple(found)


@lru_cache(maxsize=512)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def _draw_code(image: Image.Image, code: str, rng: Random, fonts: tuple[str, ...]) -> None:
    width, height = image.size
    name = rng.choice(fonts)
    target = width * min(0.92, rng.uniform(0.1, 0.22) * len(code))
    left, top, right, bottom = _font(name, 64).getbbox(code)
    size = max(12, int(64 * min(target / (right - left), height * 0.7 / (bottom - top))))
    font = _font(name, size // 4 * 4)
    left, top, right, bottom = font.getbbox(code)
    w, h = right - left, bottom - top
    x = rng.uniform(0.03 * width, max(0.04 * width, 0.97 * width - w)) - left
    y = rng.uniform(0.03 * height, max(0.04 * height, 0.97 * height - h)) - top
    ImageDraw.Draw(image).text((x, y), code, font=font, fill=_ink(rng, image))


def _ink(rng: Random, ground: Image.Image) -> Rgb:
    """Mostly dark on bright or bright on dark, at times a colour."""
    pixel = np.asarray(ground)[0, 0].tolist()
    if rng.random() < 0.25:
        for _ in range(20):
            colour = _shade(rng, rng.choice([*TINTS]))
            if math.dist(colour, pixel) > 180:
                return colour
    dark = sum(pixel) > 3 * 128
    shade = rng.randint(0, 50) if dark else rng.randint(205, 255)
    return shade, shade, shade


def _weather(image: Image.Image, rng: Random) -> Image.Image:
    """What happens to real pictures: a little noise, blur, and JPEG."""
    if rng.random() < 0.25:
        image = noisy(image, rng, rng.uniform(2, 12))
    if rng.random() < 0.12:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.35:
        image = as_jpeg(image, rng.randint(55, 95))
    return image


def noisy(image: Image.Image, rng: Random, deviation: float) -> Image.Image:
    """Normal noise on each pixel and channel; ``deviation`` of 255."""
    generator = np.random.default_rng(rng.getrandbits(32))
    noise = generator.standard_normal((*image.size[::-1], 3), np.float32)
    noise *= deviation
    noise += np.asarray(image)
    return Image.fromarray(np.clip(noise, 0, 255, out=noise).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The same picture after a trip through JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")
