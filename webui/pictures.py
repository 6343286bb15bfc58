"""Pictures: which kinds are taken, how large they may be, and what the engine gets of them.

A picture is admitted by its header, before anything is decoded, and by what the model's processor
would make of it: that pads, scales and cuts pictures into crops, so that a file of 200 bytes can
ask for gigabytes. The arithmetic is that of ``vllm/transformers_utils/processors/step3_vl.py``.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image

# The kinds that are taken, by Pillow's names.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}
# These go to the engine as they are. It tries readers in an order of its own, some of which look
# for their marks anywhere: a WEBP can be read as something else; AVIF is young.
PASSED_ON = {"JPEG", "PNG", "GIF", "BMP"}
LOSSLESS = {"PNG", "GIF", "BMP"}
MAX_PNG_BYTES = 4_000_000
# To name a kind that is not taken. Their readers are never run.
OTHER_KINDS = {
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"icns": "ICNS",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"<svg": "SVG",
    b"<?xml": "SVG or XML",
    b"%!PS": "EPS",
    b"<!DOCTYPE": "HTML",
    b"<html": "HTML",
}
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")

MAX_PIXELS = 50_000_000
MAX_CROPS = 36  # of a picture of 3024x3024, the largest that the processor makes
LONGEST_SIDE = 3024
VIEW, CROP = 728, 504
VIEW_TOKENS, CROP_TOKENS = 169 + 2, 81 + 2
# Grey of 16 bits, which Pillow reads from PNG only. The engine's conversion would make it white.
DEEP_MODES = {"I", "I;16", "I;16B"}
ORIENTATION = 0x0112
# From the EXIF tag to how the stored picture must be turned.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Comments before a GIF's first picture: Pillow joins them in quadratic time.
MAX_GIF_START = 65_536
DIMENSIONS = "image_dimensions"


class PictureError(Exception):
    """A picture that cannot be used; the message is for the person who sent it.

    ``code`` is for programs.
    """

    def __init__(self, message: str, code: str = "image_unreadable") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Cost:
    """What the processor makes of a picture: crops, and tokens of the prompt."""

    crops: int
    tokens: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself. ``width`` and ``height`` are pixels, as the picture is shown."""

    kind: str
    width: int
    height: int
    mode: str
    orientation: int = 1

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.kind]

    @property
    def fits(self) -> bool:
        """Whether the file can go to the engine as it is."""
        small = max(self.width, self.height) <= LONGEST_SIDE
        return small and self.kind in PASSED_ON and self.mode not in DEEP_MODES

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height that the engine gets."""
        return scaled(self.width, self.height)


def scaled(width: int, height: int) -> tuple[int, int]:
    """A size within the processor's cap, as it rounds it."""
    if max(width, height) <= LONGEST_SIDE:
        return width, height
    share = LONGEST_SIDE / max(width, height)
    return max(1, int(width * share)), max(1, int(height * share))


def padded(width: int, height: int) -> tuple[int, int]:
    """The size after the processor's padding: long thin pictures become squares first."""
    long, short = max(width, height), min(width, height)
    return (long, long) if short < 32 and long > 4 * short else (width, height)


def cost_of(width: int, height: int) -> Cost:
    """What a picture of this size costs. (Where no pixel is left of its short side, the processor
    divides by zero; here it counts as one, and the crops are far too many.)"""
    width, height = scaled(*padded(width, height))
    window = window_of(width, height)
    if not window:
        return Cost(0, VIEW_TOKENS)
    columns, rows = windows_along(width, window), windows_along(height, window)
    crops = columns * rows
    return Cost(crops, VIEW_TOKENS + crops * CROP_TOKENS + rows - 1)


def window_of(width: int, height: int) -> int:
    """The side of the windows that a picture of this size is cut into, in pixels; 0 for none."""
    long, short = max(width, height), min(width, height)
    if long < VIEW:
        return short if long / short > 1.5 else 0
    return min(short, CROP) if long / short > 4 else CROP


def windows_along(length: int, window: int) -> int:
    """How many windows stand along a side; a rest of a fifth or less is scaled away."""
    whole = length // window
    return max(1, whole + (length / window - whole > 0.2))


def read_header(source: Path | IO[bytes], name: str) -> Header:
    """Look at the beginning of a file, and admit it.

    Args:
        name: of the picture, for the message.

    Raises:
        PictureError: not a picture, of a kind that is not taken, or too large for the engine.
    """
    if isinstance(source, Path):
        with reading(name), source.open("rb") as file:
            return read_header(file, name)
    kind = kind_of(source, name)
    with reading(name), Image.open(source, formats=(kind,)) as image:
        (width, height), mode, orientation = image.size, image.mode, orientation_of(image)
    if orientation > 4:
        width, height = height, width
    header = Header(kind, width, height, mode, orientation)
    _admit(header, name)
    return header


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Pillow's readers, on bytes from anywhere, raise whatever their parsing runs into."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"{name} has too many pixels; shrink it first.", DIMENSIONS) from None
    except Exception:  # noqa: BLE001
        raise PictureError(f"{name} is not a picture that can be read.") from None


