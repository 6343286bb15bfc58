"""The demo checkpoint's answers through the real vLLM: right, and for the right reason."""

from __future__ import annotations

import base64
import io
import json
from random import Random
from typing import Any

import numpy as np
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


def test_a_thing_is_found_again(box: Box) -> None:
    """Where something is, and whether it is there at all, in both languages."""
    picture = part(draw(at("left", "star", "red"), at("right", "star", "blue")))
    expected = {
        "Where is the red star?": "The red star is on the left.",
        "Where is the blue star?": "The blue star is on the right.",
        "蓝色星形在哪里？": "蓝色星形在右边。",
        "Is there a blue star?": "A blue star: yes.",
        "Is there a green cross?": "A green cross: no.",
    }
    for question, answer in expected.items():
        assert ask(box, picture, said(question)).content == answer


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


@pytest.mark.parametrize(
    ("looks", "nth"), [(("red", "blue"), "second"), (("blue", "red"), "first")]
)
def test_which_of_two_pictures(box: Box, looks: tuple[str, str], nth: str) -> None:
    """The picture that has it is named by its place in the request."""
    pictures = [part(alone(colour, "circle")) for colour in looks]
    answer = ask(box, *pictures, said("Which picture has the blue circle?")).content
    assert answer == f"The blue circle is in the {nth} picture."
    number = {"first": "一", "second": "二"}[nth]
    answer = ask(box, *pictures, said("哪张图里有蓝色圆形？")).content
    assert answer == f"蓝色圆形在第{number}张图片里。"


def test_pictures_sent_again_are_not_mixed_up(box: Box) -> None:
    """The second time they go to the engine by name: in any order, beside a new one."""
    red, blue, new = (part(alone(c, "circle")) for c in ("red", "blue", "green"))
    what = said("What is in the second picture?")
    for pair, colour in [((red, blue), "blue"), ((blue, red), "red"), ((red, new), "green")] * 2:
        assert ask(box, *pair, what).content == f"A {colour} circle."


def test_what_changed(box: Box) -> None:
    """From the first picture to the second, in this order."""
    pictures = [part(alone("red", "star")), part(alone("green", "star"))]
    answers = {
        "First a red star, then a green star: the colour changed.": pictures,
        "First a green star, then a red star: the colour changed.": pictures[::-1],
    }
    for answer, given in answers.items():
        assert ask(box, *given, said("What changed?")).content == answer


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


def plain(image: Image.Image, kind: str, **more: Any) -> dict[str, Any]:
    """A picture as base64 and nothing else."""
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    url = base64.b64encode(stream.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("size", [(480, 640), (2400, 3200)])
def test_a_photo_is_seen_upright(box: Box, size: tuple[int, int]) -> None:
    """A telephone stores it lying down, and notes the turn beside it; shrunk by us or not."""
    shown = draw(at("left", "circle", "red"), at("right", "star", "blue"), size=size)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = plain(shown.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=90)
    assert ask(box, photo, said("What is on the left?")).content == "A red circle."
    assert ask(box, photo, said("What is on the right?")).content == "A blue star."


def test_nothing_shows_through_what_is_transparent(box: Box) -> None:
    """The colour that lies below it is white, whatever the file holds there."""
    mask = alone("black", "circle").convert("L").point(lambda value: 255 * (value < 128))
    picture = Image.new("RGBA", mask.size, (0, 0, 0, 0))
    picture.paste("red", (0, 0), mask)
    assert ask(box, plain(picture, "PNG"), said("What is this?")).content == "A red circle."


def test_grey_of_sixteen_bits_keeps_its_shapes(box: Box) -> None:
    """A plain conversion would make it white all over."""
    grey = np.asarray(alone("black", "circle").convert("L"), np.uint16) * 257
    picture = plain(Image.fromarray(grey), "PNG")
    assert ask(box, picture, said("What is this?")).content == "A black circle."


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
        batch = collate([row], 0, patch, talk.sides)
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
