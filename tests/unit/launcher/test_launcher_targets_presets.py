"""launcher.targets.presets: whole configurations for rented machines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

from launcher.cli import main
from launcher.config import DeployConfig, load_config
from launcher.targets.presets import PRESETS, Preset, providers_table

GUIDE = (ROOT / "docs" / "providers.md").read_text()
every_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
rented = pytest.mark.parametrize(
    "preset", [p for name, p in PRESETS.items() if name != "ubuntu"], ids=set(PRESETS) - {"ubuntu"}
)


def config_of(preset: Preset) -> DeployConfig:
    return load_config(Path(preset.profile.path))


@every_preset
def test_a_preset_is_a_whole_configuration(
    preset: Preset, capsys: pytest.CaptureFixture[str]
) -> None:
    """`launch check` finds no mistake in the YAML, whatever this machine lacks."""
    main(["check", "--config", preset.profile.path])
    assert f"{preset.profile.path}: no mistakes in the YAML" in capsys.readouterr().out


@every_preset
def test_nobody_gets_in_without_a_key(preset: Preset) -> None:
    """The port is reached by strangers."""
    webui = config_of(preset).webui
    assert (webui.host, webui.require_keys) == ("0.0.0.0", True)


@every_preset
def test_the_model_is_served_as_in_the_plain_configuration(preset: Preset) -> None:
    """A preset changes where and how long, and no option of the engine."""
    plain = load_config(ROOT / "deploy" / "step3-vl-10b.yaml")
    config = config_of(preset)
    assert config.engine.options == plain.engine.options
    assert config.model.hub_id == plain.model.hub_id


@rented
def test_a_stop_ends_before_docker_kills(preset: Preset) -> None:
    """Nobody says how long a provider waits; docker's own time is the least."""
    config = config_of(preset)
    assert config.service.stop_limit_s == 10
    assert config.stop_wait_s <= 10


@pytest.mark.parametrize(
    ("name", "port"),
    [("autodl", 6006), ("csdn", 7860), ("runpod", 7860), ("vast", 7860), ("ubuntu", 7860)],
)
def test_the_port_is_the_one_that_the_provider_shows(name: str, port: int) -> None:
    assert config_of(PRESETS[name]).webui.port == port


@pytest.mark.parametrize("name", ["autodl", "csdn"])
def test_models_come_from_where_the_machine_reaches(name: str) -> None:
    """From mainland China: ModelScope for `download`, a mirror for vLLM."""
    config = config_of(PRESETS[name])
    assert config.model.source == "modelscope"
    assert config.engine.environment["HF_ENDPOINT"].startswith("https://")


@every_preset
def test_the_models_cache_lies_on_the_data_disk(preset: Preset) -> None:
    """Where there is one."""
    home = config_of(preset).engine.environment.get("HF_HOME")
    assert home == (f"{preset.data_disk}/huggingface" if preset.data_disk else None)


@every_preset
def test_the_guide_tells_what_to_type(preset: Preset) -> None:
    """Fetching makes the environment; the key comes before `up`, which refuses without one."""
    file = f"deploy/{preset.profile.file_name}"
    steps = [f"launch download --config {file}", "launch keys add", f"launch up --config {file}"]
    assert re.search(r".*\n.*".join(map(re.escape, steps)), GUIDE)


def test_every_preset_is_in_the_table() -> None:
    """And every file of the folder is one."""
    assert providers_table() in GUIDE
    files = {path.name for path in (ROOT / "deploy" / "presets").iterdir()}
    assert files == {f"{name}.yaml" for name in PRESETS}
