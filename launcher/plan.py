"""What fits a machine: from cards and a model's shape to vLLM's options, with the sum and reasons.

The arithmetic, for each card. What vLLM may use is ``gpu-memory-utilization`` of the card. From
that go the weights, what a forward pass of the decoder and of the picture encoder needs at most,
and what CUDA keeps for itself; the rest is KV cache, and the context is what one conversation can
have of it.

Sources: the layers are those of ``vllm/model_executor/models/step_vl.py`` and ``qwen3.py`` (0.32);
crops and views those of ``vllm/transformers_utils/processors/step3_vl.py``. The size of the FP8
checkpoint is what vLLM reported for it. What a pass and CUDA need is computed and rounded up, not
measured on a card: see :data:`PASS_MARGIN` and :data:`CUDA_GIB`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from launcher.cards import CARD_SIZES, Card
from launcher.errors import ConfigError

Weights = Literal["bf16", "fp8"]
KvDtype = Literal["auto", "fp8"]

GIB = 1 << 30
BF16_BYTES, FP8_BYTES = 2, 1

# A picture at its largest: 36 crops of 504 pixels and a view of 728, in patches of 14 pixels.
CROPS, CROP_PATCHES, VIEW_PATCHES = 36, 36 * 36, 52 * 52
CROP_PIXELS, VIEW_PIXELS = 504, 728
PICTURE_TOKENS = 36 * 83 + 5 + 171
# Of one pass. It must hold the tokens of the largest picture; more only shortens long prompts.
BATCH_TOKENS = 4096
SAMPLED_SEQUENCES = 256
PASS_MARGIN = 1.25
# Context, libraries and CUDA graphs; with tensor parallelism also NCCL's buffers.
CUDA_GIB, NCCL_GIB = 1.0, 0.5

# Of a card, for what is neither vLLM's nor planned: the driver, a screen, fragments.
SPARE_SHARE, SPARE_GIB = 0.08, 1.5

CONTEXTS = (8192, 16384, 24576, 32768, 49152, 65536, 98304, 131072)
# One card is given the better weights where they leave this much; several cards together, or each
# alone, want more.
GOAL_OF_ONE, GOAL_OF_SEVERAL = 32768, 65536
# A talk about two pictures, with its answer.
USUAL_TALK_TOKENS = 4096
MAX_SEQUENCES = 256
# A picture of 1280x720, and how many the gateway lets into a request.
USUAL_PICTURE_TOKENS, MAX_PICTURES = 670, 64
FP8_CAPABILITY, BF16_CAPABILITY = 8.9, 8.0

BF16_HUB_ID = "stepfun-ai/Step3-VL-10B"
FP8_HUB_ID = "stepfun-ai/Step3-VL-10B-FP8"


class DoesNotFitError(ConfigError):
    """No choice of options fits; the message has the number to change."""


@dataclass(frozen=True)
class Shape:
    """A StepVL model's sizes, as its ``config.json`` has them."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    positions: int
    tied: bool
    vision_width: int
    vision_layers: int
    vision_inner: int
    fp8_bytes: int | None = None
    """Of the checkpoint with FP8 weights, where there is one."""
    file_bytes: int | None = None
    """Of the weights as they lie on the disk, where they do."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Shape:
        """Read a ``config.json``.

        Raises:
            ConfigError: names all fields that are missing or are no positive numbers.
        """
        text, vision = config.get("text_config"), config.get("vision_config")
        sections = {"text_config": text, "vision_config": vision}
        problems = [f"{name} is missing" for name, s in sections.items() if not isinstance(s, dict)]
        if problems:
            raise ConfigError(f"config.json: {', '.join(problems)}")
        read = _Reader(sections)
        width = read.number("vision_config", "width")
        shape = cls(
            vocabulary=int(read.number("text_config", "vocab_size")),
            hidden=int(read.number("text_config", "hidden_size")),
            layers=int(read.number("text_config", "num_hidden_layers")),
            heads=int(read.number("text_config", "num_attention_heads")),
            kv_heads=int(read.number("text_config", "num_key_value_heads")),
            head_dim=int(read.number("text_config", "head_dim")),
            inner=int(read.number("text_config", "intermediate_size")),
            positions=int(read.number("text_config", "max_position_embeddings")),
            tied=config.get("tie_word_embeddings") is True,
            vision_width=int(width),
            vision_layers=int(read.number("vision_config", "layers")),
            vision_inner=int(width * read.number("vision_config", "mlp_ratio")),
        )
        read.report()
        return shape

    @property
    def parameters(self) -> int:
        return self._decoder_parameters + self._encoder_parameters

    @property
    def _decoder_parameters(self) -> int:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys) + 2 * self.head_dim
        layer = attention + 3 * self.hidden * self.inner + 2 * self.hidden
        words = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return words + self.layers * layer + self.hidden

    @property
    def _encoder_parameters(self) -> int:
        width, inner = self.vision_width, self.vision_inner
        attention = 4 * width * width + 4 * width
        layer = attention + 2 * width * inner + inner + width + 6 * width  # norms and scales
        patches = 3 * 14 * 14 * width + VIEW_PATCHES * width + 2 * width
        shrinking = (9 * width * 2 + 2) * width + (9 * 2 * width * 4 + 4) * width
        return patches + self.vision_layers * layer + shrinking + 4 * width * self.hidden

    def weight_bytes(self, weights: Weights) -> int:
        if self.file_bytes is not None:
            return self.file_bytes
        if weights == "fp8" and self.fp8_bytes is not None:
            return self.fp8_bytes
        return self.parameters * BF16_BYTES

    def kv_bytes(self, dtype: KvDtype, ranks: int = 1) -> int:
        """Of one token, on each of so many cards that share the model."""
        size = FP8_BYTES if dtype == "fp8" else BF16_BYTES
        return 2 * self.layers * math.ceil(self.kv_heads / ranks) * self.head_dim * size

    def encoder_bytes(self, ranks: int = 1) -> int:
        """For the largest picture: its pixels, and a layer's inputs, outputs and inner values."""
        patches = CROPS * CROP_PATCHES + VIEW_PATCHES
        values = 6 * self.vision_width + 2 * self.vision_inner / ranks
        pixels = 3 * (CROPS * CROP_PIXELS**2 + VIEW_PIXELS**2)
        return math.ceil((patches * values + 2 * pixels) * BF16_BYTES * PASS_MARGIN)

    def decoder_bytes(self, ranks: int = 1) -> int:
        """For a batch of tokens in a layer, and for the scores of the sequences' next ones."""
        values = 4 * self.hidden + 2 * self.inner / ranks
        scores = 3 * 4 * SAMPLED_SEQUENCES * self.vocabulary
        return math.ceil((BATCH_TOKENS * values * BF16_BYTES + scores) * PASS_MARGIN)


