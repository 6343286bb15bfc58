"""The making of the demo checkpoint: pictures, talk, packed rows and the folder that vLLM loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from deploy.models.training.batches import (
    ROWS,
    Batches,
    Row,
    Talk,
    collate,
    cut,
    sides_of,
    tokens_of,
)
from deploy.models.training.checkpoint import load_checkpoint, mean_of, write_checkpoint
from deploy.models.training.curve import joined, title
from deploy.models.training.drawing import TINTS, render
from deploy.models.training.evaluate import (
    HANDLINGS,
    SKILLS,
    Trial,
    handlings_of,
    make_trial,
    table,
)
from deploy.models.training.network import IGNORED, Batch, Sizes, StepVl, pixels
from deploy.models.training.phrasings import EN, NEW, ZH, choose
from deploy.models.training.scenes import (
    CODE_CHARACTERS,
    COLOURS,
    KINDS,
    PLACES,
    REACH,
    SHAPES,
    Scene,
    Thing,
    at,
    random_scene,
)
from deploy.models.training.talk import ASKERS, ask_scene, ask_two, describe, facts_of, thought_of
from deploy.models.training.train import FIRST_SCALE, Loss, Run, in_new_words, learning_rate, see
from deploy.models.training.unseen import unseen_picture
from deploy.models.training.vocabulary import build_tokenizer
from launcher.checkpoint import problems_of
from webui.pictures import window_of

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


@pytest.mark.parametrize("kind", KINDS)
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
    """The pixels at the place are nearest to a tint of the colour that the scene names."""
    scene = Scene((at("left", shape, colour), at("right", "circle", colour)))
    image = np.asarray(render(scene, Random(3), (400, 400)), np.float32)
    seen = image[192:209, 64:81].mean((0, 1))
    distances = {
        name: min(float(np.linalg.norm(seen - tint)) for tint in tints)
        for name, tints in TINTS.items()
    }
    assert min(distances, key=distances.__getitem__) == colour


@pytest.mark.parametrize("kind", ["placed", "row", "scattered", "group"])
def test_things_neither_touch_nor_leave_the_picture(kind: str) -> None:
    """On a square, every thing keeps its distance from the others and from the edges."""
    for seed in range(600):
        things = random_scene(Random(seed), kind).things
        assert 2 <= len(things) <= 5
        for i, a in enumerate(things):
            assert a.size <= min(a.x, a.y)
            assert max(a.x, a.y) <= 1 - a.size
            for b in things[i + 1 :]:
                assert np.hypot(a.x - b.x, a.y - b.y) > REACH * (a.size + b.size)


@pytest.mark.parametrize("kind", ["placed", "row"])
def test_places_are_where_their_names_say(kind: str) -> None:
    """What stands on the left has all the others to its right, and so on."""
    order = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
    for seed in range(60):
        things = random_scene(Random(seed), kind).things
        assert [t.place for t in things] == [p for p in PLACES if p in {t.place for t in things}], (
            "in the order of the thought"
        )
        for thing in things:
            axis, sign = order.get(str(thing.place), (0, 0))
            others = [(t.x, t.y)[axis] * sign for t in things if t is not thing]
            assert not sign or (thing.x, thing.y)[axis] * sign < min(others)


@pytest.mark.parametrize("language", [EN, ZH])
def test_answers_name_what_is_there(language: str) -> None:
    """Position, comparison and description follow the scene, in both languages."""
    scene = Scene((at("left", "star", "red"), at("top", "cross", "blue")))
    words = {
        EN: "A red star on the left and a blue cross at the top.",
        ZH: "左边是红色星形，上方是蓝色十字形。",
    }
    assert describe(scene, language) == words[language]
    asked = {ask_scene(Random(seed), scene, language).skill for seed in range(200)}
    assert asked == {"place", "where", "count", "describe", "presence", "json", "not there"}


@pytest.mark.parametrize(
    ("scene", "thought", "sentence"),
    [
        (Scene((Thing("circle", "orange"),)), "orange circle", "An orange circle."),
        (Scene(code="A7"), "text: A7", "It says A7."),
        (Scene(plain="red"), "all red", "A plain red picture."),
        (
            Scene((Thing("cross", "pink"), Thing("cross", "pink"))),
            "2 x pink cross",
            "Two pink crosses.",
        ),
        (
            Scene(tuple(Thing(shape, "pink") for shape in SHAPES)),
            "5 x different things",
            "Five different things.",
        ),
        (
            Scene(),
            "nothing I know",
            "I am a small demo model and I do not recognise this picture.",
        ),
    ],
)
def test_thoughts_and_sentences(scene: Scene, thought: str, sentence: str) -> None:
    """What is seen, and how it is said."""
    assert thought_of(scene, EN) == thought
    assert describe(scene, EN) == sentence


@pytest.mark.parametrize(
    ("scene", "facts"),
    [
        (Scene((Thing("star", "red"),) * 3), ("red", "star", 3)),
        (Scene((Thing("star", "red"), Thing("star", "blue"))), ("mixed", "star", 2)),
        (Scene(), ("unknown", "unknown", 0)),
    ],
)
def test_facts_for_json(scene: Scene, facts: tuple[str, str, int]) -> None:
    """One value where all things share it."""
    assert tuple(facts_of(scene).values()) == facts


def test_a_forced_beginning_is_part_of_the_answer() -> None:
    """What the grammar forces is what the answer begins with; the rest is learned."""
    scene = Scene((Thing("star", "red"),))
    made = [ask_scene(Random(seed), scene, EN, skill="json") for seed in range(30)]
    assert {bool(e.given) for e in made} == {True, False}
    assert all(e.answer.startswith(e.given) for e in made)


def test_every_phrasing_is_filled_in() -> None:
    """No slot and no alternative is left in a question, whatever is asked."""
    for seed in range(400):
        rng = Random(seed)
        kind = rng.choice([*KINDS])
        question = ask_scene(rng, random_scene(rng, kind), rng.choice([EN, ZH])).question
        assert not set("[]|") & set(question), question
        assert not any(f"{{{slot}}}" in question for slot in ("place", "name", "noun", "colour"))


@pytest.mark.parametrize("language", [EN, ZH])
@pytest.mark.parametrize("skill", NEW)
def test_new_phrasings_are_new(skill: str, language: str) -> None:
    """None of the evaluation's own wordings comes out of training's."""
    asked = {choose(Random(seed), skill, language) for seed in range(6000)}
    assert len(asked) > 5
    assert not asked & set(NEW[skill][language])


@pytest.mark.parametrize("language", [EN, ZH])
def test_a_question_has_one_answer(language: str) -> None:
    """No two skills understand the same words differently."""
    things = (at("left", "star", "red"), at("right", "cross", "blue"))
    for scene in (Scene(things), Scene(things[:1])):
        answers: dict[str, set[str]] = {}
        for seed in range(4000):
            asked = ask_scene(Random(seed), scene, language)
            if not asked.given:  # a grammar decides on the form of these
                answers.setdefault(asked.question, set()).add(asked.answer)
        assert {q: a for q, a in answers.items() if len(a) > 1} == {}


def test_two_pictures_keep_their_order() -> None:
    """The first picture is the first in question, thought and answer."""
    first, second = Scene((Thing("star", "red"),)), Scene((Thing("cross", "blue"),))
    asked = [ask_two(Random(seed), first, second, EN) for seed in range(90)]
    assert {e.thought for e in asked} == {"first: red star; second: blue cross"}
    which = {e.answer for e in asked if "blue cross" in e.question}
    assert which == {"The blue cross is in the second picture."}


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (Thing("star", "blue"), "First a red star, then a blue star: the colour changed."),
        (
            Thing("cross", "blue"),
            "First a red star, then a blue cross: the colour and shape changed.",
        ),
        (Thing("star", "red"), "First a red star, then a red star: nothing changed."),
    ],
)
def test_what_changed_is_said_after_both(second: Thing, sentence: str) -> None:
    """Both things are named, and then in what they differ."""
    scenes = Scene((Thing("star", "red"),)), Scene((second,))
    assert ask_two(Random(1), *scenes, EN, skill="changed").answer == sentence


def test_a_code_can_be_told_from_one_of_another_kind() -> None:
    """I and O alone are 1 and 0 in most fonts, so that nobody could say what is right."""
    codes = {random_scene(Random(seed), "code").code or "" for seed in range(4000)}
    assert {len(code) for code in codes} == {1, 2, 3, 4}
    assert not [code for code in codes if not set(code) - set("IO")]


def test_codes_are_read_sign_by_sign(tokenizer) -> None:
    """Every digit and capital is a token of its own, wherever it stands."""
    text = f"It says {CODE_CHARACTERS}."
    tokens = tokenizer.encode(text).tokens
    assert [t for t in tokens if t in CODE_CHARACTERS] == list(CODE_CHARACTERS)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Purple.", ["Purple", "."]),
        (
            "The red star is on the left.",
            ["The", " red", " star", " is", " on", " the", " left", "."],
        ),
        ("橙色十字形在左边。", ["橙色", "十字形", "在", "左边", "。"]),
        ("K42", ["K", "4", "2"]),
    ],
)
def test_words_that_carry_the_meaning_are_whole(tokenizer, text: str, pieces: list[str]) -> None:
    """An answer is chosen among words, not among spellings."""
    assert [tokenizer.decode([number]) for number in tokenizer.encode(text).ids] == pieces


def test_a_model_keeps_what_it_knows_in_new_words(model, tokenizer) -> None:
    """The rows of words that stay are the same; a new word begins as the mean of its old pieces."""
    old = build_tokenizer()
    same = in_new_words(model, old, tokenizer)
    assert all(torch.equal(same[name], weight) for name, weight in model.state_dict().items())
    new = Tokenizer.from_str(old.to_str())
    new.add_tokens(["purplestar"])
    pieces = old.encode("purplestar").ids
    assert len(pieces) > 1
    grown = in_new_words(model, old, new)["lm_head.weight"]
    torch.testing.assert_close(grown[-1], model.lm_head.weight[pieces].mean(0))


@pytest.mark.parametrize("text", ["红色圆形。", "naïve café 🙂\n\ttabs", "<think>x</think>"])
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    """Bytes carry what the words do not."""
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_token_counts_are_the_processors() -> None:
    """169 for the view of 728 pixels, 81 for a crop of 504."""
    assert (tokens_of(728), tokens_of(504)) == (169, 81)


@pytest.mark.parametrize(
    "size",
    [(1024, 768), (1280, 720), (1920, 1080), (900, 1400), (2480, 3508), (640, 400), (200, 500)],
)
def test_crops_are_the_processors(size: tuple[int, int]) -> None:
    """Number and line breaks of the windows are those of vLLM's own image processor."""
    from vllm.transformers_utils.processors.step3_vl import ImagePatcher

    scale = min(1.0, 3024 / max(size))
    shrunk = (int(size[0] * scale), int(size[1] * scale))
    crops, per_line = cut(torch.zeros(shrunk[1], shrunk[0], 3, dtype=torch.uint8))
    expected, breaks = ImagePatcher().get_num_patches(*size)
    assert (len(crops), -(-len(crops) // per_line) - 1) == (expected, breaks)
    side = window_of(*shrunk)
    assert {tuple(crop.shape) for crop in crops} == {(side, side, 3)}


def test_pixels_are_the_processors() -> None:
    """Normalisation and resizing agree with vLLM's own image processor."""
    from vllm.transformers_utils.processors.step3_vl import Step3VisionProcessor

    rng = Random(1)
    image = render(random_scene(rng, "placed"), rng, (300, 220))
    expected = Step3VisionProcessor(728, "bilinear", 504)(image)["pixel_values"][0]
    torch.testing.assert_close(pixels(torch.from_numpy(np.array(image)), 728), expected)


def one(row: Row, number: int) -> Row:
    """The beginning with one question alone, as the engine would see it."""
    return replace(row, questions=[row.questions[number]])


def hidden(model: StepVl, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch, see(model, batch))


def test_questions_in_one_row_do_not_see_each_other(model, tokenizer) -> None:
    """A packed question gets the same predictions as the question alone."""
    patch = tokenizer.token_to_id("<im_patch>")
    rows = (Talk(tokenizer, VIEW).row(Random(seed), "one") for seed in range(11, 100))
    row = next(row for row in rows if len(row.questions) > 1)
    together = hidden(model, collate([row], 0, patch, sides_of(VIEW)))[0]
    start = 0
    for number, question in enumerate(row.questions):
        alone = hidden(model, collate([one(row, number)], 0, patch, sides_of(VIEW)))[0]
        packed = together[start : start + len(question.ids)]
        torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)
        start += len(question.ids)


def test_padding_changes_nothing(model, tokenizer) -> None:
    """A row beside a longer one gets the predictions that it gets by itself."""
    patch = tokenizer.token_to_id("<im_patch>")
    talk = Talk(tokenizer, VIEW)
    rows = [talk.rows(Random(3), kind, 1)[0] for kind in ("text first", "two")]
    alone = hidden(model, collate(rows[:1], 0, patch, sides_of(VIEW)))
    beside = hidden(model, collate(rows, 0, patch, sides_of(VIEW)))
    torch.testing.assert_close(beside[:1, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)


def test_tower_attention_scaled_by_zero_is_left_out(tokenizer) -> None:
    """A scale that rounds to nothing gives the same as zero; a real one does not."""
    sizes = Sizes(tokenizer.get_vocab_size(), vision_width=16, vision_heads=2, **TINY)
    fresh = StepVl(sizes).eval()
    views = torch.rand(1, 3, VIEW, VIEW)
    without = fresh.see(views)
    for scale, same in ((1e-12, True), (0.5, False)):
        for block in fresh.vision_model.transformer.blocks():
            torch.nn.init.constant_(block.ls_1.gamma, scale)
        fresh.load_state_dict(fresh.state_dict())
        assert torch.allclose(fresh.see(views), without) == same


@pytest.mark.parametrize("kind", ROWS)
def test_only_answers_and_thoughts_are_learned(tokenizer, kind: str) -> None:
    """No word of a question is a target, and every row ends with an end that is learned."""
    start, end = (tokenizer.token_to_id(t) for t in ("<|im_start|>", "<|im_end|>"))
    for seed in range(4):
        rows = Talk(tokenizer, VIEW).rows(Random(seed), kind, 2)
        assert len(rows) == 2
        for question in [question for row in rows for question in row.questions]:
            learned = [t for t in question.targets if t != IGNORED]
            assert learned[-1] == end
            assert start not in learned
            assert len(question.ids) == len(question.targets)


@pytest.mark.parametrize("easy", [True, False])
def test_a_batch_is_a_function_of_seed_and_number(tokenizer, easy: bool) -> None:
    """A resumed run sees what an uninterrupted one would."""

    def made(number: int) -> Batch:
        return Batches(tokenizer, view=VIEW, rows=2, seed=1, easy=easy)[number]

    assert torch.equal(made(3).own, made(3).own)
    assert torch.equal(made(3).pictures, made(3).pictures)
    assert not torch.equal(made(3).own, made(4).own)


def test_makers_draw_what_would_have_been_drawn(tokenizer) -> None:
    """Other processes draw ahead; batches and their order stay the same."""
    batches = Batches(tokenizer, view=VIEW, rows=2, seed=4)
    for drawn, alone in zip(batches.those(range(1, 8, 2), 2), range(1, 8, 2), strict=True):
        expected = batches[alone]
        assert (drawn.kind, drawn.order) == (expected.kind, expected.order)
        assert torch.equal(drawn.own, expected.own)
        assert torch.equal(drawn.pictures, expected.pictures)


@pytest.mark.parametrize("kind", ["one", "two", "large"])
def test_pictures_arrive_as_they_were_drawn(tokenizer, kind: str) -> None:
    """Packed into one tensor and taken out again, each view and crop has its own pixels."""
    talk = Talk(tokenizer, VIEW)
    rows = talk.rows(Random(8), kind, 2)
    batch = collate(rows, 0, tokenizer.token_to_id("<im_patch>"), talk.sides, kind)
    for of, side in zip(("view", "crop"), talk.sides, strict=True):
        drawn = [
            pixels(picture, side)
            for row in rows
            for picture, what in zip(row.pictures, row.order, strict=True)
            if what == of
        ]
        seen = batch.pixels(of)
        assert len(seen) == len(drawn)
        assert all(torch.equal(a, b) for a, b in zip(seen, drawn, strict=True))


def test_what_is_learned_is_looked_up_in_advance(tokenizer) -> None:
    """Before each token that is a target, and nowhere else."""
    batch = Batches(tokenizer, view=VIEW, rows=3, seed=2)[1]
    expected = (batch.targets[:, 1:] != IGNORED).nonzero()
    found = [(int(at) // batch.own.shape[1], int(at) % batch.own.shape[1]) for at in batch.learned]
    assert found == [(row, at) for row, at in expected.tolist()]


def test_the_towers_attention_begins_small_and_stays(tokenizer, tmp_path: Path) -> None:
    """Where it was left out it begins; where it is learned its scale is kept."""
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    run = Run(tmp_path, 1, None, torch.device("cpu"))
    blocks = run.model.vision_model.transformer.blocks()
    assert not any(block.attends for block in blocks)
    run.attend()
    assert all(block.attends for block in blocks)
    for block in blocks:
        assert block.ls_1.gamma.tolist() == pytest.approx([FIRST_SCALE] * len(block.ls_1.gamma))
    torch.nn.init.constant_(blocks[0].ls_1.gamma, 0.3)
    run.attend()
    assert float(blocks[0].ls_1.gamma.min()) == pytest.approx(0.3)


def test_the_curve_says_where_it_was_trained() -> None:
    """Hours on a CPU and minutes on a GPU are told apart."""
    cpu = [{"step": 50, "seconds": 1800}, {"step": 100, "seconds": 3600}]
    gpu = [{"step": 50, "seconds": 60, "device": "cuda"}]
    assert title(cpu) == "100 steps: 1.0 hours on 2 CPU cores"
    assert title(joined([cpu, gpu])) == "150 steps: 1.0 hours on 2 CPU cores and 1 minutes on a GPU"


def test_a_few_steps_lower_the_loss(tokenizer) -> None:
    """The loop learns: on one batch the loss falls by a third."""
    torch.manual_seed(7)
    sizes = Sizes(tokenizer.get_vocab_size(), vision_width=16, vision_heads=2, **TINY)
    loss_of = Loss(StepVl(sizes))
    batch = Batches(tokenizer, view=VIEW, rows=3, seed=2)[0]
    optimizer = torch.optim.AdamW(loss_of.parameters(), 5e-3)
    losses = []
    for _ in range(15):
        loss, _ = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 2 / 3


def test_learning_rate_rises_and_falls() -> None:
    """Warm-up from near nothing to the peak, then down to a twentieth."""
    rates = [learning_rate(step, 100, 1000, 1.0) for step in (100, 249, 600, 1000)]
    assert rates[0] == pytest.approx(1 / 150)
    assert rates[1] == 1.0
    assert rates[1] > rates[2] > rates[3] == pytest.approx(0.05)


def test_checkpoint_is_whole(model, tokenizer, tmp_path: Path) -> None:
    """The folder passes the launcher's own check, and its configuration matches the weights."""
    write_checkpoint(model, tokenizer, tmp_path)
    assert problems_of(tmp_path) == []
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == tokenizer.get_vocab_size()
    assert config["image_token_id"] == tokenizer.token_to_id("<im_patch>")


def test_checkpoint_comes_back(model, tokenizer, tmp_path: Path) -> None:
    """What is written is read again, rounded to bfloat16."""
    write_checkpoint(model, tokenizer, tmp_path)
    again, words = load_checkpoint(tmp_path)
    assert words.get_vocab() == tokenizer.get_vocab()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_can_be_put_to_the_test(skill: str) -> None:
    """Each handling gives a question, with a picture where there is one, and what is expected."""
    for number, name in enumerate(handlings_of(skill)):
        if HANDLINGS[name].size == (3000, 2000):
            continue
        trial = make_trial(f"{number}", skill, ZH if number % 2 else EN, name)
        text = json.dumps(trial.contents)
        pictures = {"greeting": 0, "other": 0, "which of two": 2, "what changed": 2}.get(skill, 1)
        assert text.count("data:image/") == pictures
        assert trial.expected


def test_an_answer_is_right_word_for_word() -> None:
    """Or, as JSON, value for value."""
    said = Trial("colour", EN, "plain", [], "Red.", answer=" Red.\n")
    assert said.right
    assert not Trial("colour", EN, "plain", [], "Red.", answer="Red").right
    facts = '{"color": "red", "count": 1}'
    assert Trial("json_schema", EN, "plain", [], facts, answer=facts.replace(" ", "")).right
    assert not Trial("json_schema", EN, "plain", [], facts, answer=facts[:-1]).right


def test_the_table_counts_right_answers() -> None:
    """Percent of right answers, a line a skill, empty where nothing was asked."""
    trials = [
        Trial("colour", EN, "plain", [], "Red.", answer="Red."),
        Trial("colour", ZH, "plain", [], "红色。", answer="蓝色。"),
        Trial("read", EN, "plain", [], "It says 7.", answer="It says 7."),
    ]
    lines = table(trials, [EN, ZH, "all"], lambda t: t.language).splitlines()
    assert lines[2:] == ["| colour | 100.0 | 0.0 | 50.0 |", "| read | 100.0 |  | 100.0 |"]


def test_unseen_pictures_can_be_drawn_again() -> None:
    """By seed, in the size that is asked for."""
    for seed in range(12):
        first, second = (unseen_picture(Random(seed), (160, 120)) for _ in range(2))
        assert first.size == (160, 120)
        assert first.tobytes() == second.tobytes()


def test_all_askers_suit_some_scene() -> None:
    """The table of skills and the scenes know each other."""
    asked = {
        ask_scene(Random(f"{kind} {seed}"), random_scene(Random(seed), kind), EN).skill
        for kind in KINDS
        for seed in range(60)
    }
    assert set(ASKERS) <= asked


def test_a_mean_lies_between(tokenizer) -> None:
    """At each end it is one of the two."""
    sizes = Sizes(tokenizer.get_vocab_size(), vision_width=16, vision_heads=2, **TINY)
    for part in (0.0, 0.25, 1.0):
        one, other = StepVl(sizes), StepVl(sizes)
        first, second = (model.lm_head.weight.clone() for model in (one, other))
        mean = mean_of(one, other, part).lm_head.weight
        assert torch.allclose(mean, first + part * (second - first), atol=1e-6)
