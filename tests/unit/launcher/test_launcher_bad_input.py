"""Input of the kind nobody means: it gets a sentence, never an exception of Python's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher import system_install
from launcher.checkpoint import INDEX, problems_of
from launcher.config import DeployConfig, parse_config
from launcher.engine_causes import cause_of
from launcher.errors import ConfigError, LauncherError
from launcher.host_checks import listen_problem
from launcher.paths import ROOT, Paths
from launcher.profiles import DEMO
from launcher.programs import programs_for
from launcher.render import RenderedFile, render_supervisord, write_if_changed
from launcher.yaml_source import YamlSource

CHECKPOINT = ROOT / "deploy" / "models" / "step3-vl-demo"
MODEL = "model: {folder: a}\n"


@pytest.mark.parametrize("name", ["100%", "a%sb", "%(here)s"])
def test_percent_in_our_own_path_is_refused(name: str, tmp_path: Path) -> None:
    """supervisord expands it once here and twice there, so there is no right way to write it."""
    paths = Paths(tmp_path / name / "etc", tmp_path / name / "run")
    config = DeployConfig.model_validate({"model": {"folder": "a"}})
    with pytest.raises(LauncherError, match="move the checkout"):
        render_supervisord(programs_for(config, Path("/c"), paths), paths, config.logs)


@pytest.mark.parametrize(
    "text",
    [
        "engine: {options: {hos: 0.0.0.0}}",
        "engine: {options: {api-ke: secret}}",
        "engine: {options: {allowed-local: /}}",
        "engine: {options: {lora-modules: [a=b, --host, 0.0.0.0]}}",
        "engine: {options: {max-num-seqs: 1, max_num_seqs: 2}}",
        "engine: {options: {x: {a: 2024-01-01}}}",
        "engine: {stop_timeout_s: .inf}",
        "engine: {start_timeout_s: .inf}",
        "webui: {stop_timeout_s: .inf}",
        "engine: {environment: {A=B: x}}",
        'engine: {environment: {A: "x\\0y"}}',
        "engine: {port: !!int ''}",
        "engine: {port: !!timestamp now}",
        "engine: {options: {a: !!bool maybe}}",
    ],
)
def test_yaml_that_would_fail_or_open_a_door_later(text: str) -> None:
    """Refused when it is read: abbreviations of owned options, smuggled options, odd values."""
    with pytest.raises(ConfigError):
        parse_config(YamlSource.parse(MODEL + text, "x.yaml"))


@pytest.mark.parametrize(
    "model", ['{folder: a, names: ["--trust-remote-code"]}', '{folder: "a\\0b"}', '{folder: ""}']
)
def test_model_that_would_fail_or_open_a_door_later(model: str) -> None:
    """The same for the model's names and folder."""
    with pytest.raises(ConfigError):
        parse_config(YamlSource.parse(f"model: {model}", "x.yaml"))


def test_one_mistake_is_one_line() -> None:
    """A value that fits none of an option's types is reported once."""
    with pytest.raises(ConfigError) as caught:
        parse_config(YamlSource.parse(f"{MODEL}engine:\n  options:\n    a: 2024-01-01\n", "x"))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "line",
    [
        "(APIServer pid=1) WARNING 11-22 18:45:32 [system_utils.py:255] Found ulimit of 20000 and"
        " failed to automatically increase with error current limit exceeds maximum limit.",
        "(APIServer pid=1) INFO 11-22 18:45:32 [logger.py:1] prompt: 'CUDA out of memory'",
        'INFO:     127.0.0.1:1 - "POST /v1/x?CUDA out of memory HTTP/1.1" 404',
    ],
)
def test_routine_lines_are_no_cause(line: str) -> None:
    """Warnings of every start, and words of requests, explain no failure."""
    assert cause_of([line]) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def test_dangling_link_is_a_missing_shard(folder: Path) -> None:
    """A link into a cleaned cache is named as missing."""
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to("/nowhere")
    assert problems_of(folder) == [f"{weights}: missing"]


@pytest.mark.parametrize(
    "index",
    ["{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": null}}', '{"weight_map": {"a": [1]}}'],
)
def test_index_that_names_no_files(folder: Path, index: str) -> None:
    """A broken index is not an empty one that is complete."""
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(index)
    assert problems_of(folder) == [f"{folder / INDEX}: does not say which file holds which weight"]


def test_header_with_text_for_numbers(folder: Path) -> None:
    """A header that is JSON but no header is said to be unreadable."""
    header = json.dumps({"a": {"data_offsets": ["0", "5"]}}).encode()
    weights = folder / "model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    assert problems_of(folder) == [f"{weights}: its header cannot be read"]


@pytest.mark.parametrize(
    "auto_map",
    [
        {"AutoConfig": "configuration_step_vl.A", "X": ["configuration_step_vl.B", None]},
        {"AutoConfig": "other/repository--configuration.A"},
        ["x"],
    ],
)
def test_auto_map_of_every_form(folder: Path, auto_map: Any) -> None:
    """References in lists, to other repositories, or none at all: no false alarm."""
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    assert problems_of(folder) == []


def test_config_that_is_a_folder(folder: Path) -> None:
    """Something of the right name but the wrong kind is missing all the same."""
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert problems_of(folder) == [f"{folder / 'config.json'}: missing"]


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_host_that_is_no_name(host: str) -> None:
    """What cannot even be asked for is no address of this machine."""
    assert listen_problem(host, 8123) == f"{host!r} is not an address of this machine"


def test_binary_rubbish_is_overwritten(tmp_path: Path) -> None:
    """A file that is not text differs from what we write."""
    path = tmp_path / "x"
    path.write_bytes(b"\xff")
    assert write_if_changed(RenderedFile(path, "a")) is True
    assert path.read_text() == "a"


def test_installed_script_follows_a_moved_checkout(home: Path, tmp_path: Path) -> None:
    """Only the OPTIONS of an earlier installation are kept, not its path."""
    root = tmp_path / "machine"
    root.mkdir()
    system_install.install(DEMO.path, root, dry_run=False)
    script = root / system_install.SCRIPT
    script.write_text(script.read_text().replace(str(ROOT), "/old/place"))
    system_install.install(DEMO.path, root, dry_run=False)
    assert "/old/place" not in script.read_text()