class _Reader:
    """Collects what is wrong, so that all of it can be said at once."""

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self._sections = sections
        self._problems: list[str] = []

    def number(self, section: str, name: str) -> float:
        value = self._sections[section].get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
        self._problems.append(f"{section}.{name}")
        return 1.0

    def report(self) -> None:
        if self._problems:
            raise ConfigError(f"config.json: no positive number at {', '.join(self._problems)}")


# As Qwen3-8B and the Perception Encoder PE-lang have them; together 18.95 GiB in bf16. It was
# trained on 64 K for one answer; its config.json, once it is here, says whether it may have more.
STEP3_VL_10B = Shape(
    vocabulary=151_936,
    hidden=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    inner=12_288,
    positions=65_536,
    tied=False,
    vision_width=1536,
    vision_layers=47,
    vision_inner=8960,
    fp8_bytes=int(14.25 * GIB),
)


@dataclass(frozen=True)
class Wishes:
    """What the YAML says; None: to be chosen."""

    weights: Weights | None = None
    kv_cache_dtype: KvDtype | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    pictures: int | None = None
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    gpu_memory_utilization: float | None = None


@dataclass(frozen=True)
class Line:
    """Of the sum for one card, in bytes."""

    what: str
    size: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """vLLM's options for a machine, and why."""

    weights: Weights
    kv_cache_dtype: KvDtype
    dtype: Literal["bfloat16", "float16"]
    max_model_len: int
    max_num_seqs: int
    pictures: int
    tensor_parallel_size: int
    data_parallel_size: int
    gpu_memory_utilization: float
    kv_tokens: int
    """That the KV cache of one replica holds."""
    card_bytes: int
    lines: tuple[Line, ...]
    reasons: Mapping[str, str]
    """Of each choice, by its option."""
    assumptions: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """As vLLM names them."""
        return {
            "dtype": self.dtype,
            "kv_cache_dtype": self.kv_cache_dtype,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": BATCH_TOKENS,
            "limit_mm_per_prompt": {"image": self.pictures},
            "tensor_parallel_size": self.tensor_parallel_size,
            "data_parallel_size": self.data_parallel_size,
            "gpu_memory_utilization": self.gpu_memory_utilization,
        }

    @property
    def reach(self) -> tuple[int, int]:
        """By which plans are compared: context, and talks' tokens on all cards together."""
        return self.max_model_len, self.kv_tokens * self.data_parallel_size

    @property
    def in_short(self) -> str:
        """Weights, context and cards, in a few words."""
        split = [f"{self.data_parallel_size} replicas"] if self.data_parallel_size > 1 else []
        if self.tensor_parallel_size > 1:
            split.append(f"the model over {self.tensor_parallel_size} cards")
        cache = ", FP8 KV cache" if self.kv_cache_dtype == "fp8" else ""
        weights = "FP8" if self.weights == "fp8" else "bf16"
        words = f"{weights} weights{cache}, context {self.max_model_len:,}"
        return ", ".join([words, *split])


