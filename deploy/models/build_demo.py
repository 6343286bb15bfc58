"""Build ``step3-vl-demo``: a StepVL checkpoint of half a million parameters.

Every layer of the real architecture is there and is computed, so the engine loads, profiles and
serves it through the same code as the 10 B model. Nothing in it was trained: the vision tower and
the attention are seeded noise that never reaches the residual stream, and embedding and output
head are set so that each word of two fixed sentences calls the next one. It therefore thinks one
sentence, closes ``</think>``, says one sentence and stops, whatever it is shown.

    python deploy/models/build_demo.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

THOUGHT = ["An", " untrained", " demo", " checkpoint", " cannot", " see", "."]
ANSWER = [
    "Hello! ",
    "This is ",
    "the demo ",
    "checkpoint ",
    "of STEP3-VL, ",
    "running on ",
    "the real vLLM ",
    "engine. ",
    "Its weights ",
    "are not trained, ",
    "so it gives ",
    "this same answer ",
    "to every question. ",
    "To have pictures ",
    "understood, ",
    "serve ",
    "stepfun-ai/Step3-VL-10B ",
    "on a GPU.",
]

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    END_OF_TURN,
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<patch_start>",
    "<patch_end>",
    "<patch_newline>",
]
# Not special: the reasoning parser reads text, and special tokens are left out of text.
PLAIN_TOKENS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]

HIDDEN = 128
INTERMEDIATE = 256
HEADS = 2
KV_HEADS = 1
HEAD_DIM = 64
LAYERS = 2
VISION_WIDTH = 64
VISION_HEADS = 2
VISION_LAYERS = 1
IMAGE_SIZE = 728
PATCH = 14
CONTEXT = 32768

CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content -%}
{%- for part in content -%}
{%- if part.type in ('image', 'image_url') -%}<im_patch>
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
Tools, called as <tool_call>{"name": ..., "arguments": ...}</tool_call>:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ render(message.content) }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
<think>
{% endif -%}
"""

CONFIGURATION_MODULE = '''\
"""The configuration class of StepVL checkpoints, read with ``--trust-remote-code``."""

from transformers import PretrainedConfig, Qwen3Config


class StepVLVisionConfig(PretrainedConfig):
    """The Perception Encoder's sizes; lengths in pixels, ``width`` in channels."""

    model_type = "perception_encoder"


class StepVLConfig(PretrainedConfig):
    """A vision encoder, a projector without bias and a Qwen3 decoder."""

    model_type = "step_robotics"

    def __init__(self, vision_config=None, text_config=None, projector_bias=False, **kwargs):
        self.vision_config = StepVLVisionConfig(**(vision_config or {}))
        self.text_config = Qwen3Config(**(text_config or {}))
        self.projector_bias = projector_bias
        self.hidden_size = self.text_config.hidden_size
        super().__init__(**kwargs)

    def get_text_config(self, *args, **kwargs):
        return self.text_config
'''


