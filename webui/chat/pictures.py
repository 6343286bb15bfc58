"""Pictures that people attach: looked at by their header, sent as they are."""

from __future__ import annotations

import base64
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# What both Pillow and the engine read, and every browser shows.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}
MAX_PIXELS = 50_000_000


class PictureError(Exception):
    """A picture that cannot be used; the message is for the person who attached it."""


def media_type(path: Path) -> str:
    """The media type by content, whatever the name says. Reads the header only.

    Raises:
        PictureError: not a picture, of an unsupported kind, or too large to be decoded.
    """
    try:
        with Image.open(path) as image:
            kind, (width, height) = image.format or "unknown", image.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, ValueError):
        raise PictureError(f"{path.name} is not a picture that can be read.") from None
    if kind not in MEDIA_TYPES:
        known = ", ".join(sorted(MEDIA_TYPES))
        raise PictureError(f"{path.name} is a {kind} file; use one of {known}.")
    # The engine pads long thin pictures to a square before it shrinks them.
    long, short = max(width, height), max(1, min(width, height))
    pixels = long * long if short < 32 and long / short > 4 else width * height
    if pixels > MAX_PIXELS:
        raise PictureError(f"{path.name} is {width}x{height}, too large; shrink it first.")
    return MEDIA_TYPES[kind]


def data_url(path: Path) -> str:
    """The file as a ``data:`` URL, byte for byte.

    Raises:
        PictureError: see :func:`media_type`.
    """
    kind = media_type(path)
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
