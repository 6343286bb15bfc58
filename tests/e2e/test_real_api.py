"""The OpenAI API on the real vLLM with the real StepVL architecture."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai
import pytest
from e2e.conftest import Box
from PIL import Image
from support import ROOT, png

from launcher.plan import cpu_kv_tokens
from launcher.planning import shape_in

pytestmark = pytest.mark.real

GREETING = "Hello! I am the STEP3-VL demo, a small model that sees simple pictures."
THOUGHT = "a greeting"
# One token, and no thought before it.
AT_ONCE: dict[str, Any] = {"max_tokens": 1, "extra_body": {"thinking": "off"}}


def picture(width: int, height: int, colour: str) -> dict[str, Any]:
    encoded = base64.b64encode(png(width, height, colour)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def ask(box: Box, content: Any, **more: Any) -> Any:
    messages = content if isinstance(content, list) and "role" in content[0] else None
    return box.client().chat.completions.create(
        model=more.pop("model", "Step3-VL-10B"),
        messages=messages or [{"role": "user", "content": content}],
        max_tokens=200,
        **more,
    )


def test_up_says_what_it_chose_and_where_it_is(box: Box) -> None:
    """The last lines of `up` are the model, that it is a demo, and the two URLs."""
    url = box.url.replace("127.0.0.1", "localhost")
    tail = box.output.splitlines()[-4:]
    assert tail[0].endswith(": Step3-VL-demo")
    assert "Demo checkpoint" in tail[1]
    assert tail[2:] == [f"  Page:       {url}", f"  OpenAI API: {url}/api/v1"]


def test_text(box: Box) -> None:
    """A text question: the model thinks, closes its thought, answers and stops by itself."""
    answer = ask(box, "Hello, introduce yourself.")
    choice = answer.choices[0]
    assert answer.model == "Step3-VL-demo"
    assert choice.finish_reason == "stop"
    assert choice.message.reasoning == THOUGHT
    assert choice.message.content == GREETING


@pytest.mark.parametrize("model", ["Step3-VL-10B", "Step3-VL-demo"])
def test_both_names_answer(box: Box, model: str) -> None:
    """The article's name is an alias of the demo's own."""
    assert ask(box, "hi", model=model).choices[0].message.content == GREETING


def test_the_kv_cache_is_as_large_as_was_computed(box: Box) -> None:
    """What the real engine reports is what `launch plan` would say, within 2 %."""
    log = (box.home / "run" / "logs" / "vllm.log").read_text(errors="replace")
    [reported] = re.findall(r"KV cache size: ([0-9,]+) tokens", log)
    computed = cpu_kv_tokens(shape_in(ROOT / "deploy" / "models" / "step3-vl-demo"), 1)
    assert int(reported.replace(",", "")) == pytest.approx(computed, rel=0.02)


def test_models_say_that_it_is_a_demo(box: Box) -> None:
    """Nobody can take the checkpoint for the 10 B model."""
    models = box.client("/v1").models.list().data
    names = [m.id for m in models if not m.id.endswith((":fast", ":deep"))]
    assert names == ["Step3-VL-demo", "Step3-VL-10B"]
    assert all("Demo checkpoint" in m.description for m in models)


def test_one_picture_costs_what_the_processor_makes_of_it(box: Box) -> None:
    """A picture below 728 px is one view of 169 tokens and two marks."""
    asked = words("What is in this picture?")
    text = ask(box, [asked]).usage.prompt_tokens
    both = ask(box, [picture(640, 480, "red"), asked])
    assert both.usage.prompt_tokens - text == 171
    assert both.choices[0].message.content == "A plain red picture."


def test_two_pictures_in_one_message(box: Box) -> None:
    """A small one and one that is cut into crops: 171, and 836 tokens for 1920x1080."""
    text = ask(box, [words("Compare.")]).usage.prompt_tokens
    pictures = [picture(640, 480, "red"), words("Compare."), picture(1920, 1080, "blue")]
    answer = ask(box, pictures)
    assert answer.usage.prompt_tokens - text == 171 + 836
    assert answer.choices[0].finish_reason == "stop"


def test_second_turn_still_holds_the_picture(box: Box) -> None:
    """A picture of turn one is part of turn two's prompt."""
    first = [picture(640, 480, "green"), words("What is it?")]
    reply = ask(box, first).choices[0].message.content
    talk = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": reply},
        {"role": "user", "content": "And its colour?"},
    ]
    without = [{"role": "user", "content": [words("What is it?")]}, *talk[1:]]
    seen, unseen = (ask(box, messages).usage.prompt_tokens for messages in (talk, without))
    assert seen - unseen == 171


