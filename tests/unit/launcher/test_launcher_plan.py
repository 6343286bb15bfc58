"""launcher.plan: what fits, by exact sums and by properties that must always hold."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

from launcher.cards import CARD_SIZES, CARDS, Card, card_named, card_of_size
from launcher.errors import ConfigError
from launcher.plan import (
    CONTEXTS,
    GIB,
    STEP3_VL_10B,
    DoesNotFitError,
    Plan,
    Shape,
    Wishes,
    cpu_kv_tokens,
    plan,
)

DEMO = ROOT / "deploy" / "models" / "step3-vl-demo"

sizes = st.floats(1, 300)
capabilities = st.sampled_from([7.5, 8.0, 8.6, 8.9, 9.0])


def config_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return document


def cards_of(gib: float, count: int = 1, capability: float = 8.9) -> list[Card]:
    return [Card("a card", gib, capability)] * count


def fits(cards: list[Card], wishes: Wishes | None = None) -> Plan | None:
    try:
        return plan(STEP3_VL_10B, cards, wishes)
    except DoesNotFitError:
        return None


def test_parameters_are_those_in_the_files() -> None:
    """Every tensor of the demo checkpoint is counted, and nothing else."""
    with (DEMO / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    assert Shape.from_config(config_of(DEMO)).parameters == sum(map(prod, shapes))


def test_the_large_model_is_as_large_as_it_is_known_to_be() -> None:
    """10.17 B parameters, 18.95 GiB, 144 KiB of KV cache a token."""
    assert round(STEP3_VL_10B.parameters / 1e9, 2) == 10.17
    assert round(STEP3_VL_10B.weight_bytes("bf16") / GIB, 2) == 18.95
    assert STEP3_VL_10B.kv_bytes("auto") == 144 * 1024
    assert STEP3_VL_10B.kv_bytes("fp8") == 72 * 1024
    assert [STEP3_VL_10B.kv_bytes("auto", ranks) for ranks in (2, 8, 16)] == [73728, 18432, 18432]


def test_a_tied_model_has_its_words_once() -> None:
    tied = replace(STEP3_VL_10B, tied=True)
    assert STEP3_VL_10B.parameters - tied.parameters == 151_936 * 4096


def test_kv_cache_in_main_memory() -> None:
    """Of whole blocks; the real engine's figure is compared in tests/e2e."""
    assert cpu_kv_tokens(Shape.from_config(config_of(DEMO)), 1) == 1_048_576
    assert cpu_kv_tokens(STEP3_VL_10B, 1) == 7168  # 7281 tokens are 56 blocks and a rest


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, st.integers(1, 8), capabilities)
def test_more_memory_never_plans_less_context(
    one: float, other: float, count: int, capability: float
) -> None:
    less, more = (fits(cards_of(gib, count, capability)) for gib in sorted((one, other)))
    if less is not None:
        assert more is not None
        assert more.max_model_len >= less.max_model_len


@pytest.mark.parametrize("capability", [7.5, 8.0, 8.9])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_context_never_falls_from_card_to_card(count: int, capability: float) -> None:
    """Step by step through all sizes: where bf16 just fits, FP8 would have had more."""
    plans = [fits(cards_of(2 + step / 4, count, capability)) for step in range(800)]
    contexts = [found.max_model_len if found else 0 for found in plans]
    assert contexts == sorted(contexts)
    assert len(set(contexts)) > 2


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(Card, st.just("a"), sizes, capabilities), min_size=1, max_size=8))
def test_a_plan_never_exceeds_the_memory(cards: list[Card]) -> None:
    """Of any card that it uses; and the context is in the cache, as vLLM wants it."""
    found = fits(cards)
    if found is None:
        return
    used = cards[: found.tensor_parallel_size * found.data_parallel_size]
    assert len(used) == found.tensor_parallel_size * found.data_parallel_size
    total = sum(line.size for line in found.lines)
    assert total == found.card_bytes <= min(card.gib for card in used) * GIB
    assert all(line.size >= 0 for line in found.lines)
    kv = {line.what: line.size for line in found.lines}["KV cache"]
    a_token = STEP3_VL_10B.kv_bytes(found.kv_cache_dtype, found.tensor_parallel_size)
    assert found.kv_tokens * a_token <= kv
    assert found.max_model_len <= found.kv_tokens
    assert 1 <= found.max_num_seqs <= 256
    assert 1 <= found.pictures <= 64
    assert STEP3_VL_10B.heads % found.tensor_parallel_size == 0


@settings(max_examples=200, deadline=None)
@given(sizes, st.integers(1, 4), st.integers(1, 65_536))
def test_a_wished_context_is_kept_or_refused(gib: float, count: int, wanted: int) -> None:
    """With a number that does fit, where there is one: it is then taken."""
    cards = cards_of(gib, count)
    try:
        assert plan(STEP3_VL_10B, cards, Wishes(max_model_len=wanted)).max_model_len == wanted
    except DoesNotFitError as error:
        _, found, number = str(error).partition("write max-model-len: ")
        if found:
            assert fits(cards, Wishes(max_model_len=int(number))) is not None


@pytest.mark.parametrize(
    ("size", "count", "weights", "context", "ranks", "replicas"),
    [
        (24, 1, "fp8", 16_384, 1, 1),
        (32, 1, "bf16", 32_768, 1, 1),
        (48, 1, "bf16", 65_536, 1, 1),
        (80, 1, "bf16", 65_536, 1, 1),
        (16, 2, "fp8", 65_536, 2, 1),
        (24, 2, "bf16", 65_536, 2, 1),
        (24, 4, "bf16", 65_536, 2, 2),
        (80, 4, "bf16", 65_536, 1, 4),
    ],
)
def test_usual_cards(
    size: int, count: int, weights: str, context: int, ranks: int, replicas: int
) -> None:
    found = plan(STEP3_VL_10B, cards_of(CARD_SIZES[size], count))
    assert (found.weights, found.max_model_len) == (weights, context)
    assert (found.tensor_parallel_size, found.data_parallel_size) == (ranks, replicas)


