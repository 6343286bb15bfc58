"""Images in requests over a real socket: what the engine gets, and what it must never see."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import psutil
import pytest
from deployments import Webui
from integration.test_gateway import request
from PIL import Image
from support import png

RED = png(64, 48, "red")
RED_URL = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
TEXT = {"type": "text", "text": "What is it?"}


def post(webui: Webui, *parts: Any, **more: Any) -> tuple[int, Any]:
    """Status and body of a question about some parts."""
    message = {"role": "user", "content": [*parts, TEXT]}
    body = json.dumps({"model": "one", "messages": [message], **more}).encode()
    status, _, answer = request(webui, "POST", "/v1/chat/completions", body)
    return status, answer


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def parts_seen(webui: Webui) -> list[Any]:
    """What the engine got as images in its last request, in order."""
    content = webui.engine.seen()[-1]["body"]["messages"][0]["content"]
    return [part for part in content if part["type"] == "image_url"]


def urls_seen(webui: Webui) -> list[str | None]:
    """Their URLs; None where the engine got no more than a name."""
    return [part["image_url"] and part["image_url"]["url"] for part in parts_seen(webui)]


@pytest.fixture(autouse=True)
def _engine_forgets(webui: Webui) -> None:
    """So that every picture has to be sent with its bytes."""
    webui.engine.script(keeps_images=False)


def refused(webui: Webui, *parts: Any) -> tuple[str, str]:
    """Code and message of a 400 or 413 that never reached the engine."""
    status, answer = post(webui, *parts)
    assert status in {400, 413}, answer
    assert webui.engine.seen() == []
    assert len(json.dumps(answer)) < 4096
    return answer["error"]["code"], answer["error"]["message"]


def test_a_data_url_goes_on_byte_for_byte(webui: Webui) -> None:
    """Nothing is decoded and written again that need not be."""
    assert (
        post(webui, {"type": "image_url", "image_url": {"url": RED_URL, "detail": "high"}})[0]
        == 200
    )
    assert urls_seen(webui) == [RED_URL]


@pytest.mark.parametrize(
    "url",
    [
        base64.b64encode(RED).decode(),
        base64.encodebytes(RED).decode(),
        base64.urlsafe_b64encode(RED).decode().rstrip("="),
        RED_URL.replace("image/png", "image/jpeg"),
        RED_URL.replace("data:image/png", "DATA:image/png;charset=utf-8"),
        RED_URL.replace("data:image/png", "data:"),
        RED_URL.replace("data:image/png", " data:image/png; name=a.png"),
        RED_URL.replace("+", "%2B").replace("=", "%3D"),
    ],
)
def test_plain_base64_and_wrong_types_are_put_right(webui: Webui, url: str) -> None:
    """The engine gets the same picture, named as what it is."""
    assert post(webui, image(url))[0] == 200
    assert urls_seen(webui) == [RED_URL]


def test_other_ways_to_write_an_image(webui: Webui) -> None:
    """A plain string, no type, OpenAI's newer type; and never an id of the client's."""
    parts = [
        {"type": "image_url", "image_url": RED_URL},
        {"image_url": {"url": RED_URL}},
        {"type": "input_image", "image_url": RED_URL},
        {"type": "image_url", "image_url": {"url": RED_URL, "uuid": "a"}, "uuid": "b"},
    ]
    assert post(webui, *parts)[0] == 200
    assert urls_seen(webui) == [RED_URL] * 4
    assert not {part["uuid"] for part in parts_seen(webui)} & {"a", "b"}


def test_a_large_photo_is_shrunk_on_the_way(webui: Webui) -> None:
    """To 3024 pixels, beyond which the model sees nothing."""
    stream = io.BytesIO()
    Image.new("RGB", (4000, 3000), "blue").save(stream, "JPEG")
    assert post(webui, image(base64.b64encode(stream.getvalue()).decode()))[0] == 200
    [url] = urls_seen(webui)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as seen:
        assert seen.size == (3024, 2268)


@pytest.mark.fault(2, "400 that names the image")
@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://localhost/x.png",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:video/jpeg;base64,AAAA",
        "data:text/html;base64,PGh0bWw+",
        "x",
    ],
)
def test_what_is_neither_address_nor_data(webui: Webui, url: str) -> None:
    """The message says what may be given."""
    code, message = refused(webui, image(RED_URL), image(url))
    assert code == "media_url_refused"
    assert message.startswith("Image 2: ")


@pytest.mark.fault(6, "400 that names the format")
@pytest.mark.fault(14, "400; the engine is asked nothing")
@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"type": "image_url", "image_url": None, "uuid": "x"}, "media_url_refused"),
        ({"type": "image_url", "image_url": {"url": ""}}, "media_url_refused"),
        ({"type": "image_url"}, "media_url_refused"),
        ({"type": "image_embeds", "image_embeds": "AAAA"}, "unsupported_content"),
        ({"type": "video_url", "video_url": {"url": RED_URL}}, "unsupported_content"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, "unsupported_content"),
        ({"type": "text", "image_url": RED_URL}, "unsupported_content"),
        ({"type": "input_text", "text": "x", "image_url": RED_URL}, "unsupported_content"),
        ({"type": "thinking", "thinking": "x", "uuid": "u"}, "unsupported_content"),
        ({"type": "text", "text": "x", "video_url": RED_URL}, "unsupported_content"),
        ({"type": []}, "unsupported_content"),
        ({"type": {"a": 1}}, "unsupported_content"),
        (image("data:image/png;base64,!!!!"), "image_unreadable"),
        (image(base64.b64encode(b"no picture, only a longer text").decode()), "image_unreadable"),
        (image(base64.b64encode(b"II*\0" + bytes(40)).decode()), "image_format"),
        (image(base64.b64encode(png(16000, 2, "red")).decode()), "image_dimensions"),
    ],
)
def test_what_the_engine_must_not_see(webui: Webui, part: dict[str, Any], code: str) -> None:
    """Refused with a code, before anything is decoded."""
    assert refused(webui, part)[0] == code


@pytest.mark.fault(3, "400 by the header, in less than 20 MB")
@pytest.mark.parametrize("role", ["system", "assistant", "tool", "developer"])
def test_every_role_is_looked_at(webui: Webui, role: str) -> None:
    """A picture in somebody else's message is a picture too."""
    bomb = f"data:image/png;base64,{base64.b64encode(png(16000, 2, 'red')).decode()}"
    messages = [{"role": role, "content": [image(bomb)]}, {"role": "user", "content": "hi"}]
    body = json.dumps({"model": "one", "messages": messages}).encode()
    status, _, answer = request(webui, "POST", "/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "image_dimensions")
    assert webui.engine.seen() == []


def test_content_that_is_one_part(webui: Webui) -> None:
    """An object in place of a list."""
    body = json.dumps({"model": "one", "messages": [{"role": "user", "content": TEXT}]}).encode()
    status, _, answer = request(webui, "POST", "/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "unsupported_content")


@pytest.mark.fault(2, "400 that names the image")
def test_a_long_nonsense_url_takes_no_time(webui: Webui) -> None:
    """Nothing is searched for in it that could be found in a million ways."""
    began = time.monotonic()
    for url in ("data:" + "a" * 500_000, "data:" + "a;" * 200_000, "a" * 500_000 + ":"):
        assert refused(webui, image(url))[0] in {"media_url_refused", "image_unreadable"}
    assert time.monotonic() - began < 5


@pytest.mark.fault(9, "400 that says why; the engine is asked nothing")
def test_many_levels_are_an_answer(webui: Webui) -> None:
    """More than can be written again, less than cannot be read."""
    deep = b"[" * 900 + b"]" * 900
    body = b'{"model": "one", "store": true, "messages": [], "stop": ' + deep + b"}"
    status, _, answer = request(webui, "POST", "/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "invalid_json")


@pytest.mark.fault(3, "400 by the header, in less than 20 MB")
def test_a_bomb_costs_nothing(webui: Webui) -> None:
    """Pictures that would take gigabytes leave the WebUI's memory as it was."""
    bombs = [png(16000, 2, "red"), png(2, 20000, "red"), png(60000, 31, "red"), png(20, 90, "red")]
    process = psutil.Process(webui.process.pid)
    post(webui, image(RED_URL))
    webui.engine.script()
    before = process.memory_info().rss
    for bomb in bombs[:3] * 5:
        assert refused(webui, image(base64.b64encode(bomb).decode()))[0] == "image_dimensions"
    assert process.memory_info().rss - before < 20_000_000
    assert post(webui, image(base64.b64encode(bombs[3]).decode()))[0] == 200


@pytest.mark.fault(8, "400 for images")
def test_too_many_images(webui: Webui) -> None:
    """65 are one too many, however small."""
    assert refused(webui, *[image(RED_URL)] * 65)[0] == "too_many_images"
    assert post(webui, *[image(RED_URL)] * 64)[0] == 200


@pytest.mark.fault(8, "413 for bytes")
def test_one_image_has_a_limit_of_its_own(webui: Webui) -> None:
    """413, with the image's number; the limit here is 1 MB."""
    large = base64.b64encode(RED + bytes(1_100_000)).decode()
    code, message = refused(webui, image(RED_URL), image(large))
    assert (code, message) == ("image_too_large", "Image 2: larger than 1 MB; shrink it first.")


@pytest.mark.fault(9, "400 that says why; the engine is asked nothing")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"temperature": NaN}',
        b'{"temperature": 1e400}',
        b'{"n": ' + b"9" * 10_000 + b"}",
        b'{"model": "\\ud83d"}',
        b'{"model": "\xff"}',
        b'{"model": "one", "model": "two"}',
        b'{"messages": [' + b"{}," * 300_000 + b"{}]}",
    ],
)
def test_what_is_no_json(webui: Webui, body: bytes) -> None:
    """A short answer from us; the engine is not asked."""
    status, _, answer = request(webui, "POST", "/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "invalid_json")
    assert webui.engine.seen() == []


def test_inspect_tells_tokens_without_the_model(webui: Webui) -> None:
    """Size, crops and tokens of each picture, and of all; the engine is not asked."""
    large = base64.b64encode(png(1920, 1080, "blue")).decode()
    body = json.dumps({"images": [RED_URL, large]}).encode()
    status, _, answer = request(webui, "POST", "/api/v1/images/inspect", body)
    assert status == 200
    assert answer["tokens"] == 171 + 836
    assert answer["images"][1] == {
        "index": 2,
        "format": "PNG",
        "width": 1920,
        "height": 1080,
        "seen_width": 1920,
        "seen_height": 1080,
        "reencoded": False,
        "crops": 8,
        "tokens": 836,
    }
    assert webui.engine.seen() == []


@pytest.mark.parametrize("document", [{}, {"images": "x"}, {"images": [1]}, {"image": None}])
def test_inspect_says_what_it_wants(webui: Webui, document: Any) -> None:
    """Any other shape gets a sentence."""
    status, _, answer = request(
        webui, "POST", "/api/v1/images/inspect", json.dumps(document).encode()
    )
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
