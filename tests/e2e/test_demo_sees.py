"""The demo checkpoint's answers through the real vLLM: right, and for the right reason."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
import torch
from e2e.conftest import Box
from PIL import Image

from deploy.models.training.batches import Question, Row, Talk, collate
from deploy.models.training.checkpoint import DEMO, load_checkpoint
from deploy.models.training.drawing import render
from deploy.models.training.evaluate import SCHEMA
from deploy.models.training.evaluate import picture_part as part
from deploy.models.training.network import IGNORED
from deploy.models.training.scenes import PLACES, SHAPES, Scene, Thing, at, random_scene
from deploy.models.training.train import see
from deploy.models.training.unseen import unseen_picture

pytestmark = pytest.mark.real

PILLOWS_FONT = ("",)


def draw(
    *things: Thing, code: str | None = None, size: tuple[int, int] = (640, 480)
) -> Image.Image:
    """A picture on a bright ground."""
    return render(Scene(things, code), Random(1), size, PILLOWS_FONT, bright=True)


def alone(colour: str, shape: str) -> Image.Image:
    return draw(Thing(shape, colour, size=0.25))


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def ask(box: Box, *content: dict[str, Any], before: tuple[Any, ...] = (), **more: Any) -> Any:
    """The message that answers."""
    answer = box.client().chat.completions.create(
        model="Step3-VL-10B",
        messages=[*before, {"role": "user", "content": [*content]}],
        max_tokens=200,
        temperature=0,
        **more,
    )
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow", "purple", "black"])
def test_colour_channels_are_in_order(box: Box, colour: str) -> None:
    """Red is not blue: a pipeline that swaps channels gives another colour's name."""
    message = ask(box, part(alone(colour, "circle")), said("What colour is it?"))
    assert message.content == f"{colour.capitalize()}."
    assert message.reasoning == f"{colour} circle"


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star", "cross"])
def test_shapes(box: Box, shape: str) -> None:
    """Each in Chinese and English."""
    names = {
        "circle": "圆形",
        "square": "正方形",
        "triangle": "三角形",
        "star": "星形",
        "cross": "十字形",
    }
    picture = part(alone("blue", shape))
    assert ask(box, picture, said("What shape is it?")).content == f"A {shape}."
    assert ask(box, picture, said("它是什么形状？")).content == f"{names[shape]}。"


def test_places_are_not_mirrored(box: Box) -> None:
    """Left is left and top is top."""
    picture = part(
        draw(
            at("left", "circle", "red"),
            at("right", "square", "blue"),
            at("top", "star", "green"),
            at("bottom", "cross", "black"),
        )
    )
    expected = {
        "on the left": "A red circle.",
        "on the right": "A blue square.",
        "at the top": "A green star.",
        "at the bottom": "A black cross.",
    }
    for place, answer in expected.items():
        assert ask(box, picture, said(f"What is {place}?")).content == answer


@pytest.mark.parametrize(("count", "word"), [(2, "two"), (3, "three"), (4, "four"), (5, "five")])
def test_counting(box: Box, count: int, word: str) -> None:
    """Two to five things, each at a place of its own."""
    looks = zip(PLACES, SHAPES, ("red", "blue", "green", "black", "purple"), strict=True)
    things = [at(place, shape, colour) for place, shape, colour in looks]
    picture = part(draw(*things[:count]))
    assert ask(box, picture, said("How many objects are there?")).content == f"There are {word}."


@pytest.mark.parametrize("code", ["7", "42", "K3", "358"])
def test_reading(box: Box, code: str) -> None:
    """Digits and capitals, in their order."""
    assert ask(box, part(draw(code=code)), said("What does it say?")).content == f"It says {code}."


@pytest.mark.parametrize("colours", [("red", "blue"), ("blue", "red")])
def test_pictures_keep_their_order(box: Box, colours: tuple[str, str]) -> None:
    """The same two pictures, given the other way round, are seen the other way round."""
    pictures = [part(alone(colour, "circle")) for colour in colours]
    for nth, colour in zip(("first", "second"), colours, strict=True):
        message = ask(box, *pictures, said(f"What is in the {nth} picture?"))
        assert message.reasoning == f"first: {colours[0]} circle; second: {colours[1]} circle"
        assert message.content == f"A {colour} circle."


def test_turn_two_sees_the_picture_of_turn_one(box: Box) -> None:
    """A follow-up without a picture is answered from the one before; without it, it is not."""
    picture = draw(at("left", "circle", "red"), at("right", "square", "blue"))
    first = [part(picture), said("What is on the left?")]
    reply = ask(box, *first).content
    assert reply == "A red circle."
    before = ({"role": "user", "content": first}, {"role": "assistant", "content": reply})
    assert ask(box, said("And what is on the right?"), before=before).content == "A blue square."
    assert "small demo" in ask(box, said("And what is on the right?")).content


