"""What users import: pictures made ready, and ready-made tasks."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from support import png

from webui.client import (
    NOT_FOUND,
    TASKS,
    Language,
    PictureError,
    Task,
    data_url,
    image_part,
    jpeg,
    task,
)
from webui.gateway.fields import FIELDS, check_fields

LANGUAGES: tuple[Language, ...] = ("en", "zh")


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def encoded(image: Image.Image, kind: str, **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def close(image: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    """Whether a pixel is of this colour, but for what JPEG makes of it."""
    return all(
        abs(a - b) < 12
        for a, b in zip(image.getpixel(place), colour, strict=True)  # type: ignore[arg-type]
    )


def test_importing_is_quick_and_needs_pillow_only() -> None:
    """A program that prepares pictures must not wait for a web framework or for torch."""
    code = (
        "import sys, time; begun = time.process_time(); import webui.client;"
        "print(time.process_time() - begun);"
        "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = done.stdout.splitlines()
    assert float(seconds) < 1
    foreign = {name for name in modules.split() if not name.startswith("_")}
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert foreign - {name.partition(".")[0] for name in before} <= {"PIL", "webui", "defusedxml"}


def test_a_picture_may_come_as_path_bytes_or_image(tmp_path: Path) -> None:
    """All give the same JPEG."""
    data = png(40, 30, "red")
    path = tmp_path / "red.png"
    path.write_bytes(data)
    made = {jpeg(source) for source in (path, str(path), data, opened(data))}
    [found] = made
    image = opened(found)
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 30))
    assert close(image, (20, 15), (254, 0, 0))


@pytest.mark.parametrize(
    ("size", "cap", "expected"),
    [
        ((4000, 2000), {}, (3024, 1512)),
        ((2000, 4000), {}, (1512, 3024)),
        ((3024, 100), {}, (3024, 100)),
        ((2000, 1000), {"longest_side": 1024}, (1024, 512)),
        ((2000, 1000), {"longest_side": 728}, (728, 364)),
        ((2000, 1000), {"longest_side": 500, "allow_small": True}, (500, 250)),
        ((300, 200), {"longest_side": 1024}, (300, 200)),
        ((4000, 1), {"longest_side": 1000}, (1000, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_longer_side_is_capped(size: Any, cap: Any, expected: Any, kind: str) -> None:
    """In proportion; smaller ones are never enlarged."""
    data = encoded(Image.new("RGB", size, "green"), kind)
    assert opened(jpeg(data, **cap)).size == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"longest_side": 727}, r"727: below 728 pixels .* allow_small=True"),
        ({"longest_side": 0, "allow_small": True}, "longest_side is 0"),
        ({"quality": 0}, "quality is 0"),
        ({"quality": 101}, "from 1 to 100"),
    ],
)
def test_numbers_out_of_range(wrong: Any, message: str) -> None:
    """A picture too small to be seen in detail is never made by mistake."""
    with pytest.raises(ValueError, match=message):
        jpeg(png(10, 10, "red"), **wrong)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_image", [False, True])
def test_photos_are_turned_upright(orientation: int, as_image: bool) -> None:
    """Red is at the top left of what is shown, and the tag that turns is gone."""
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste("red", (0, 0, 32, 16))
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "JPEG", exif=exif, quality=95)
    found = opened(jpeg(opened(data) if as_image else data))
    assert found.size == (64, 32)
    assert close(found, (8, 4), (254, 0, 0))
    assert close(found, (56, 4), (255, 255, 255))
    assert close(found, (8, 28), (255, 255, 255))
    assert not found.getexif()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    """Not black, which is what dropping the channel would make of it."""
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0)).convert(mode)
    more = {"transparency": image.getpixel((0, 0))} if mode == "P" else {}
    assert close(opened(jpeg(encoded(image, "PNG", **more))), (10, 10), (255, 255, 255))
    if mode != "P":
        assert close(opened(jpeg(image)), (10, 10), (255, 255, 255))


def test_quality_matters() -> None:
    """A lower one is smaller."""
    data = encoded(Image.effect_noise((200, 200), 80), "PNG")
    assert len(jpeg(data, quality=40)) < len(jpeg(data)) / 2


def test_nothing_of_the_photographers_is_kept() -> None:
    """Neither EXIF, with its place and time, nor a comment."""
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    data = encoded(Image.new("RGB", (9, 9)), "JPEG", exif=exif, comment=b"secret words")
    assert b"secret" in data
    assert b"secret" not in jpeg(data)


def test_the_callers_image_stays_as_it_is() -> None:
    """Neither its size nor its pixels change."""
    image = Image.new("RGB", (4000, 10), "red")
    jpeg(image)
    assert image.size == (4000, 10)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be opened: No such file or directory"),
        (b"", "is not a picture that can be read"),
        (b"hello", "is not a picture that can be read"),
        (b"%PDF-1.7", "is a PDF file; use one of AVIF, BMP"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC file"),
        (png(100, 100, "red")[:60], "is not a picture that can be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a picture that can be read"),
    ],
)
def test_errors_name_the_file_and_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """Whoever has a thousand files must know which one it is."""
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PictureError, match=r"photo\.jpg") as caught:
        data_url(path)
    assert reason in str(caught.value)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    """It says so."""
    with pytest.raises(PictureError, match="Is a directory"):
        jpeg(tmp_path)


def test_parts_of_a_message() -> None:
    """A file becomes a data: URL; an address is for the server to fetch."""
    part = image_part(png(5, 5, "red"))
    start, _, rest = part["image_url"]["url"].partition(",")
    assert (part["type"], start) == ("image_url", "data:image/jpeg;base64")
    assert opened(base64.b64decode(rest)).size == (5, 5)
    for url in ("https://example.com/a.jpg", "http://localhost/a", "data:image/png;base64,AA=="):
        assert image_part(url) == {"type": "image_url", "image_url": {"url": url}}


def test_tasks_of_the_article() -> None:
    """Every task has its name, and what is wanted of it is there."""
    assert {name: one.name for name, one in TASKS.items()} == {name: name for name in TASKS}
    wanted = "description analysis creative product invoice maths safety compare read chart steps"
    assert set(wanted.split()) <= TASKS.keys()
    assert [TASKS[name].temperature for name in ("description", "analysis", "creative")] == [
        0.7,
        0.3,
        0.9,
    ]
    assert len(TASKS["steps"].then) == 2


def test_an_unknown_task_is_the_description() -> None:
    """Whoever misspells a name gets an answer."""
    assert task("creative") is TASKS["creative"]
    assert task("nonsense") is TASKS["description"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("one", TASKS.values(), ids=lambda one: one.name)
def test_a_task_is_a_request_that_the_gateway_takes(one: Task, language: Language) -> None:
    """In both languages, with every blank filled and no field that is refused."""
    request = one.request([image_part(png(5, 5, "red"))], language=language, hint="a test")
    request["model"] = "Step3-VL-10B"
    assert request.keys() <= FIELDS["/chat/completions"].used
    assert not check_fields("/chat/completions", json.loads(json.dumps(request)))
    picture, words = request["messages"][0]["content"]
    assert picture["type"] == "image_url"
    assert "$" not in words["text"]
    assert words["text"].endswith("a test")
    assert any("\u4e00" <= sign <= "\u9fff" for sign in words["text"]) == (language == "zh")
    assert request["temperature"] == one.temperature <= 0.9
    assert 200 <= request["max_tokens"] == one.max_tokens <= 2048


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["invoice", "safety", "chart"])
def test_json_tasks_have_a_schema(name: str, language: Language) -> None:
    """It is valid, closed, and the Chinese prompt names its fields as the schema does."""
    one = TASKS[name]
    form = one.response_format
    assert form is not None
    schema = form["json_schema"]["schema"]
    Draft202012Validator.check_schema(schema)
    assert schema["required"] == [*schema["properties"]]
    assert not Draft202012Validator(schema).is_valid({})
    assert one.request([])["response_format"] == form
    if language == "zh":
        prompt = one.text("zh")
        assert [field for field in schema["properties"] if field not in prompt] == []
    assert "JSON" in one.text(language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_invoice_that_lacks_everything_fits(language: Language) -> None:
    """What is missing is said in words, and the prompt says which."""
    fields = ["number", "date", "seller", "buyer", "amount_with_tax", "tax_rate", "tax"]
    document: dict[str, Any] = dict.fromkeys(fields, NOT_FOUND[language]) | {"items": []}
    assert Draft202012Validator(TASKS["invoice"].schema).is_valid(document)
    assert NOT_FOUND[language] in TASKS["invoice"].text(language)


def test_a_safety_verdict_fits() -> None:
    """A harmless picture, and one that is not."""
    check = Draft202012Validator(TASKS["safety"].schema)
    verdict = {"is_safe": True, "risk_level": "none", "risk_categories": [], "reason": "A chair."}
    assert check.is_valid(verdict)
    assert check.is_valid(
        verdict | {"is_safe": False, "risk_level": "high", "risk_categories": ["violence"]}
    )
    assert not check.is_valid(verdict | {"risk_level": "enormous"})


def test_text_tasks_ask_for_no_format() -> None:
    """The field is not sent at all."""
    assert TASKS["read"].response_format is None
    assert "response_format" not in TASKS["read"].request([])


def test_blanks_are_filled() -> None:
    """With what is given, else with words that fit; signs in it are only signs."""
    assert "a pupil in grade 8" in TASKS["maths"].text()
    assert "小学三年级学生" in TASKS["maths"].text("zh", grade="小学三年级")
    assert "shows {x} for $5 (category: toys)" in TASKS["product"].text(
        product="{x} for $5", category="toys"
    )


def test_a_blank_that_there_is_not() -> None:
    """The message says which there are."""
    with pytest.raises(
        ValueError, match=r"task 'product' has no blank 'nmae'; .*category, product"
    ):
        TASKS["product"].text(nmae="shoe")
    with pytest.raises(ValueError, match="it has: none"):
        TASKS["read"].request([], grade="8")


def test_pictures_come_in_their_order() -> None:
    """Before the words, the first one first."""
    parts = [image_part(f"https://example.com/{number}.png") for number in (1, 2)]
    content = TASKS["compare"].request(parts)["messages"][0]["content"]
    assert content[:2] == parts
    assert content[2]["type"] == "text"