def plan(shape: Shape, cards: Sequence[Card], wishes: Wishes | None = None) -> Plan:
    """The best that fits.

    Of several cards, each alone has the model (as replicas) where that leaves it a context of
    :data:`GOAL_OF_SEVERAL`; else as few as possible share it. FP8 is for what bf16 cannot do.
    More memory never plans less context: what comes later in the order may reach the goal, and
    not more.

    Cards that differ are planned like the smallest, unless the first ones alone (vLLM takes them in
    their order) come to more.

    Raises:
        DoesNotFitError: not even the smallest context fits, or what the YAML says does not.
    """
    if not cards:
        raise DoesNotFitError("there is no card to plan for; name one with --gpu or --vram")
    wishes, first = wishes or Wishes(), None
    best: Plan | None = None
    for count in range(len(cards), 0, -1):
        try:
            found = _plan_for_all(shape, cards[:count], wishes, len(cards) - count)
        except DoesNotFitError as error:
            first = first or error
            continue
        if best is None or found.reach > best.reach:
            best = found
        if len({card.gib for card in cards[:count]}) == 1:
            break
    if best is None:
        raise first or DoesNotFitError("nothing fits")
    return best


def _plan_for_all(shape: Shape, cards: Sequence[Card], wishes: Wishes, unused: int) -> Plan:
    choices = [*_choices(shape, cards, wishes)]
    if not choices:
        raise DoesNotFitError(
            f"tensor-parallel-size {wishes.tensor_parallel_size or 1} times data-parallel-size"
            f" {wishes.data_parallel_size or 1} is more than the {len(cards)} cards that there are;"
            " write less"
        )
    if wishes.max_model_len is not None:
        return _wished(choices, wishes.max_model_len, unused)
    goal = GOAL_OF_ONE if len(cards) == 1 else GOAL_OF_SEVERAL
    reached = [choices[0].context, *(min(choice.context, goal) for choice in choices[1:])]
    most = next((context for context in reached if context >= goal), max(reached))
    if most == 0:
        raise _too_small(max(choices, key=lambda choice: choice.kv_bytes_left), CONTEXTS[0])
    return choices[reached.index(most)].plan(most, unused)


def _wished(choices: Sequence[_Choice], wanted: int, unused: int) -> Plan:
    """With the context that the YAML says: the first choice that holds it."""
    positions = choices[0].shape.positions
    if wanted > positions:
        raise DoesNotFitError(
            f"max-model-len {wanted:,} is more than the model's {positions:,} positions; write at"
            " most that"
        )
    for choice in choices:
        if choice.kv_tokens >= wanted:
            return choice.plan(wanted, unused)
    raise _too_small(max(choices, key=lambda choice: choice.kv_bytes_left), wanted)


def _too_small(choice: _Choice, wanted: int) -> DoesNotFitError:
    room = choice.kv_tokens
    remedy = (
        f"write max-model-len: {room}"
        if room >= CONTEXTS[0]
        else f"it takes a card of {_smallest_size(choice)}, or several"
    )
    return DoesNotFitError(
        f"a context of {wanted:,} does not fit {choice.card.name}: {choice.in_words()} leave room"
        f" for {room:,} tokens; {remedy}"
    )