def build_tokenizer() -> Tokenizer:
    """Bytes, the model's special tokens, and one token for each word of the two sentences."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL_TOKENS])
    words = [*PLAIN_TOKENS, *THOUGHT, *ANSWER]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in words])
    return tokenizer


def successors(tokenizer: Tokenizer) -> dict[int, int]:
    """Which token follows which: newline -> thought -> </think> -> answer -> end of turn."""
    newline = tokenizer.encode("\n").ids[0]

    def ids(words: list[str]) -> list[int]:
        return [tokenizer.token_to_id(word) for word in words]

    chain = [newline, *ids(THOUGHT), *ids(["</think>"]), *ids(ANSWER), *ids([END_OF_TURN])]
    return dict(pairwise(chain))


def decoder_weights(tokenizer: Tokenizer, noise: torch.Generator) -> dict[str, torch.Tensor]:
    """A Qwen3 decoder whose layers add nothing, so that the last token alone picks the next."""
    vocabulary = tokenizer.get_vocab_size()
    follows = successors(tokenizer)
    # Direction 0 stands for every token outside the chain; the answer's first word follows it.
    directions = torch.eye(HIDDEN)
    embedding = directions[0].repeat(vocabulary, 1)
    head = torch.zeros(vocabulary, HIDDEN)
    head[tokenizer.token_to_id(ANSWER[0]), 0] = 4.0
    for direction, (token, successor) in enumerate(follows.items(), start=1):
        embedding[token] = directions[direction]
        head[successor, direction] = 4.0

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=noise) * 0.02

    weights = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": head,
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        weights |= {
            f"{layer}.input_layernorm.weight": torch.ones(HIDDEN),
            f"{layer}.post_attention_layernorm.weight": torch.ones(HIDDEN),
            f"{layer}.self_attn.q_proj.weight": random(HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.k_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.v_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.o_proj.weight": torch.zeros(HIDDEN, HEADS * HEAD_DIM),
            f"{layer}.self_attn.q_norm.weight": torch.ones(HEAD_DIM),
            f"{layer}.self_attn.k_norm.weight": torch.ones(HEAD_DIM),
            f"{layer}.mlp.gate_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{layer}.mlp.up_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{layer}.mlp.down_proj.weight": torch.zeros(HIDDEN, INTERMEDIATE),
        }
    return weights


def vision_weights(noise: torch.Generator) -> dict[str, torch.Tensor]:
    """A Perception Encoder, its two stride-2 convolutions and the projector; all seeded noise."""
    width, grid = VISION_WIDTH, IMAGE_SIZE // PATCH

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=noise) * 0.02

    weights = {
        "vision_model.conv1.weight": random(width, 3, PATCH, PATCH),
        "vision_model.ln_pre.weight": torch.ones(width),
        "vision_model.ln_pre.bias": torch.zeros(width),
        "vision_model.positional_embedding": random(grid * grid, width),
        "vision_model.vit_downsampler1.weight": random(width * 2, width, 3, 3),
        "vision_model.vit_downsampler1.bias": torch.zeros(width * 2),
        "vision_model.vit_downsampler2.weight": random(width * 4, width * 2, 3, 3),
        "vision_model.vit_downsampler2.bias": torch.zeros(width * 4),
        "vit_large_projector.weight": random(HIDDEN, width * 4),
    }
    for i in range(VISION_LAYERS):
        block = f"vision_model.transformer.resblocks.{i}"
        weights |= {
            f"{block}.attn.in_proj_weight": random(width * 3, width),
            f"{block}.attn.in_proj_bias": torch.zeros(width * 3),
            f"{block}.attn.out_proj.weight": random(width, width),
            f"{block}.attn.out_proj.bias": torch.zeros(width),
            f"{block}.ln_1.weight": torch.ones(width),
            f"{block}.ln_1.bias": torch.zeros(width),
            f"{block}.ln_2.weight": torch.ones(width),
            f"{block}.ln_2.bias": torch.zeros(width),
            f"{block}.ls_1.gamma": torch.full((width,), 0.1),
            f"{block}.ls_2.gamma": torch.full((width,), 0.1),
            f"{block}.mlp.c_fc.weight": random(width * 4, width),
            f"{block}.mlp.c_fc.bias": torch.zeros(width * 4),
            f"{block}.mlp.c_proj.weight": random(width, width * 4),
            f"{block}.mlp.c_proj.bias": torch.zeros(width),
        }
    return weights


def model_config(tokenizer: Tokenizer) -> dict[str, object]:
    """``config.json``, with the names that the published 10 B checkpoint uses."""
    end, pad = tokenizer.token_to_id(END_OF_TURN), tokenizer.token_to_id("<|endoftext|>")
    return {
        "architectures": ["StepVLForConditionalGeneration"],
        "auto_map": {"AutoConfig": "configuration_step_vl.StepVLConfig"},
        "model_type": "step_robotics",
        "image_token_id": tokenizer.token_to_id("<im_patch>"),
        "projector_bias": False,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        "eos_token_id": end,
        "pad_token_id": pad,
        "vision_config": {
            "width": VISION_WIDTH,
            "layers": VISION_LAYERS,
            "heads": VISION_HEADS,
            "mlp_ratio": 4.0,
            "patch_size": PATCH,
            "image_size": IMAGE_SIZE,
            "hidden_act": "quick_gelu",
            "use_cls_token": False,
            "use_ln_pre": True,
            "use_ln_post": False,
            "use_abs_posemb": True,
            "use_rope2d": True,
            "ls_init_value": 0.1,
            "output_dim": None,
        },
        "text_config": {
            "architectures": ["Qwen3ForCausalLM"],
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "max_position_embeddings": CONTEXT,
            "rope_theta": 1000000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
    }


def build(folder: Path) -> None:
    """Write the whole checkpoint; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    noise = torch.Generator().manual_seed(20_26)
    weights = decoder_weights(tokenizer, noise) | vision_weights(noise)
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    documents = {
        "config.json": model_config(tokenizer),
        "generation_config.json": {"eos_token_id": tokenizer.token_to_id(END_OF_TURN)},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TURN,
            "pad_token": "<|endoftext|>",
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "configuration_step_vl.py").write_text(CONFIGURATION_MODULE)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "step3-vl-demo"))
