"""What a picture is, costs and becomes, without an engine."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from support import png

from webui.pictures import (
    MAX_CROPS,
    Cost,
    Header,
    PictureError,
    cost_of,
    normalised,
    read_header,
)

SIDES = st.one_of(st.integers(1, 120), st.integers(1, 1500), st.integers(1, 9000))


def encoded(image: Image.Image, kind: str, **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def header(data: bytes) -> Header:
    return read_header(io.BytesIO(data), "It")


@settings(deadline=None)  # the first of them imports vLLM
@given(width=SIDES, height=SIDES)
@example(727, 727)
@example(728, 728)
@example(30, 96)
@example(640, 400)
@example(3024, 3024)
def test_costs_are_the_processors(width: int, height: int) -> None:
    """Crops and tokens are those of vLLM's own code, for any size that it can compute."""
    from vllm.transformers_utils.processors.step3_vl import ImagePatcher, Step3VLImageProcessor

    try:
        crops, _ = ImagePatcher().get_num_patches(width, height)
    except ZeroDivisionError:
        assert cost_of(width, height).crops > MAX_CROPS
        return
    tokens = Step3VLImageProcessor().get_num_image_tokens(width, height)
    assert cost_of(width, height) == Cost(crops, tokens)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((727, 727), 171), ((1024, 768), 504), ((1920, 1080), 836), ((2480, 3508), 2666)],
)
def test_usual_sizes(size: tuple[int, int], tokens: int) -> None:
    """The figures that the documentation gives."""
    assert cost_of(*size).tokens == tokens


def png_of(width: int, height: int) -> bytes:
    """A header that claims a size, with next to nothing behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    start = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (b"IHDR", start), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.fault(3, "400 by the header, in less than 20 MB")
@pytest.mark.fault(4, "400 by the header")
@pytest.mark.fault(5, "400 for those that the model cannot take")
@pytest.mark.parametrize(
    "size",
    [
        (16000, 2),
        (20000, 2),
        (60000, 31),
        (33, 100_000),
        (40, 100_000),
        (2000, 40),
        (20000, 20000),
        (2**31 - 1, 2**31 - 1),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_would_take_gigabytes_is_refused_by_its_header(
    size: tuple[int, int], turned: bool
) -> None:
    """Padding to a square, thousands of crops of one pixel, or simply too many pixels."""
    with pytest.raises(PictureError) as caught:
        header(png_of(*(size[::-1] if turned else size)))
    assert caught.value.code == "image_dimensions"


@pytest.mark.fault(5, "the others are taken")
@pytest.mark.parametrize("size", [(1, 1), (31, 120), (700, 32), (3024, 300), (7000, 7000)])
def test_unusual_sizes_that_the_processor_can_take(size: tuple[int, int]) -> None:
    """Small, narrow and large ones pass."""
    assert (header(png_of(*size)).width, header(png_of(*size)).height) == size


def test_crops_of_admitted_pictures_have_a_limit() -> None:
    """The largest is a square of the processor's cap."""
    assert cost_of(3024, 3024).crops == MAX_CROPS


@pytest.mark.fault(6, "known kinds are told by their first bytes")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_kinds_are_told_by_their_first_bytes(tmp_path: Path, kind: str) -> None:
    """Whatever the name says."""
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(Image.new("RGB", (64, 48), "red"), kind))
    found = read_header(path, path.name)
    assert (found.kind, found.width, found.height) == (kind, 64, 48)
    assert found.fits == (kind not in {"WEBP", "AVIF"}), "those are written anew"


@pytest.mark.fault(6, "400 that names the format")
@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"%PDF-1.7 ...", "PDF"),
        (b"8BPS\0\1", "PSD"),
        (b"icns\0\0", "ICNS"),
        (b"II*\0\x08\0", "TIFF"),
        (b"MM\0*\0\0", "TIFF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    ],
)
def test_other_kinds_are_named(data: bytes, word: str) -> None:
    """Their readers are never run."""
    with pytest.raises(PictureError, match=f"is a {word}.* file; use one of AVIF, BMP") as caught:
        header(data)
    assert caught.value.code == "image_format"


@pytest.mark.fault(7, "400 that says so, or a picture")
@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"],
)
def test_beginnings_alone_are_no_pictures(data: bytes) -> None:
    """A sentence, never a failure of ours."""
    with pytest.raises(PictureError, match="is not a picture that can be read"):
        header(data)


def test_a_turned_photo_is_measured_as_it_is_shown() -> None:
    """Telephones store landscape and note the turn beside it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (80, 40), "red"), "JPEG", exif=exif)
    assert (header(data).width, header(data).height) == (40, 80)


@pytest.mark.fault(7, "400 that says so, or a picture")
def test_damaged_exif_is_no_reason_to_refuse() -> None:
    """The picture is shown as it is stored."""
    data = encoded(Image.new("RGB", (80, 40), "red"), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert (header(data).width, header(data).height) == (80, 40)


def test_too_large_is_shrunk_to_what_the_model_can_see() -> None:
    """3024 pixels on the long side, upright, and nothing else changes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (4000, 1000), "white")
    image.paste("red", (0, 0, 2000, 1000))
    data = encoded(image, "JPEG", exif=exif)
    found = header(data)
    assert (found.fits, found.shown) == (False, (756, 3024))
    kind, smaller = normalised(data, found, "It")
    with Image.open(io.BytesIO(smaller)) as result:
        assert (kind, result.size) == ("image/jpeg", (756, 3024))
        assert result.getpixel((300, 300))[1] < 20, "what was on the left is now at the top"
        assert result.getpixel((300, 2800))[1] > 235