def test_stream_is_the_same_answer_in_pieces(box: Box) -> None:
    """Thought first, then the answer, then the reason for the end."""
    whole = ask(box, "hi", temperature=0).choices[0].message
    chunks = list(ask(box, "hi", temperature=0, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    answer = [delta.content for delta in deltas if delta.content]
    thought = [delta.reasoning for delta in deltas if getattr(delta, "reasoning", None)]
    assert ("".join(answer), "".join(thought)) == (whole.content, whole.reasoning)
    assert len(answer) > 10
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "more",
    [
        {"extra_body": {"thinking_token_budget": 0}},
        {"extra_body": {"thinking": "off"}},
        {"reasoning_effort": "none"},
        {"model": "Step3-VL-10B:fast"},
    ],
)
def test_without_thinking(box: Box, more: dict[str, Any]) -> None:
    """Each way to switch it off gives the answer at once."""
    message = ask(box, "Who are you?", **more).choices[0].message
    assert not message.reasoning
    assert message.content == GREETING


@pytest.mark.parametrize("stream", [False, True])
def test_a_small_limit_is_all_for_the_answer(box: Box, stream: bool) -> None:
    """Two tokens of answer after a thought of any length, and no more."""
    whole = ask(box, "hi", temperature=0).choices[0].message.content
    messages: Any = [{"role": "user", "content": "hi"}]
    asked: dict[str, Any] = {"model": "Step3-VL-10B", "messages": messages, "temperature": 0}
    if stream:
        chunks = list(box.client().chat.completions.create(**asked, max_tokens=2, stream=True))
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
        assert any(getattr(c.choices[0].delta, "reasoning_content", "") for c in chunks)
    else:
        choice = box.client().chat.completions.create(**asked, max_tokens=2).choices[0]
        content, reason = choice.message.content, choice.finish_reason
        assert choice.message.reasoning_content == THOUGHT
    assert reason == "length"
    assert whole.startswith(content)
    assert 0 < len(content) < len("Hello! I am the")


def test_completions(box: Box) -> None:
    """The older text route works too."""
    prompt = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n<think>\n</think>"
    completion = box.client().completions.create(
        model="Step3-VL-10B", prompt=prompt, max_tokens=200
    )
    assert completion.choices[0].text == GREETING


def test_the_articles_smallest_program(box: Box) -> None:
    """A picture, "what is in this picture", max_tokens 200, by plain HTTP: 200 and text."""
    document = {
        "model": "Step3-VL-10B",
        "messages": [
            {"role": "user", "content": [picture(800, 600, "blue"), words("图片里有什么?")]}
        ],
        "max_tokens": 200,
    }
    request = urllib.request.Request(
        f"{box.url}/api/v1/chat/completions",
        json.dumps(document).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 200
        content = json.load(response)["choices"][0]["message"]["content"]
    assert content == "一张纯蓝色的图片。"


@contextlib.contextmanager
def web_server(body: bytes) -> Iterator[tuple[int, list[str]]]:
    """Its port, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def link(host: str, port: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"http://{host}:{port}/picture.png"}}


def test_a_url_is_answered_like_its_data(box: Box) -> None:
    """The same picture by address: the same answer, for the same number of tokens."""
    asked = words("What colour is it?")
    with web_server(png(320, 240, "blue")) as (port, paths):
        by_url = ask(box, [link("localhost", port), asked], temperature=0)
    by_data = ask(box, [picture(320, 240, "blue"), asked], temperature=0)
    assert by_url.choices[0].message.content == by_data.choices[0].message.content == "Blue."
    assert by_url.usage == by_data.usage
    assert paths == ["/picture.png"]


@pytest.mark.fault(1, "nothing private is dialled, by us or by the engine")
def test_the_engine_fetches_nothing(box: Box) -> None:
    """An image URL that goes straight to the engine is refused instead of being fetched."""
    engine = openai.OpenAI(base_url=f"{box.engine_url}/v1", api_key="none", max_retries=0)
    with web_server(png(64, 64, "red")) as (port, paths):
        message: Any = {"role": "user", "content": [link("localhost", port)]}
        with pytest.raises(openai.BadRequestError):
            engine.chat.completions.create(model="Step3-VL-10B", messages=[message])
    assert paths == []


def test_ready_and_alive(box: Box) -> None:
    """Both health routes say yes."""
    for path in ("/livez", "/readyz"):
        with urllib.request.urlopen(f"{box.url}{path}", timeout=5) as response:
            assert response.status == 200


@pytest.mark.fault(26, "only the page listens in public; sockets and files are private")
def test_no_secret_or_setting_shows_in_the_inis_of_supervisord(box: Box) -> None:
    """The rendered file holds fixed commands; the YAML's values are not in it."""
    text = (box.home / "etc" / "supervisord.conf").read_text()
    assert "Step3-VL" not in text
    assert "max-model-len" not in text
    assert "inet_http_server" not in text.replace("no inet_http_server", "")


@pytest.mark.parametrize("size", [(640, 480), (640, 400), (1024, 768), (2480, 3508), (1, 1)])
def test_inspect_says_what_the_engine_counts(box: Box, size: tuple[int, int]) -> None:
    """The tokens of a picture are those by which the engine's prompt grows."""
    part, asked = picture(*size, "red"), words("What is it?")
    url = part["image_url"]["url"]
    client = box.client()
    seen = client.post("/images/inspect", body={"image": url}, cast_to=dict[str, Any])
    text = ask(box, [asked]).usage.prompt_tokens
    assert ask(box, [part, asked]).usage.prompt_tokens - text == seen["tokens"]


@pytest.mark.fault(7, "400 with a constant message")
def test_a_damaged_picture_is_named_and_the_engine_lives(box: Box) -> None:
    """A whole header with half a body: which of the two it is, the engine does not say."""
    stream = io.BytesIO()
    Image.effect_noise((640, 480), 90).save(stream, "PNG")
    broken = base64.b64encode(stream.getvalue()[:40_000]).decode()
    parts = [picture(40, 30, "red"), {"type": "image_url", "image_url": {"url": broken}}]
    with pytest.raises(openai.BadRequestError, match="Image 2 is not a picture that can be read"):
        ask(box, [*parts, words("What is it?")])
    assert ask(box, "hi").choices[0].message.content == GREETING


@pytest.mark.fault(7, "300 damaged pictures: 400, or an answer; the engine lives")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_no_damaged_picture_harms_the_engine(box: Box, kind: str) -> None:
    """A hundred of a kind, with bytes changed where decoders are led; some can still be read."""
    rng = random.Random(kind)
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(stream, kind)
    seen = Counter[int]()
    for _ in range(100):
        data = bytearray(stream.getvalue())
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(400, len(data)))] = rng.randrange(256)
        url = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
        part = {"type": "image_url", "image_url": {"url": url}}
        seen[status_of(box, [part], **AT_ONCE)] += 1
    assert seen[400] > 0
    assert set(seen) <= {200, 400}, seen
    assert ask(box, "hi").choices[0].message.content == GREETING


