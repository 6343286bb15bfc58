"""launcher.backends: which program is the engine, and what `up --backend` leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher import backends
from launcher.backends import check_backend, with_backend
from launcher.config import DeployConfig, load_config
from launcher.errors import ConfigError, LauncherError
from launcher.layout import replicas_of
from launcher.lifecycle import write_files
from launcher.paths import Paths

YAML = "model: {{folder: m}}\nengine: {{backend: {backend}, replicas: 2}}\n"


def config_of(backend: str = "vllm", **sections: Any) -> DeployConfig:
    engine = {"backend": backend, **sections.pop("engine", {})}
    return DeployConfig.model_validate({"model": {"folder": "m"}, "engine": engine, **sections})


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(etc=tmp_path / "etc", run=tmp_path / "run")


def test_the_yaml_decides_where_nothing_else_does(paths: Paths) -> None:
    assert with_backend(config_of("ray"), paths).engine.backend == "ray"


def test_the_command_line_counts_more(paths: Paths) -> None:
    assert with_backend(config_of("ray"), paths, "vllm").engine.backend == "vllm"


def test_nothing_else_of_the_yaml_changes(paths: Paths) -> None:
    task = {"name": "count", "title": {"en": "Count", "zh": "数"}, "prompt": "How many?"}
    config = config_of(
        engine={"options": {"max-num-seqs": 1}}, webui={"tasks": [task], "thinking": "off"}
    )
    ray = with_backend(config, paths, "ray")
    assert ray.model_dump() == config.model_dump() | {"engine": ray.engine.model_dump()}


def test_up_notes_what_differs_from_the_yaml_and_forgets_it(paths: Paths, tmp_path: Path) -> None:
    """Otherwise a change in the YAML would have no effect for ever."""
    file = tmp_path / "deploy.yaml"
    file.write_text(YAML.format(backend="vllm"))
    plain = load_config(file)
    write_files(with_backend(plain, paths, "ray"), file, paths, "")
    assert with_backend(plain, paths).engine.backend == "ray"
    write_files(with_backend(plain, paths, "vllm"), file, paths, "")
    assert with_backend(plain, paths).engine.backend == "vllm"
    file.write_text(YAML.format(backend="ray"))
    assert with_backend(load_config(file), paths).engine.backend == "ray"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"cluster": {"nodes": [{"name": "a", "address": "10.0.0.1"}]}}, "cluster.nodes"),
        ({"engine": {"options": {"data_parallel_size": 2}}}, "engine.replicas"),
        ({"model": {"folder": "m", "names": ["a:b"]}}, "colon"),
    ],
)
def test_what_ray_cannot_do_is_refused(sections: dict[str, Any], words: str, paths: Paths) -> None:
    config = config_of(**sections)
    with pytest.raises(ConfigError, match=words):
        with_backend(config, paths, "ray")


def test_ray_has_a_router_of_its_own() -> None:
    config = config_of("ray", engine={"replicas": 3})
    assert not config.has_router
    assert [replica.name for replica in replicas_of(config)] == ["vllm"]
    assert config.last_port == config.engine.port


def test_where_ray_is_not_installed_it_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _name: None)
    with pytest.raises(LauncherError, match=r"pip install --editable '.*\[ray\]'") as caught:
        check_backend(config_of("ray"))
    assert "\n" not in str(caught.value)
    check_backend(config_of("vllm"))
