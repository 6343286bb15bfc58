"""Images that the engine has already: named, and sent with their bytes only where it lost them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from typing import Any

import openai
import psutil
import pytest
from deployments import Webui, answers
from integration.test_gateway import request
from integration.test_images import image, parts_seen, urls_seen
from PIL import Image
from support import wait_for


def fresh(noise: int = 8) -> str:
    """A picture that was never sent before, as a data URL; three bytes a pixel, of its side."""
    stream = io.BytesIO()
    Image.frombytes("RGB", (noise, noise), os.urandom(3 * noise * noise)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def ask(webui: Webui, *urls: str, **more: Any) -> int:
    """Status of a question about some pictures."""
    content = [*map(image, urls), {"type": "text", "text": "What is it?"}]
    body = {"model": "one", "messages": [{"role": "user", "content": content}], **more}
    answered = request(webui, "POST", "/v1/chat/completions", json.dumps(body).encode())
    return answered[0]


def test_the_second_time_a_name_will_do(webui: Webui) -> None:
    """Bytes and name first, then the name alone; a new picture beside it brings its bytes."""
    old, new = fresh(), fresh()
    assert ask(webui, old) == 200
    [first] = parts_seen(webui)
    assert first["image_url"] == {"url": old}
    assert ask(webui, old, new, old) == 200
    assert urls_seen(webui) == [None, new, None]
    names = [part["uuid"] for part in parts_seen(webui)]
    assert names[0] == names[2] == first["uuid"] != names[1]
    assert len(webui.engine.seen()) == 2


def test_what_the_engine_lost_is_sent_again_once(webui: Webui) -> None:
    """A miss costs one more request, and the client sees nothing of it."""
    urls = [fresh(), fresh()]
    assert ask(webui, *urls) == 200
    webui.engine.script(keeps_images=False)
    assert ask(webui, *urls) == 200
    assert len(webui.engine.seen()) == 2
    assert urls_seen(webui) == urls


def test_a_stream_too_is_sent_again(webui: Webui) -> None:
    """Before its first event."""
    url = fresh()
    assert ask(webui, url) == 200
    webui.engine.script(keeps_images=False)
    with openai.OpenAI(base_url=f"{webui.url}/v1", api_key="none", max_retries=0) as api:
        content: Any = [image(url), {"type": "text", "text": "What is it?"}]
        stream = api.chat.completions.create(
            model="one", messages=[{"role": "user", "content": content}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.startswith("1 messages, 1 images")
    assert urls_seen(webui) == [url]


@pytest.mark.fault(14, "no name of a client is passed on")
def test_names_cannot_be_guessed_or_given(webui: Webui) -> None:
    """They are no plain hash of the bytes, and a client's own name is not passed on."""
    url = fresh()
    assert ask(webui, url) == 200
    [part] = parts_seen(webui)
    stolen = {"type": "image_url", "image_url": None, "uuid": part["uuid"]}
    body = {"model": "one", "messages": [{"role": "user", "content": [stolen]}]}
    status, _, answer = request(webui, "POST", "/v1/chat/completions", json.dumps(body).encode())
    assert (status, answer["error"]["code"]) == (400, "media_url_refused")
    assert len(webui.engine.seen()) == 1


def test_refused_pictures_are_not_taken_for_known(webui: Webui) -> None:
    """What the engine answered with an error is sent whole the next time."""
    url = fresh()
    webui.engine.script(status=400)
    assert ask(webui, url) == 400
    webui.engine.script()
    assert ask(webui, url) == 200
    assert urls_seen(webui) == [url]


def test_bytes_are_let_go_while_the_answer_comes(webui: Webui) -> None:
    """Thirty open streams about a picture of nearly a megabyte each do not keep thirty of them."""
    wait_for(lambda: answers(f"{webui.url}/config"), 60, "the page is loaded")
    webui.engine.script(words=1000, delay_s=0.05)
    process = psutil.Process(webui.process.pid)

    async def run() -> int:
        async with openai.AsyncOpenAI(base_url=f"{webui.url}/v1", api_key="none") as api:

            async def begin() -> Any:
                part: Any = image(fresh(noise=500))
                stream = await api.chat.completions.create(
                    model="one", messages=[{"role": "user", "content": [part]}], stream=True
                )
                await anext(aiter(stream))
                return stream

            await begin()
            before = process.memory_info().rss
            streams = [await begin() for _ in range(30)]
            grown = process.memory_info().rss - before
            for stream in streams:
                await stream.close()
            return grown

    assert asyncio.run(run()) < 15_000_000
