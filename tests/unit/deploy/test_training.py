"""The making of the demo checkpoint: pictures, talk, packed rows and the folder that vLLM loads."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from deploy.models.training.batches import IGNORED, Row, Talk, collate, cut, tokens_of
from deploy.models.training.checkpoint import write_checkpoint
from deploy.models.training.network import Sizes, StepVl, pixels
from deploy.models.training.scenes import (
    CODE_CHARACTERS,
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    random_scene,
    render,
)
from deploy.models.training.talk import EN, ZH, ask_scene, ask_two, describe
from deploy.models.training.train import learning_rate, loss_of
from deploy.models.training.vocabulary import build_tokenizer
from launcher.checkpoint import problems_of

TINY = {"hidden": 32, "intermediate": 48, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16}
VIEW = 112


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(5)
    sizes = Sizes(tokenizer.get_vocab_size(), vision_width=16, vision_heads=2, **TINY)
    return StepVl(sizes).eval()


@pytest.mark.parametrize("kind", ["single", "several", "code", "texture"])
def test_a_seed_names_a_picture(kind: str) -> None:
    """The same seed draws the same pixels; another one does not."""

    def draw(seed: int) -> bytes:
        rng = Random(seed)
        return render(random_scene(rng, kind), rng, (120, 90)).tobytes()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_is_drawn_in_its_colour_at_its_place(colour: str, shape: str) -> None:
    """The pixels at the place are nearest to the colour that the scene names."""
    scene = Scene((Thing(shape, colour, "left"), Thing("circle", colour, "right")))
    image = np.asarray(render(scene, Random(3), (400, 400)), np.float32)
    seen = image[192:209, 64:81].mean((0, 1))
    distances = {name: np.linalg.norm(seen - rgb) for name, rgb in COLOURS.items()}
    assert min(distances, key=distances.__getitem__) == colour


@pytest.mark.parametrize("language", [EN, ZH])
def test_answers_name_what_is_there(language: str) -> None:
    """Position, comparison and description follow the scene, in both languages."""
    scene = Scene((Thing("star", "red", "left"), Thing("cross", "blue", "top")))
    words = {
        EN: "A red star on the left and a blue cross at the top.",
        ZH: "左边是红色星形，上方是蓝色十字形。",
    }
    assert describe(scene, language) == words[language]
    asked = {ask_scene(Random(seed), scene, language).skill for seed in range(60)}
    assert asked == {"place", "where", "count", "describe"}


def test_two_pictures_keep_their_order() -> None:
    """The first picture is the first in question, thought and answer."""
    first, second = Scene((Thing("star", "red"),)), Scene((Thing("cross", "blue"),))
    asked = [ask_two(Random(seed), first, second, EN) for seed in range(60)]
    assert {e.thought for e in asked} == {"first: red star; second: blue cross"}
    which = {e.answer for e in asked if "blue cross" in e.question}
    assert which == {"The second picture."}


def test_codes_are_read_sign_by_sign(tokenizer) -> None:
    """Every digit and capital is a token of its own, wherever it stands."""
    text = f"It says {CODE_CHARACTERS}."
    tokens = tokenizer.encode(text).tokens
    assert [t for t in tokens if t in CODE_CHARACTERS] == list(CODE_CHARACTERS)


@pytest.mark.parametrize("text", ["红色圆形。", "naïve café 🙂\n\ttabs", "<think>x</think>"])
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    """Bytes carry what the words do not."""
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_token_counts_are_the_processors() -> None:
    """169 for the view of 728 pixels, 81 for a crop of 504."""
    assert (tokens_of(728), tokens_of(504)) == (169, 81)


@pytest.mark.parametrize(
    "size", [(1024, 768), (1280, 720), (1920, 1080), (900, 1400), (2480, 3508)]
)
def test_crops_are_the_processors(size: tuple[int, int]) -> None:
    """Number and line breaks of the windows are those of vLLM's own image processor."""
    from vllm.transformers_utils.processors.step3_vl import ImagePatcher

    scale = min(1.0, 3024 / max(size))
    shrunk = (int(size[0] * scale), int(size[1] * scale))
    crops, per_line = cut(torch.zeros(shrunk[1], shrunk[0], 3, dtype=torch.uint8))
    expected, breaks = ImagePatcher().get_num_patches(*size)
    assert (len(crops), -(-len(crops) // per_line) - 1) == (expected, breaks)
    assert {tuple(crop.shape) for crop in crops} == {(504, 504, 3)}


def test_pixels_are_the_processors() -> None:
    """Normalisation and resizing agree with vLLM's own image processor."""
    from vllm.transformers_utils.processors.step3_vl import Step3VisionProcessor

    rng = Random(1)
    image = render(random_scene(rng, "several"), rng, (300, 220))
    expected = Step3VisionProcessor(728, "bilinear", 504)(image)["pixel_values"][0]
    torch.testing.assert_close(pixels(torch.from_numpy(np.array(image)), 728), expected)


def split(row: Row, segment: int) -> Row:
    """The prefix with one question alone, as the engine would see it."""
    keep = [i for i, s in enumerate(row.segments) if s in {0, segment}]
    alone = Row(views=row.views, crops=row.crops, order=row.order)
    for name in ("tokens", "targets", "positions", "segments"):
        setattr(alone, name, [getattr(row, name)[i] for i in keep])
    return alone


def test_questions_in_one_row_do_not_see_each_other(model, tokenizer) -> None:
    """A packed question gets the same predictions as the question alone."""
    patch, padding = tokenizer.token_to_id("<im_patch>"), 0
    row = Talk(tokenizer, VIEW, 0.0).row(Random(11))
    assert max(row.segments) > 2

    def hidden(of: Row) -> torch.Tensor:
        batch = collate([of], padding, patch)
        pictures = model.see(batch.views).flatten(0, 1) if len(batch.views) else batch.views
        with torch.no_grad():
            return model(batch.tokens, pictures, batch.is_picture, batch.positions, batch.mask)[0]

    together = hidden(row)
    for segment in (1, 3):
        alone = split(row, segment)
        keep = [i for i, s in enumerate(row.segments) if s in {0, segment}]
        assert alone.positions == list(range(len(alone.tokens)))
        torch.testing.assert_close(together[keep], hidden(alone), rtol=1e-4, atol=1e-4)


def test_only_answers_and_thoughts_are_learned(tokenizer) -> None:
    """No word of a question is a target, and every row has some."""
    for seed in range(8):
        row = Talk(tokenizer, VIEW, 0.0).row(Random(seed))
        learned = [t for t in row.targets if t != IGNORED]
        assert learned
        assert tokenizer.token_to_id("<|im_start|>") not in learned
        assert tokenizer.token_to_id("<|im_end|>") in learned


def test_a_few_steps_lower_the_loss(tokenizer) -> None:
    """The loop learns: on one batch the loss falls by a third."""
    torch.manual_seed(7)
    sizes = Sizes(tokenizer.get_vocab_size(), vision_width=16, vision_heads=2, **TINY)
    fresh = StepVl(sizes)
    talk = Talk(tokenizer, VIEW, 0.3)
    rows = [talk.row(Random(seed)) for seed in range(3)]
    batch = collate(rows, 0, tokenizer.token_to_id("<im_patch>"))
    optimizer = torch.optim.AdamW(fresh.parameters(), 5e-3)
    losses = []
    for _ in range(15):
        loss, _ = loss_of(fresh, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 2 / 3


def test_learning_rate_rises_and_falls() -> None:
    """Warm-up from near nothing to the peak, then down to a twentieth."""
    rates = [learning_rate(step, 1000, 1.0) for step in (0, 199, 600, 1000)]
    assert rates[0] == pytest.approx(1 / 200)
    assert rates[1] == 1.0
    assert rates[1] > rates[2] > rates[3] == pytest.approx(0.05)


def test_checkpoint_is_whole(model, tokenizer, tmp_path: Path) -> None:
    """The folder passes the launcher's own check, and its configuration matches the weights."""
    write_checkpoint(model, tokenizer, tmp_path)
    assert problems_of(tmp_path) == []
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == tokenizer.get_vocab_size()
    assert config["image_token_id"] == tokenizer.token_to_id("<im_patch>")