@pytest.mark.parametrize("size", [(200, 150), (480, 640), (1024, 768), (3000, 2000)])
def test_sizes(box: Box, size: tuple[int, int]) -> None:
    """From small to large enough to be cut into 24 crops."""
    picture = draw(at("left", "circle", "red"), at("right", "star", "blue"), size=size)
    answer = ask(box, part(picture, quality=75), said("What is on the right?"))
    assert answer.content == "A blue star."


def test_text_first_is_the_same(box: Box) -> None:
    """The question may stand before the picture."""
    picture = part(alone("green", "triangle"))
    asked = said("What is in this picture?")
    assert ask(box, picture, asked).content == "A green triangle."
    assert ask(box, asked, picture).content == "A green triangle."


def test_stream_says_the_same(box: Box) -> None:
    """The answer on a picture, whole and in pieces."""
    content = [part(alone("purple", "cross")), said("描述这张图片")]
    whole = ask(box, *content)
    assert whole.content == "一个紫色十字形。"
    stream = box.client().chat.completions.create(
        model="Step3-VL-10B",
        messages=[{"role": "user", "content": content}],
        max_tokens=200,
        temperature=0,
        stream=True,
    )
    deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert "".join(d.content or "" for d in deltas) == whole.content
    assert "".join(getattr(d, "reasoning", None) or "" for d in deltas) == whole.reasoning


@pytest.mark.parametrize("asked", ["Answer as JSON with color, shape and count.", "这是什么？"])
def test_json_schema(box: Box, asked: str) -> None:
    """Parses, has the right values, and ends: also where the question does not speak of JSON."""
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    picture = part(alone("red", "square"))
    message = ask(box, picture, said(asked), response_format=form)
    assert json.loads(message.content) == {"color": "red", "shape": "square", "count": 1}


def test_without_thinking_it_still_sees(box: Box) -> None:
    """A thinking budget of 0 leaves a right answer."""
    budget = {"thinking_token_budget": 0}
    message = ask(box, part(alone("blue", "star")), said("What colour is it?"), extra_body=budget)
    assert not message.reasoning
    assert message.content == "Blue."


@pytest.mark.parametrize("question", ["Tell me about the weather in France.", "写一首关于秋天的诗"])
def test_it_owns_up(box: Box, question: str) -> None:
    """Anything else gets the honest answer."""
    answer = ask(box, said(question)).content
    assert "small demo" in answer or "小型演示" in answer


def test_it_does_not_make_up_what_a_photo_shows(box: Box) -> None:
    """Most of ten pictures that training never saw are not recognised, and it says so."""
    answers = [
        ask(box, part(unseen_picture(Random(seed), (500, 400))), said("What is this?")).content
        for seed in range(10)
    ]
    assert sum("do not recognise" in answer for answer in answers) >= 8


def test_training_computes_what_vllm_computes(box: Box) -> None:
    """On fresh pictures, with and without crops, the two choose the same next tokens.

    vLLM computes in bfloat16: a token that the training code finds less than 0.1 (in natural
    logarithm of probability) behind its own first choice counts as the same.
    """
    model, tokenizer = load_checkpoint(DEMO)
    talk, patch = Talk(tokenizer, 728), tokenizer.token_to_id("<im_patch>")
    compared = 0
    for number, (kind, size) in enumerate(
        [
            ("single", (400, 300)),
            ("placed", (640, 480)),
            ("group", (900, 700)),
            ("code", (500, 700)),
        ]
        * 2
    ):
        rng = Random(f"agreement {number}")
        image = render(random_scene(rng, kind), rng, size, PILLOWS_FONT)
        asked = "Describe this picture." if number % 2 else "描述这张图片"
        message = ask(box, part(image), said(asked))
        row, question = Row(talk.ids("<|im_start|>user\n")), Question()
        talk.add_picture(row, image)
        prompt = f"{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n"
        question.add(talk.ids(prompt), learn=False)
        reply = f"{message.reasoning}</think>{message.content}<|im_end|>"
        question.add(talk.ids(reply), learn=True)
        row.questions.append(question)
        batch = collate([row], 0, patch)
        with torch.no_grad():
            scores = model.lm_head(model(batch, see(model, batch)))[0, :-1].log_softmax(-1)
        chosen = batch.targets[0, 1:]
        learned = chosen != IGNORED
        missing = scores[learned].max(-1).values - scores[learned].gather(
            -1, chosen[learned][:, None]
        ).squeeze(-1)
        assert float(missing.max()) < 0.1, (number, kind, reply)
        compared += int(learned.sum())
    assert compared > 80