def status_of(box: Box, content: Any, **more: Any) -> int:
    messages: Any = [{"role": "user", "content": content}]
    try:
        box.client().chat.completions.create(model="Step3-VL-10B", messages=messages, **more)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


@pytest.mark.fault(15, "400, or an answer within six seconds; others are answered meanwhile")
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a+)+" * 1000 + "$"},
        {"type": "string", "pattern": "(" * 500 + "a+" + ")+" * 500 + "$"},
        {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
        {"type": "array", "minItems": 100_000, "items": {"type": "string", "minLength": 100_000}},
        {"enum": [f"{number:x}" for number in range(2_000)]},
        {"type": "object", "properties": {f"p{n}": {"type": "number"} for n in range(400)}},
    ],
    ids=["repeated", "nested", "counted", "long", "many", "wide"],
)
def test_a_costly_grammar_holds_nobody_up(box: Box, schema: dict[str, Any]) -> None:
    """What the size limit lets pass, the engine compiles in time."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        asked = pool.submit(status_of, box, "hello", response_format=form, **AT_ONCE)
        while not asked.done():
            at = time.monotonic()
            with urllib.request.urlopen(f"{box.url}/readyz", timeout=5) as response:
                assert response.status == 200
            assert time.monotonic() - at < 1
            assert time.monotonic() - began < 6, "still not answered"
            wait([asked], 0.1)
    assert asked.result() in {200, 400, 502}


@pytest.mark.fault(10, "what is at the limit is answered")
@pytest.mark.fault(11, "what is at the limit is answered")
def test_the_largest_that_may_be_asked_for(box: Box) -> None:
    """Four answers with twenty probabilities a token."""
    answer = ask(box, "hello", n=4, temperature=1, logprobs=True, top_logprobs=20)
    assert len(answer.choices) == 4
    for choice in answer.choices:
        assert len(choice.logprobs.content[0].top_logprobs) == 20


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_has_the_probabilities_of_its_text(box: Box, stream: bool) -> None:
    """Of no token of the thought, and not of the end."""
    asked: Any = {"model": "Step3-VL-10B", "input": "hello", "max_output_tokens": 200}
    asked["include"] = ["message.output_text.logprobs"]
    if stream:
        with box.client().responses.stream(**asked) as events:
            response: Any = events.get_final_response()
    else:
        response = box.client().responses.create(**asked)
    tokens = [score.token for score in response.output[-1].content[0].logprobs]
    assert "".join(tokens) == response.output_text == GREETING