def test_grey_of_sixteen_bits_keeps_its_shades() -> None:
    """Cut to eight bits it would be white all over."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(40, 0)
    data = encoded(Image.fromarray(ramp), "PNG")
    assert not header(data).fits
    _, converted = normalised(data, header(data), "It")
    shades = np.asarray(Image.open(io.BytesIO(converted)))[20, :, 0]
    assert np.abs(shades.astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "L", "1"])
def test_every_mode_becomes_plain_colour_on_white(mode: str) -> None:
    """What is transparent is white, as on a page."""
    image = Image.new("RGBA", (3200, 400), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (1600, 0, 3200, 400))
    if mode == "P":
        image = image.quantize(4)
    elif mode != "RGBA":
        ground = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(ground, image).convert("RGB")
        image = image.convert("LA") if mode == "LA" else flat.convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = encoded(image, kind)
    _, result = normalised(data, header(data), "It")
    with Image.open(io.BytesIO(result)) as seen:
        assert seen.mode == "RGB"
        assert min(seen.getpixel((2900, 200))) > 245
        assert min(seen.getpixel((101, 200))) < 200


@pytest.mark.fault(7, "400 that says so, or a picture")
def test_a_damaged_picture_is_a_sentence() -> None:
    """Cut in half, with a whole header."""
    data = encoded(Image.effect_noise((3100, 200), 90), "PNG")
    with pytest.raises(PictureError, match="is not a picture that can be read"):
        normalised(data[: len(data) // 2], header(data), "It")


@pytest.mark.fault(7, "400 that says so, or a picture")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_no_damage_makes_us_fail(kind: str) -> None:
    """Fifty times some bytes changed near the beginning: a picture, or a sentence."""
    rng = np.random.default_rng(len(kind) + ord(kind[0]))
    whole = encoded(Image.linear_gradient("L").convert("RGB"), kind)
    refused = 0
    for _ in range(50):
        content = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, min(400, len(content)), rng.integers(1, 8))
        content[places] = rng.integers(0, 256, len(places))
        data = content.tobytes()
        try:
            normalised(data, header(data), "It")
        except PictureError:
            refused += 1
    assert 0 < refused < 50


@pytest.mark.fault(7, "400 that says so, or a picture")
def test_odd_exif_is_survived() -> None:
    """The tag for turning counts; what else is in there is not even read."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    data = bytearray(encoded(Image.new("RGB", (3100, 310), "red"), "JPEG", exif=exif))
    data[data.index(b"\x01\x0f\x00\x02") + 1] = 0
    found = header(bytes(data))
    kind, upright = normalised(bytes(data), found, "It")
    with Image.open(io.BytesIO(upright)) as image:
        assert (kind, image.size) == ("image/jpeg", (302, 3024))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn_is_the_one_that_pillow_makes(orientation: int) -> None:
    """All eight, on a picture whose corners differ."""
    image = Image.new("RGB", (3200, 1600), "white")
    image.paste("red", (0, 0, 800, 400))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "JPEG", exif=exif)
    _, ours = normalised(data, header(data), "It")
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    small = (32, 32)
    seen = [
        np.asarray(i.convert("RGB").resize(small), float)
        for i in (Image.open(io.BytesIO(ours)), theirs)
    ]
    assert np.abs(seen[0] - seen[1]).max() < 40


def test_a_small_file_does_not_become_a_large_one() -> None:
    """What would be a PNG of many megabytes goes on as JPEG."""
    rows = np.random.default_rng(1).integers(0, 2, (80, 3100)) * 255
    image = Image.fromarray(np.tile(rows, (39, 1))[:3100].astype(np.uint8)).convert("1")
    data = encoded(image, "PNG")
    kind, _ = normalised(data, header(data), "It")
    assert (len(data) < 100_000, kind) == (True, "image/jpeg")


def test_grey_with_a_transparent_shade() -> None:
    """Of 16 bits, with a note on which of them is clear."""
    data = encoded(Image.new("I;16", (60, 40), 65535), "PNG", transparency=7)
    assert normalised(data, header(data), "It")[0] == "image/png"


@pytest.mark.fault(6, "400 that names the format")
def test_a_gif_that_begins_with_a_book_is_refused() -> None:
    """Reading megabytes of comments takes minutes."""
    gif = encoded(Image.new("P", (20, 10)), "GIF")
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 4000 + b"\0"
    at = gif.index(b",")
    with pytest.raises(PictureError, match="is not a picture"):
        header(gif[:at] + comment + gif[at:])
    assert header(gif[:at] + b"!\xfe\x02hi\0" + gif[at:]).kind == "GIF"


def test_a_webp_that_others_would_read_differently_is_written_anew() -> None:
    """Some readers look for their marks anywhere in a file; only pixels go on."""
    data = encoded(Image.new("RGB", (64, 48), "red"), "WEBP")
    assert normalised(data, header(data), "It")[0] == "image/jpeg"


def test_a_png_of_one_colour_passes() -> None:
    """The simplest picture."""
    assert header(png(64, 48, "red")).media_type == "image/png"
