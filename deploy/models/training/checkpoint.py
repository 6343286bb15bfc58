"""The folder that vLLM loads: weights, configuration, tokenizer and chat template.

python -m deploy.models.training.checkpoint RUN_FOLDER TARGET_FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from deploy.models.training.network import PATCH, VIEW, Sizes, StepVl
from deploy.models.training.vocabulary import END_OF_TURN, PADDING

CONTEXT = 32768
DEMO = Path(__file__).resolve().parents[1] / "step3-vl-demo"
# Written by hand, and the same for every checkpoint.
FIXED_FILES = ("chat_template.jinja", "configuration_step_vl.py")
# Names in config.json, and those of :class:`network.Sizes`.
TEXT_SIZES = {
    "vocab_size": "vocabulary",
    "hidden_size": "hidden",
    "intermediate_size": "intermediate",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "rope_theta": "rope_theta",
}
VISION_SIZES = {
    "width": "vision_width",
    "layers": "vision_layers",
    "heads": "vision_heads",
    "mlp_ratio": "mlp_ratio",
}


def model_config(sizes: Sizes, tokenizer: Tokenizer) -> dict[str, Any]:
    """``config.json``, with the names that the published 10 B checkpoint uses."""
    ends = {
        "eos_token_id": tokenizer.token_to_id(END_OF_TURN),
        "pad_token_id": tokenizer.token_to_id(PADDING),
    }
    return {
        "architectures": ["StepVLForConditionalGeneration"],
        "auto_map": {"AutoConfig": "configuration_step_vl.StepVLConfig"},
        "model_type": "step_robotics",
        "image_token_id": tokenizer.token_to_id("<im_patch>"),
        "projector_bias": False,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        **ends,
        "vision_config": {
            **{name: getattr(sizes, size) for name, size in VISION_SIZES.items()},
            "patch_size": PATCH,
            "image_size": VIEW,
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
            **{name: getattr(sizes, size) for name, size in TEXT_SIZES.items()},
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            **ends,
        },
    }


def write_checkpoint(model: StepVl, tokenizer: Tokenizer, folder: Path) -> None:
    """Write everything; weights in bfloat16, in which they are trained and served."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.bfloat16().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    documents = {
        "config.json": model_config(model.sizes, tokenizer),
        "generation_config.json": {
            "eos_token_id": tokenizer.token_to_id(END_OF_TURN),
            "temperature": 0.0,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TURN,
            "pad_token": PADDING,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    for name in FIXED_FILES:
        if folder.resolve() != DEMO:
            shutil.copyfile(DEMO / name, folder / name)


def load_run(run: Path) -> tuple[StepVl, Tokenizer]:
    """The model of a training run, or of an exported checkpoint, and its words."""
    if not (run / "run.pt").exists():
        return load_checkpoint(run)
    state = torch.load(run / "run.pt", weights_only=True)
    model = StepVl(Sizes(**state["sizes"]))
    model.load_state_dict(state["model"])
    return model.eval(), Tokenizer.from_file(str(run / "tokenizer.json"))


def load_checkpoint(folder: Path) -> tuple[StepVl, Tokenizer]:
    """What :func:`write_checkpoint` wrote, in float32."""
    config = json.loads((folder / "config.json").read_text())
    parts = ((config["text_config"], TEXT_SIZES), (config["vision_config"], VISION_SIZES))
    sizes = {size: part[name] for part, names in parts for name, size in names.items()}
    model = StepVl(Sizes(**sizes))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def mean_of(model: StepVl, other: StepVl, part: float) -> StepVl:
    """A model between two states of one run, ``part`` of the way from the first to the other: what
    they differ in by chance evens out."""
    weights = other.state_dict()
    mean = {
        name: (1 - part) * own + part * weights[name] for name, own in model.state_dict().items()
    }
    model.load_state_dict(mean)
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="or an exported checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mix", type=Path, help="a later state, with the same words")
    parser.add_argument("--part", type=float, default=0.5, help="its part, 0 to 1")
    options = parser.parse_args()
    model, tokenizer = load_run(options.run)
    if options.mix:
        model = mean_of(model, load_run(options.mix)[0], options.part)
    write_checkpoint(model, tokenizer, options.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
