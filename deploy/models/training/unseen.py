"""Textures and photos that training never sees, to find out whether the model owns up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Size = tuple[int, int]
Noise = np.random.Generator


def unseen_picture(rng: Random, size: Size, photos: Sequence[Path] = ()) -> Image.Image:
    """A part of one of ``photos`` (one time in four), or something drawn."""
    if photos and rng.random() < 0.25:
        return _part_of(Image.open(rng.choice(photos)).convert("RGB"), rng, size)
    makers = [_cells, _fractal, _bricks, _lights, _city, _wood, _waves, _leaves, _newspaper]
    return rng.choice(makers)(rng, np.random.default_rng(rng.getrandbits(32)), size)


def photo_files() -> list[Path]:
    """The photos in gradio's and matplotlib's folders."""
    found: list[Path] = []
    for package in ("gradio", "matplotlib"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += sorted(Path(folder).rglob("*.jpg"))
    return found


def _part_of(photo: Image.Image, rng: Random, size: Size) -> Image.Image:
    share = rng.uniform(0.5, 1.0)
    width, height = (int(side * share) for side in photo.size)
    x, y = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
    return photo.crop((x, y, x + width, y + height)).resize(size)


def _rgb(noise: Noise) -> tuple[int, int, int]:
    r, g, b = noise.integers(0, 256, 3).tolist()
    return r, g, b


def _grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
    return x.astype(np.float32), y.astype(np.float32)


def _painted(value: np.ndarray, noise: Noise) -> Image.Image:
    """Values of 0 to 1 between random colours."""
    colours = noise.integers(0, 256, (5, 3)).astype(np.float32)
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(value, stops, colours[:, i]) for i in range(3)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def _cells(rng: Random, noise: Noise, size: Size) -> Image.Image:
    """Each pixel in the colour of the nearest of many points."""
    x, y = _grid((size[0] // 2, size[1] // 2))
    points = noise.uniform(-1, 1, (rng.randint(15, 60), 2))
    nearest = np.argmin([(x - px) ** 2 + (y - py) ** 2 for px, py in points], axis=0)
    colours = noise.integers(0, 256, (len(points), 3)).astype(np.uint8)
    return Image.fromarray(colours[nearest]).resize(size)


def _fractal(rng: Random, noise: Noise, size: Size) -> Image.Image:
    """A Julia set."""
    x, y = _grid((size[0] // 2, size[1] // 2))
    z = (x + 1j * y) * rng.uniform(0.8, 1.5)
    c = 0.7885 * np.exp(1j * rng.uniform(0, 2 * math.pi))
    steps = np.zeros(z.shape, np.float32)
    for _ in range(40):
        inside = np.abs(z) < 4
        z = np.where(inside, z * z + c, z)
        steps += inside
    return _painted((steps / 40) ** 0.6, noise).resize(size)


def _bricks(rng: Random, noise: Noise, size: Size) -> Image.Image:
    image, draw_step = Image.new("RGB", size, _rgb(noise)), rng.uniform(0.05, 0.12)
    draw, base = ImageDraw.Draw(image), noise.integers(40, 220, 3)
    height, width = draw_step * size[1], draw_step * size[1] * 2.2
    for row in range(int(size[1] / height) + 1):
        for i in range(-1, int(size[0] / width) + 2):
            x, y = (i + (row % 2) / 2) * width, row * height
            r, g, b = np.clip(base + noise.integers(-30, 30, 3), 0, 255).tolist()
            draw.rectangle((x, y, x + width * 0.93, y + height * 0.86), fill=(r, g, b))
    return image


def _lights(rng: Random, noise: Noise, size: Size) -> Image.Image:
    """Blurred lights in the dark."""
    image = Image.new("RGB", size, (10, 12, 25))
    for _ in range(rng.randint(25, 60)):
        layer = Image.new("L", size)
        r = rng.uniform(0.02, 0.08) * min(size)
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        ImageDraw.Draw(layer).ellipse((x - r, y - r, x + r, y + r), fill=rng.randint(40, 160))
        image.paste(Image.new("RGB", size, _rgb(noise)), (0, 0), layer)
    return image.filter(ImageFilter.GaussianBlur(min(size) / 120))


def _city(rng: Random, noise: Noise, size: Size) -> Image.Image:
    """Houses with lit windows."""
    image = Image.new("RGB", size, _rgb(noise))
    draw, x = ImageDraw.Draw(image), 0.0
    while x < size[0]:
        width, top = rng.uniform(0.06, 0.16) * size[0], rng.uniform(0.1, 0.6) * size[1]
        draw.rectangle((x, top, x + width, size[1]), fill=_rgb(noise))
        step = size[0] * 0.025
        for wx in np.arange(x + step / 2, x + width - step, step).tolist():
            for wy in np.arange(top + step, size[1], step * 1.5).tolist():
                if rng.random() < 0.6:
                    draw.rectangle((wx, wy, wx + step / 2, wy + step * 0.8), fill=(250, 230, 150))
        x += width
    return image


def _wood(rng: Random, noise: Noise, size: Size) -> Image.Image:
    x, y = _grid(size)
    bend = sum(
        a * np.sin(f * y + p) for a, f, p in zip(*noise.uniform(0.2, 3, (3, 4)), strict=True)
    )
    rings = np.sqrt((x * rng.uniform(2, 5) + 0.1 * bend) ** 2 + (0.3 * y) ** 2)
    return _painted(0.5 + 0.5 * np.sin(rings * rng.uniform(12, 30)), noise)


def _waves(_rng: Random, noise: Noise, size: Size) -> Image.Image:
    """Interfering waves from several sources."""
    x, y = _grid(size)
    sources = noise.uniform(-1.5, 1.5, (5, 2))
    total = sum(np.sin(25 * np.hypot(x - a, y - b)) for a, b in sources)
    return _painted(0.5 + np.asarray(total) / 10, noise)


def _leaves(rng: Random, noise: Noise, size: Size) -> Image.Image:
    image = Image.new("RGB", size, _rgb(noise))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(60, 160)):
        x, y, turn = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0, 6.3)
        r = rng.uniform(0.03, 0.1) * min(size)
        along, across = (math.cos(turn) * r, math.sin(turn) * r), (-math.sin(turn), math.cos(turn))
        sides = [(s * 0.3 * r * across[0], s * 0.3 * r * across[1]) for s in (1, -1)]
        points = [along, sides[0], (-along[0], -along[1]), sides[1]]
        draw.polygon([(x + a, y + b) for a, b in points], fill=_rgb(noise))
    return image


def _newspaper(rng: Random, _noise: Noise, size: Size) -> Image.Image:
    """A page of far too small text, and a picture in it."""
    image = Image.new("RGB", size, (rng.randint(225, 255),) * 3)
    draw = ImageDraw.Draw(image)
    for line in range(0, size[1], max(8, size[1] // 45)):
        x = 0.04 * size[0]
        while x < 0.95 * size[0]:
            width = rng.uniform(0.01, 0.07) * size[0]
            draw.rectangle((x, line + 2, x + width, line + size[1] // 90 + 2), fill=(40, 40, 40))
            x += width + 0.012 * size[0]
    return image