def _smallest_size(choice: _Choice) -> str:
    """Of the usual cards, the first that would hold the least context."""
    for size in CARD_SIZES:
        card = Card(f"{size} GB", CARD_SIZES[size], choice.card.capability)
        if replace(choice, card=card).context > 0:
            return f"{size} GB"
    return f"more than {max(CARD_SIZES)} GB"


def _choices(shape: Shape, cards: Sequence[Card], wishes: Wishes) -> Iterator[_Choice]:
    """In the order of preference; what the YAML says is in all of them."""
    least = min(card.capability for card in cards)
    smallest = replace(min(cards, key=lambda card: card.gib), capability=least)
    weights: list[Weights] = [wishes.weights or "bf16"]
    has_fp8 = shape.fp8_bytes is not None and smallest.capability >= BF16_CAPABILITY
    if wishes.weights is None and has_fp8:
        weights.append("fp8")
    caches: list[KvDtype] = [wishes.kv_cache_dtype or "auto"]
    if wishes.kv_cache_dtype is None and smallest.capability >= FP8_CAPABILITY:
        caches.append("fp8")
    for cache, weight, ranks in product(caches, weights, _ranks(shape, len(cards), wishes)):
        replicas = wishes.data_parallel_size or max(1, len(cards) // ranks)
        if ranks * replicas <= len(cards):
            yield _Choice(shape, smallest, tuple(cards), wishes, weight, cache, ranks, replicas)


def _ranks(shape: Shape, count: int, wishes: Wishes) -> list[int]:
    """Cards that can share the model: the heads must be divided evenly."""
    if wishes.tensor_parallel_size is not None:
        return [wishes.tensor_parallel_size]
    return [n for n in (1, 2, 4, 8) if n <= count and shape.heads % n == 0]


@dataclass(frozen=True)
class _Choice:
    """One way to use the cards, of which the smallest decides."""

    shape: Shape
    card: Card
    cards: tuple[Card, ...]
    wishes: Wishes
    weights: Weights
    cache: KvDtype
    ranks: int
    replicas: int

    @property
    def utilization(self) -> float:
        if self.wishes.gpu_memory_utilization is not None:
            return self.wishes.gpu_memory_utilization
        spare = max(SPARE_SHARE, SPARE_GIB / self.card.gib)
        return max(0.0, math.floor((1 - spare) * 100) / 100)

    @property
    def usable(self) -> int:
        return int(self.card.gib * GIB * self.utilization)

    def sizes(self) -> dict[str, int]:
        """What is not KV cache."""
        nccl = NCCL_GIB if self.ranks > 1 else 0.0
        return {
            "weights": math.ceil(self.shape.weight_bytes(self.weights) / self.ranks),
            "picture encoder": self.shape.encoder_bytes(self.ranks),
            "decoder": self.shape.decoder_bytes(self.ranks),
            "CUDA": int((CUDA_GIB + nccl) * GIB),
        }

    @property
    def kv_bytes_left(self) -> int:
        return self.usable - sum(self.sizes().values())

    @property
    def kv_tokens(self) -> int:
        """Whole blocks of 16."""
        left = max(0, self.kv_bytes_left)
        return left // self.shape.kv_bytes(self.cache, self.ranks) // 16 * 16

    @property
    def context(self) -> int:
        """The longest of the usual ones that fits; 0 if none does."""
        fitting = [c for c in CONTEXTS if c <= min(self.kv_tokens, self.shape.positions)]
        if self.shape.positions < CONTEXTS[0] <= self.kv_tokens:
            return self.shape.positions
        return max(fitting, default=0)

    def in_words(self) -> str:
        sizes = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.sizes().items())
        return f"{sizes} of {self.usable / GIB:.1f} GiB"

    def plan(self, context: int, unused: int) -> Plan:
        """``unused`` cards come after these."""
        wishes = self.wishes
        sequences = max(1, min(MAX_SEQUENCES, self.kv_tokens // USUAL_TALK_TOKENS))
        pictures = max(1, min(MAX_PICTURES, context // USUAL_PICTURE_TOKENS))
        return Plan(
            weights=self.weights,
            kv_cache_dtype=self.cache,
            dtype="bfloat16" if self.card.capability >= BF16_CAPABILITY else "float16",
            max_model_len=context,
            max_num_seqs=wishes.max_num_seqs or sequences,
            pictures=wishes.pictures or pictures,
            tensor_parallel_size=self.ranks,
            data_parallel_size=self.replicas,
            gpu_memory_utilization=self.utilization,
            kv_tokens=self.kv_tokens,
            card_bytes=int(self.card.gib * GIB),
            lines=self._lines(),
            reasons=self._reasons(),
            assumptions=self._assumptions(unused),
        )

    def _lines(self) -> tuple[Line, ...]:
        sizes, kv = self.sizes(), self.shape.kv_bytes(self.cache, self.ranks)
        shared = f", divided by {self.ranks} cards" if self.ranks > 1 else ""
        total = int(self.card.gib * GIB)
        words = {
            "weights": f"{self.shape.parameters / 1e9:.2f} billion parameters{shared}",
            "picture encoder": f"a picture of {CROPS} crops, the largest that there is",
            "decoder": f"{BATCH_TOKENS:,} tokens at once, scores of {SAMPLED_SEQUENCES} answers",
            "CUDA": "context, libraries, graphs" + (", NCCL" if self.ranks > 1 else ""),
        }
        lines = [Line(name, size, words[name]) for name, size in sizes.items()]
        cache = Line("KV cache", self.kv_bytes_left, f"{kv / 1024:g} KiB a token{shared}")
        spare = Line(
            "spare", total - self.usable, "the driver, fragments, whatever else runs there"
        )
        return (*lines, cache, spare)

    def _reasons(self) -> dict[str, str]:
        goal = GOAL_OF_ONE if len(self.cards) == 1 else GOAL_OF_SEVERAL
        weights = (
            f"the bf16 weights leave no context of {goal:,}"
            if self.weights == "fp8"
            else "the weights as they were trained"
        )
        cache = (
            "half the size for each token; without it the context is shorter"
            if self.cache == "fp8"
            else "as exact as the weights"
        )
        sharing = (
            f"one card alone leaves no context of {goal:,}"
            if self.ranks > 1
            else "each card holds the whole model"
        )
        return {
            "quantization": weights,
            "kv_cache_dtype": cache,
            "max_model_len": (
                f"of {self.shape.positions:,} that the model allows and {self.kv_tokens:,} that the"
                " cache holds"
            ),
            "max_num_seqs": f"so many talks of {USUAL_TALK_TOKENS:,} tokens fit the cache",
            "limit_mm_per_prompt": f"so many of 1280x720 ({USUAL_PICTURE_TOKENS} tokens) fit",
            "tensor_parallel_size": sharing,
            "data_parallel_size": "the other cards answer other requests; with engine.replicas"
            " in its place they are engines that do not end together",
            "gpu_memory_utilization": (
                f"{SPARE_SHARE:.0%} of the card, or {SPARE_GIB:g} GiB, are left free"
            ),
            **{_OPTION_OF[name]: "the YAML says so" for name in _given(self.wishes)},
        }

    def _assumptions(self, unused: int) -> tuple[str, ...]:
        found = ["what a pass and CUDA need is computed, not measured on this card"]
        if self.card.is_guessed:
            found.append(
                f"{self.card.name} is not in our list: bf16 is assumed to work, FP8 caches not"
            )
        if len({(card.name, round(card.gib)) for card in self.cards}) > 1:
            found.append(f"the cards differ: each is planned like the smallest, {self.card.name}")
        left = unused + len(self.cards) - self.ranks * self.replicas
        if left:
            found.append(f"{left} of {len(self.cards) + unused} cards are not used")
        if self.card.capability < BF16_CAPABILITY:
            found.append("this card has no bf16: float16 is used, in which values can overflow")
        return tuple(found)


_OPTION_OF: Mapping[str, str] = {
    "weights": "quantization",
    "kv_cache_dtype": "kv_cache_dtype",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "pictures": "limit_mm_per_prompt",
    "tensor_parallel_size": "tensor_parallel_size",
    "data_parallel_size": "data_parallel_size",
    "gpu_memory_utilization": "gpu_memory_utilization",
}


def _given(wishes: Wishes) -> list[str]:
    return [name for name, value in vars(wishes).items() if value is not None]


def cpu_kv_tokens(shape: Shape, kv_gib: float, block: int = 128) -> int:
    """What a KV cache in main memory holds, in vLLM's blocks.

    Args:
        kv_gib: ``VLLM_CPU_KVCACHE_SPACE``.
    """
    return int(kv_gib * GIB) // (shape.kv_bytes("auto") * block) * block
