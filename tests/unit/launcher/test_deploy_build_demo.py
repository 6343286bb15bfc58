"""deploy/models/build_demo.py: the demo checkpoint can be made again, and does what it says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer

from launcher.paths import ROOT

DEMO = ROOT / "deploy" / "models" / "step3-vl-demo"


@pytest.fixture(scope="module")
def build_demo() -> ModuleType:
    path = ROOT / "deploy" / "models" / "build_demo.py"
    spec = importlib.util.spec_from_file_location("build_demo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_shipped_checkpoint_is_what_the_script_builds(
    build_demo: ModuleType, tmp_path: Path
) -> None:
    """Every file comes out byte for byte, and there are no others."""
    build_demo.build(tmp_path)
    built, shipped = contents(tmp_path), contents(DEMO)
    assert set(shipped) == set(built)
    assert [name for name in shipped if shipped[name] != built[name]] == []


def test_the_shipped_weights_say_the_two_sentences(build_demo: ModuleType) -> None:
    """Embedding and head alone lead from the template's newline through both sentences to the end;
    the layers between add nothing."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    weights = load_file(DEMO / "model.safetensors")
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    token = tokenizer.encode("\n").ids[0]
    said = []
    for _ in range(len(build_demo.THOUGHT) + len(build_demo.ANSWER) + 2):
        token = int((head @ embedding[token]).argmax())
        said.append(tokenizer.id_to_token(token))
    expected = [*build_demo.THOUGHT, "</think>", *build_demo.ANSWER, build_demo.END_OF_TURN]
    assert expected == said


@pytest.mark.parametrize("part", ["self_attn.o_proj", "mlp.down_proj"])
def test_no_layer_adds_to_the_residual_stream(part: str) -> None:
    """Whatever a picture does to the attention, the answer stays the same."""
    weights = load_file(DEMO / "model.safetensors")
    found = [weight for name, weight in weights.items() if f"{part}.weight" in name]
    assert [int(weight.count_nonzero()) for weight in found] == [0, 0]


def test_the_configuration_fits_tokenizer_and_weights() -> None:
    """Vocabulary, end of turn and picture token are those of the tokenizer."""
    config = json.loads((DEMO / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    weights = load_file(DEMO / "model.safetensors")
    size = config["text_config"]["vocab_size"]
    assert tokenizer.get_vocab_size() == size == len(weights["lm_head.weight"])
    assert tokenizer.token_to_id("<|im_end|>") == config["eos_token_id"]
    assert tokenizer.token_to_id("<im_patch>") == config["image_token_id"]
