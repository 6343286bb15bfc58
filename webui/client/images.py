"""Pictures as the API wants them: upright, no larger than the model sees, without transparency."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from webui.pictures import (
    LONGEST_SIDE,
    TURNS,
    VIEW,
    PictureError,
    as_data_url,
    as_rgb,
    kind_of,
    orientation_of,
    reading,
)

__all__ = ["LONGEST_SIDE", "PictureError", "data_url", "image_part", "jpeg"]

Source = str | os.PathLike[str] | bytes | Image.Image


def jpeg(
    source: Source,
    *,
    longest_side: int = LONGEST_SIDE,
    quality: int = 95,
    allow_small: bool = False,
) -> bytes:
    """A picture as a JPEG file for the model.

    It is turned as its EXIF says, and shrunk (LANCZOS) where its longer side exceeds the cap. What
    is transparent becomes white. EXIF, and with it the place where a photo was taken, is left out.
    Smaller pictures are never enlarged.

    Args:
        source: a file's path, its bytes, or an image of Pillow's. Of moving pictures the first
            frame counts.
        longest_side: cap of the longer side, in pixels. The model sees 3024 at most, so the default
            loses nothing.
        quality: of the JPEG, 1 to 100.
        allow_small: take a cap under 728 pixels, below which the model looks at no details.

    Raises:
        PictureError: the file cannot be opened, or is no picture that can be read. The message
            names the file and the reason.
        ValueError: a number is out of its range.
    """
    if longest_side < (1 if allow_small else VIEW):
        raise ValueError(
            f"longest_side is {longest_side}: below {VIEW} pixels the model sees no details. "
            "Pass allow_small=True if that is what you want."
        )
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; it goes from 1 to 100.")
    flat = _upright(source, longest_side)
    flat.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    flat.info.clear()  # a comment would be written again
    stream = io.BytesIO()
    flat.save(stream, "JPEG", quality=quality, subsampling=0)  # small coloured letters stay sharp
    return stream.getvalue()


def data_url(
    source: Source,
    *,
    longest_side: int = LONGEST_SIDE,
    quality: int = 95,
    allow_small: bool = False,
) -> str:
    """A picture as a ``data:image/jpeg;base64,...`` URL; see :func:`jpeg`."""
    picture = jpeg(source, longest_side=longest_side, quality=quality, allow_small=allow_small)
    return as_data_url("image/jpeg", picture)


def image_part(
    source: Source,
    *,
    longest_side: int = LONGEST_SIDE,
    quality: int = 95,
    allow_small: bool = False,
) -> dict[str, Any]:
    """A picture as a part of a message's ``content``; see :func:`jpeg`.

    A text that begins with ``http://``, ``https://`` or ``data:`` is passed on as it is: the server
    fetches it and makes it ready by itself.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return {"type": "image_url", "image_url": {"url": source}}
    url = data_url(source, longest_side=longest_side, quality=quality, allow_small=allow_small)
    return {"type": "image_url", "image_url": {"url": url}}


def _upright(source: Source, longest_side: int) -> Image.Image:
    """As it is meant to be seen, 8 bits a channel; never the caller's own image."""
    if isinstance(source, Image.Image):
        return _turned(source, "The image")
    if isinstance(source, bytes):
        name, data = "The picture", source
    else:
        name, data = os.fspath(source), _content(Path(source))
    file = io.BytesIO(data)
    kind = kind_of(file, name)
    with reading(name), Image.open(file, formats=(kind,)) as image:
        image.draft("RGB", (longest_side, longest_side))  # a JPEG is decoded at a part of its size
        return _turned(image, name)


def _turned(image: Image.Image, name: str) -> Image.Image:
    turn = TURNS.get(orientation_of(image))
    with reading(name):
        flat = as_rgb(image)
        return flat if turn is None else flat.transpose(turn)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path} cannot be opened: {error.strerror}.") from None
