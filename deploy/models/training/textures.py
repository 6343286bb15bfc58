"""Pictures with no known content, so that the model learns to say that it does not know them."""

from __future__ import annotations

import math
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Size = tuple[int, int]


def texture(rng: Random, size: Size) -> Image.Image:
    """One of the kinds used in training."""
    makers = [_clouds, _blobs, _grain, _clutter, _stripes, _checks, _rings, _scribble, _landscape]
    makers += [_discs, _scanlines, _haze, _haze, _amoebas, _amoebas]
    image = rng.choice(makers)(rng, np.random.default_rng(rng.getrandbits(32)), size)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3.0)))
    return image


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


def _blobs(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    return _layers(noise, size, rng.choice([(4, 8), (2, 3, 5), (6, 30)]))


def _grain(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    cells = rng.choice([8, 16, 40, 100, 200])
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


def _discs(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    """Far more overlapping discs or boxes than anyone would count."""
    image = Image.new("RGB", size, _colour(noise))
    draw = ImageDraw.Draw(image)
    one = draw.ellipse if rng.random() < 0.6 else draw.rectangle
    for _ in range(rng.randint(15, 70)):
        r = rng.uniform(0.02, 0.14) * min(size)
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        one((x - r, y - r, x + r * rng.uniform(0.5, 1.5), y + r), fill=_colour(noise))
    return image


def _stripes(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    image, second = Image.new("RGB", size, _colour(noise)), _colour(noise)
    draw, step = ImageDraw.Draw(image), rng.uniform(0.03, 0.12) * size[0]
    slant = rng.uniform(-0.02, 0.02) * size[0]
    for i in range(0, int(max(size) / step) + 1, 2):
        draw.line([(i * step, 0), (i * step + slant, size[1])], fill=second, width=int(step))
    return image.rotate(rng.choice([0, 90, 30, rng.uniform(0, 180)]), fillcolor=second)


def _checks(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    image, second = Image.new("RGB", size, _colour(noise)), _colour(noise)
    draw, step = ImageDraw.Draw(image), rng.uniform(0.03, 0.12) * size[0]
    for i in range(int(size[0] / step) + 1):
        for j in range(i % 2, int(size[1] / step) + 1, 2):
            draw.rectangle((i * step, j * step, (i + 1) * step, (j + 1) * step), fill=second)
    return image


def _rings(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    image, second = Image.new("RGB", size, _colour(noise)), _colour(noise)
    draw, step = ImageDraw.Draw(image), rng.uniform(0.02, 0.07) * max(size)
    x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    for i in range(int(1.5 * max(size) / step), 0, -1):
        fill = second if i % 2 else _colour(noise) if rng.random() < 0.3 else None
        draw.ellipse((x - i * step, y - i * step, x + i * step, y + i * step), fill, second)
    return image


def _scribble(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    image = Image.new("RGB", size, _colour(noise))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 25)):
        points = [
            (rng.uniform(0, size[0]), rng.uniform(0, size[1])) for _ in range(rng.randint(2, 8))
        ]
        draw.line(points, fill=_colour(noise), width=rng.randint(1, max(2, min(size) // 30)))
    return image


def _landscape(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    """Bands with ragged edges under each other, each slightly rough."""
    width, height = size
    image = Image.new("RGB", size, _colour(noise))
    draw = ImageDraw.Draw(image)
    level = rng.uniform(0.2, 0.5)
    while level < 1:
        waves = [(rng.uniform(0.01, 0.08), rng.uniform(1, 14), rng.uniform(0, 6)) for _ in range(4)]
        ridge = [
            (
                x * width / 40,
                height * (level + sum(a * math.sin(f * x / 40 + p) for a, f, p in waves)),
            )
            for x in range(41)
        ]
        draw.polygon([*ridge, (width, height), (0, height)], fill=_colour(noise))
        level += rng.uniform(0.1, 0.35)
    rough = noise.normal(0, rng.uniform(2, 20), (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(image) + rough, 0, 255).astype(np.uint8))


def _scanlines(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    """Noise that is smooth one way and rough the other, like wood, water or fabric."""
    fine, coarse = rng.randint(30, 200), rng.randint(2, 8)
    cells = (fine, coarse) if rng.random() < 0.5 else (coarse, fine)
    base = np.array(_colour(noise), np.float32)
    small = base + noise.normal(0, rng.uniform(15, 70), (*cells, 1)) * np.array(
        [1, rng.uniform(0.5, 1.2), rng.uniform(0.3, 1.2)]
    )
    small = np.clip(small, 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _haze(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    """Soft spots without an edge."""
    image = Image.new("RGB", size, _colour(noise))
    for _ in range(rng.randint(1, 12)):
        mask = Image.new("L", (96, 96))
        x, y, r = rng.uniform(0, 96), rng.uniform(0, 96), rng.uniform(4, 22)
        box = (x - r, y - r * rng.uniform(0.6, 1.4), x + r, y + r)
        ImageDraw.Draw(mask).ellipse(box, fill=rng.randint(60, 255))
        mask = mask.filter(ImageFilter.GaussianBlur(r * rng.uniform(0.3, 0.8)))
        mask = mask.resize(size, Image.Resampling.BICUBIC)
        image.paste(Image.new("RGB", size, _colour(noise)), (0, 0), mask)
    return image


def _amoebas(rng: Random, noise: np.random.Generator, size: Size) -> Image.Image:
    """A few things with an edge, of no shape that has a name."""
    image = Image.new("RGB", size, _colour(noise))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 6)):
        x, y = rng.uniform(0.1, 0.9) * size[0], rng.uniform(0.1, 0.9) * size[1]
        r = rng.uniform(0.08, 0.35) * min(size)
        waves = [(rng.uniform(0.1, 0.35), rng.randint(2, 9), rng.uniform(0, 6)) for _ in range(4)]
        points = []
        for step in range(90):
            turn = step * math.tau / 90
            k = r * (1 + sum(a * math.sin(f * turn + p) for a, f, p in waves))
            points.append((x + k * math.cos(turn), y + k * math.sin(turn)))
        draw.polygon(points, fill=_colour(noise))
    return image
