"""What the simulation takes for granted: the card, the engine's caches, the people.

Every constant is a field of :class:`Assumptions`, with its source or the word "assumed". Times are
computed from them: a prompt is bound by the card's arithmetic, an answer by its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from launcher.cards import card_named
from launcher.plan import (
    CROP_PATCHES,
    CROP_PIXELS,
    GIB,
    STEP3_VL_10B,
    VIEW_PATCHES,
    VIEW_PIXELS,
    plan,
)
from webui.pictures import cost_of

CARD = "H100"
PLAN = plan(STEP3_VL_10B, [card_named(CARD)])
# The encoder's share of plan.py's 10.17 billion; the decoder is the rest.
ENCODER_PARAMETERS = 1.98e9
MEGAPIXEL = 1_000_000


@dataclass(frozen=True)
class ImageKind:
    """Images of one size, as the model's processor cuts them."""

    width: int
    height: int

    @cached_property
    def tokens(self) -> int:
        return cost_of(self.width, self.height).tokens

    @cached_property
    def patches(self) -> int:
        """Of 14 pixels, which the encoder reads."""
        return VIEW_PATCHES + cost_of(self.width, self.height).crops * CROP_PATCHES

    @cached_property
    def cached_bytes(self) -> int:
        """Of the processed pixels, three bf16 values each, in the engine's image cache."""
        crops = cost_of(self.width, self.height).crops
        return 3 * 2 * (VIEW_PIXELS**2 + crops * CROP_PIXELS**2)

    @property
    def megapixels(self) -> float:
        return self.width * self.height / MEGAPIXEL


@dataclass(frozen=True)
class Assumptions:
    """All constants, so that any of them can be varied."""

    # The card.
    card_flops: float = 989.4e12
    """NVIDIA H100 SXM, bf16 without sparsity, from its data sheet."""
    card_bytes_per_s: float = 3.35e12
    """NVIDIA H100 SXM, from its data sheet."""
    prompt_efficiency: float = 0.5
    """Of the card's arithmetic, for the prompt; assumed."""
    encoder_efficiency: float = 0.4
    """Of the card's arithmetic, for images; assumed. Attention within a crop is in it."""
    answer_efficiency: float = 0.8
    """Of the memory's speed, while answers are written; assumed."""
    step_overhead_s: float = 0.002
    """Scheduling, sampling and launching of each step; assumed."""

    # The model and the engine.
    decoder_parameters: float = STEP3_VL_10B.parameters - ENCODER_PARAMETERS
    """launcher/plan.py."""
    encoder_parameters: float = ENCODER_PARAMETERS
    """launcher/plan.py."""
    weight_bytes: float = 2 * (STEP3_VL_10B.parameters - ENCODER_PARAMETERS)
    """That each step reads: the decoder in bf16."""
    kv_bytes_per_token: float = STEP3_VL_10B.kv_bytes("auto")
    """launcher/plan.py: 144 KiB."""
    kv_tokens: int = PLAN.kv_tokens
    """That the KV cache of one replica holds: what `launch plan` says for one H100."""
    max_num_seqs: int = PLAN.max_num_seqs
    """Requests that one replica answers at once: what `launch plan` says for one H100."""
    image_cache_bytes: float = 4 * GIB
    """vLLM's mm_processor_cache_gb, 4 unless it is set."""
    image_retry_s: float = 0.012
    """Measured on the demo: an image's name that the engine does not know is refused after 12 ms,
    and sent again with its bytes."""
    image_load_s_per_megapixel: float = 0.010
    """Upload, hash, JPEG and resizing. Measured on the demo, with bytes and without: 127 - 78 ms
    for two images of 1.9 megapixels is 13 ms each, 531 - 181 ms for four of 12 is 7 ms each."""
    restart_s: float = 120.0
    """From a replica's end to its next answer, with empty caches; assumed (the demo takes 31 s)."""

    # The router.
    session_ttl_s: float = 7200.0
    """vllm-router's sticky_least_loaded forgets a session so long after its last request; from its
    source."""
    short_session_ttl_s: float = 600.0
    """The same, set by VLLM_ROUTER_SLL_SESSION_EXPIRATION_IN_S; tried as a variant."""
    ring_points: int = 160
    """Of each replica on the ring of the consistent hash; assumed."""

    # The people.
    mean_turns: float = 4.0
    """Geometric; assumed."""
    max_turns: int = 30
    """Assumed."""
    question_tokens: tuple[float, float] = (60.0, 1.0)
    """Log-normal, median and sigma; assumed."""
    thought_tokens: tuple[float, float] = (500.0, 1.0)
    """Log-normal, median and sigma; assumed. Clients do not send thoughts back."""
    answer_tokens: tuple[float, float] = (200.0, 0.8)
    """Log-normal, median and sigma; assumed."""
    most_generated_tokens: int = 16_384
    """Of thought and answer together; assumed."""
    most_prompt_tokens: int = 40_000
    """At which people begin anew; assumed. What a replica can hold is well above."""
    think_s: tuple[float, float] = (30.0, 0.9)
    """Between an answer and the next question, log-normal, median and sigma; assumed."""
    with_images: float = 0.8
    """Of the first questions have images; assumed."""
    mean_images: float = 1.5
    """Of those that have any; geometric; assumed."""
    later_image: float = 0.15
    """Of the later questions have one image; assumed."""
    image_kinds: tuple[tuple[ImageKind, float], ...] = (
        (ImageKind(1280, 720), 0.5),
        (ImageKind(1920, 1080), 0.4),
        (ImageKind(2480, 3508), 0.1),
    )
    """Screens, photos, and pages of A4 at 300 dpi, with their shares; assumed."""
    daily_swing: float = 0.3
    """The busiest minute of a day has so much more than the mean, the quietest so much less;
    assumed."""

    # The head: one machine with the WebUI (page and gateway) and the router.
    gateway_chunk_s: float = 55e-6
    """Processor time; measured, docs/gateway-benchmark.md."""
    gateway_json_s: float = 364e-6
    """Processor time of an answer that is not streamed; measured, docs/gateway-benchmark.md."""
    router_chunk_s: float = 45e-6
    """vllm-router 0.1.17, one worker behind it; measured, docs/gateway-benchmark.md."""
    router_json_s: float = 197e-6
    """vllm-router 0.1.17, one worker behind it; measured, docs/gateway-benchmark.md."""
    core_share: float = 0.7
    """Of a core that may be in use in the busiest minute; assumed. More makes first bytes late."""
    head_cores: int = 32
    """Assumed."""
    image_bytes_per_megapixel: float = 400_000.0
    """Of a JPEG, in base64; assumed."""

    def prompt_s(self, tokens: int, patches: int) -> float:
        """To compute the tokens and to encode the patches that are in no cache."""
        prompt = 2 * self.decoder_parameters * tokens / (self.card_flops * self.prompt_efficiency)
        images = 2 * self.encoder_parameters * patches / (self.card_flops * self.encoder_efficiency)
        return prompt + images

    def image_load_s(self, kind: ImageKind) -> float:
        """Before the engine has an image that its cache had not."""
        return self.image_load_s_per_megapixel * kind.megapixels

    @cached_property
    def base_step_s(self) -> float:
        """A step's time before any history is read."""
        read_s = self.weight_bytes / (self.card_bytes_per_s * self.answer_efficiency)
        return self.step_overhead_s + read_s

    @cached_property
    def step_s_per_token(self) -> float:
        """What each token of history adds to a step."""
        return self.kv_bytes_per_token / (self.card_bytes_per_s * self.answer_efficiency)
