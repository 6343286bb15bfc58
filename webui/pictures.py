"""Pictures that people attach or name by URL: looked at by their header, sent as they are."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import IO

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
    """The media type of a file; see :func:`media_type_of`."""
    return media_type_of(path, path.name)


def media_type_of(
    source: Path | IO[bytes], name: str, formats: tuple[str, ...] | None = None
) -> str:
    """The media type by content, whatever the name says. Reads the header only.

    Args:
        name: of the picture, for the message.
        formats: names of the kinds whose header is looked at; by default all that Pillow knows, so
            that an unsupported kind can be named.

    Raises:
        PictureError: not a picture, of an unsupported kind, or too large to be decoded.
    """
    try:
        with Image.open(source, formats=formats) as image:
            kind, (width, height) = image.format or "unknown", image.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, ValueError):
        raise PictureError(f"{name} is not a picture that can be read.") from None
    if kind not in MEDIA_TYPES:
        known = ", ".join(sorted(MEDIA_TYPES))
        raise PictureError(f"{name} is a {kind} file; use one of {known}.")
    # The engine pads long thin pictures to a square before it shrinks them.
    long, short = max(width, height), max(1, min(width, height))
    pixels = long * long if short < 32 and long / short > 4 else width * height
    if pixels > MAX_PIXELS:
        raise PictureError(f"{name} is {width}x{height}, too large; shrink it first.")
    return MEDIA_TYPES[kind]


def data_url(path: Path) -> str:
    """The file as a ``data:`` URL, byte for byte.

    Raises:
        PictureError: see :func:`media_type`.
    """
    return as_data_url(media_type(path), path.read_bytes())


def as_data_url(kind: str, data: bytes) -> str:
    """A picture of this media type as a ``data:`` URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