def _admit(header: Header, name: str) -> None:
    width, height = header.width, header.height
    wide, high = padded(width, height)
    if wide * high > MAX_PIXELS:
        raise PictureError(f"{name} is {width}x{height}, too large; shrink it first.", DIMENSIONS)
    if cost_of(width, height).crops > MAX_CROPS:
        raise PictureError(f"{name} is {width}x{height}, too long and thin; cut it.", DIMENSIONS)


def kind_of(file: IO[bytes], name: str) -> str:
    """The kind by the first bytes, whatever the name or the sender says."""
    start = file.read(64)
    if start.startswith(b"GIF8") and not _begins_soon(file):
        raise PictureError(f"{name} is not a picture that can be read.")
    file.seek(0)
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    found = {
        "JPEG": start.startswith(b"\xff\xd8\xff"),
        "PNG": start.startswith(b"\x89PNG\r\n\x1a\n"),
        "WEBP": start[:4] == b"RIFF" and start[8:12] == b"WEBP",
        "GIF": start.startswith((b"GIF87a", b"GIF89a")),
        "BMP": start.startswith(b"BM"),
        "AVIF": brand in {b"avif", b"avis"} or (brand == b"mif1" and b"avif" in start),
    }
    kind = next((kind for kind, yes in found.items() if yes), None)
    if kind is not None:
        return kind
    other = "HEIC" if brand in HEIC_BRANDS else None
    other = other or next((k for s, k in OTHER_KINDS.items() if start.lstrip().startswith(s)), None)
    if other is None:
        raise PictureError(f"{name} is not a picture that can be read.")
    known = ", ".join(sorted(MEDIA_TYPES))
    raise PictureError(f"{name} is a {other} file; use one of {known}.", "image_format")


def _begins_soon(file: IO[bytes]) -> bool:
    """Whether a GIF's first picture comes within :data:`MAX_GIF_START`."""
    file.seek(0)
    start = file.read(MAX_GIF_START)
    at = 13 + (3 << (start[10] & 7) + 1 if len(start) > 10 and start[10] & 0x80 else 0)
    while start[at : at + 1] == b"!":
        at += 2
        while (size := start[at] if at < len(start) else 0) > 0:
            at += 1 + size
        at += 1
    return start[at : at + 1] == b","


def orientation_of(image: Image.Image) -> int:
    """The EXIF tag, 1 to 8. Pillow's ``getexif`` would decode a PNG to find it."""
    raw = image.info.get("exif")
    if not isinstance(raw, bytes):
        return 1
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # of whatever kind: then it is shown as it is stored
        exif.load(raw)
        turn = exif.get(ORIENTATION)
        return turn if turn in TURNS else 1
    return 1


def normalised(data: bytes, header: Header, name: str) -> tuple[str, bytes]:
    """Media type and bytes of a picture that does not fit: upright, 8 bits, 3024 pixels at most.

    Decodes the picture, with up to 25 bytes a pixel; call it in a thread.

    Raises:
        PictureError: it is damaged.
    """
    stream = io.BytesIO()
    with reading(name):
        with Image.open(io.BytesIO(data), formats=(header.kind,)) as image:
            if header.orientation == 1:  # drafts are made in the stored orientation
                image.draft("RGB", header.shown)
            flat = as_rgb(image)
        if header.orientation in TURNS:
            flat = flat.transpose(TURNS[header.orientation])
        flat = flat.resize(header.shown, Image.Resampling.LANCZOS, reducing_gap=2.0)
        flat.info.clear()  # what it says is applied, or is of no use
        if header.kind in LOSSLESS:
            flat.save(stream, "PNG", compress_level=1)
            if stream.tell() <= MAX_PNG_BYTES:
                return MEDIA_TYPES["PNG"], stream.getvalue()
            stream = io.BytesIO()
        flat.save(stream, "JPEG", quality=95, subsampling=0)
    return MEDIA_TYPES["JPEG"], stream.getvalue()


def check(data: bytes, header: Header, name: str) -> None:
    """Decode a picture, all of it. As :func:`normalised`.

    Raises:
        PictureError: it is damaged.
    """
    with reading(name), Image.open(io.BytesIO(data), formats=(header.kind,)) as image:
        image.load()


def as_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel, what is transparent on white."""
    if image.mode in DEEP_MODES:
        return image.convert("F").point(lambda value: value * (1 / 257) + 0).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        ground.alpha_composite(layer)
        return ground.convert("RGB")
    return image.convert("RGB")


def media_type(path: Path) -> str:
    """The media type of a file, by its content.

    Raises:
        PictureError: see :func:`read_header`.
    """
    return read_header(path, path.name).media_type


def data_url(data: bytes, name: str) -> str:
    """A file's content as a ``data:`` URL that the engine can have.

    Raises:
        PictureError: see :func:`read_header`.
    """
    header = read_header(io.BytesIO(data), name)
    if header.fits:
        return as_data_url(header.media_type, data)
    return as_data_url(*normalised(data, header, name))


def as_data_url(kind: str, data: bytes) -> str:
    """A picture of this media type as a ``data:`` URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