def test_what_is_too_small_is_refused_with_the_sum() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        plan(STEP3_VL_10B, cards_of(12, capability=8.0))
    message = str(caught.value)
    assert "weights 14.2, picture encoder 3.3, decoder 0.9, CUDA 1.0 of 10.4 GiB" in message
    assert "it takes a card of 24 GB, or several" in message


def test_the_yaml_wins() -> None:
    """Also where the plan would do otherwise."""
    wishes = Wishes(
        weights="fp8",
        kv_cache_dtype="fp8",
        max_model_len=10_000,
        max_num_seqs=3,
        pictures=2,
        tensor_parallel_size=2,
        data_parallel_size=1,
        gpu_memory_utilization=0.5,
    )
    found = plan(STEP3_VL_10B, cards_of(80, 4), wishes)
    assert found.weights == "fp8"
    assert found.options == {
        "dtype": "bfloat16",
        "kv_cache_dtype": "fp8",
        "max_model_len": 10_000,
        "max_num_seqs": 3,
        "max_num_batched_tokens": 4096,
        "limit_mm_per_prompt": {"image": 2},
        "tensor_parallel_size": 2,
        "data_parallel_size": 1,
        "gpu_memory_utilization": 0.5,
    }
    said = {option for option, reason in found.reasons.items() if reason == "the YAML says so"}
    assert said == set(found.reasons)
    assert "2 of 4 cards are not used" in found.assumptions


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(max_model_len=100_000), "100,000 is more than the model's 65,536 positions"),
        (Wishes(tensor_parallel_size=4), "more than the 2 cards that there are"),
        (Wishes(data_parallel_size=3), "more than the 2 cards that there are"),
        (Wishes(gpu_memory_utilization=0.2, max_model_len=8192), "does not fit a card"),
    ],
)
def test_wishes_that_cannot_be_met(wishes: Wishes, words: str) -> None:
    with pytest.raises(DoesNotFitError, match=words):
        plan(STEP3_VL_10B, cards_of(32, 2), wishes)


def test_there_must_be_a_card() -> None:
    with pytest.raises(DoesNotFitError, match="no card"):
        plan(STEP3_VL_10B, [])


def test_a_small_card_behind_a_large_one_is_left_alone() -> None:
    """vLLM takes the first ones. The other way round the small one is among them."""
    large, small = card_named("H200"), card_named("L4")
    found = plan(STEP3_VL_10B, [large, small])
    assert (found.tensor_parallel_size, found.data_parallel_size) == (1, 1)
    assert found.card_bytes == int(large.gib * GIB)
    assert "1 of 2 cards are not used" in found.assumptions
    shared = plan(STEP3_VL_10B, [small, large])
    assert shared.card_bytes == int(small.gib * GIB)
    assert any("the cards differ" in words for words in shared.assumptions)


def test_an_old_card_computes_otherwise() -> None:
    """A T4 has neither bf16 nor FP8."""
    found = plan(STEP3_VL_10B, [card_named("T4")] * 4)
    assert (found.dtype, found.kv_cache_dtype, found.weights) == ("float16", "auto", "bf16")
    assert any("no bf16" in words for words in found.assumptions)


def test_a_model_with_a_short_context_gets_all_of_it() -> None:
    short = replace(STEP3_VL_10B, positions=2048)
    assert plan(short, cards_of(80)).max_model_len == 2048
    long = replace(STEP3_VL_10B, positions=131_072)
    assert plan(long, cards_of(80)).max_model_len == 131_072 == CONTEXTS[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config": None}, "text_config is missing"),
        ({"vision_config": []}, "vision_config is missing"),
        ({"text_config": {"vocab_size": "x", "hidden_size": -1}}, "text_config.vocab_size"),
        ({"vision_config": {"width": True}}, "vision_config.width"),
    ],
)
def test_a_config_that_does_not_tell(change: dict[str, Any], words: str) -> None:
    """All that is missing, at once."""
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        Shape.from_config(config_of(DEMO) | change)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A10", "A10"),
        ("Tesla T4", "T4"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("L40S", "L40S"),
        ("l4", "L4"),
    ],
)
def test_cards_by_name(name: str, expected: str) -> None:
    known = {card.name: card for card in CARDS}
    assert card_named(name) == known[expected]


def test_a_name_that_may_be_several_cards() -> None:
    with pytest.raises(ConfigError, match="'A100' may be A100-40GB, A100-80GB; write one"):
        card_named("A100")


@pytest.mark.parametrize("name", ["", "NVIDIA", "Radeon", "GTX 1080", "0"])
def test_unknown_cards(name: str) -> None:
    with pytest.raises(ConfigError, match="give its memory with --vram GIB"):
        card_named(name)


def test_an_unknown_card_that_is_here_is_planned_by_its_memory() -> None:
    """With an assumption that is said."""
    card = card_named("NVIDIA Whatever 9000", 64.0)
    assert (card.gib, card.capability, card.is_guessed) == (64.0, 8.0, True)
    found = plan(STEP3_VL_10B, [card])
    assert any("not in our list" in words for words in found.assumptions)
    assert card_of_size(24).is_guessed


def test_a_card_with_more_memory_than_usual_is_still_the_same() -> None:
    """An RTX 4090 with 48 GB."""
    card = card_named("NVIDIA GeForce RTX 4090", 47.99)
    assert (card.gib, card.capability, card.is_guessed) == (47.99, 8.9, False)
