"""launcher.nodes: which machine of a cluster this is."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.config import DeployConfig
from launcher.errors import ConfigError
from launcher.nodes import node_here
from launcher.paths import Paths

NODES = [{"name": "head", "address": "10.0.0.1"}, {"name": "gpu1", "address": "10.0.0.2"}]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "run").mkdir()
    return Paths(etc=tmp_path / "etc", run=tmp_path / "run")


def config_of(nodes: list[dict[str, str]]) -> DeployConfig:
    return DeployConfig.model_validate({"model": {"folder": "m"}, "cluster": {"nodes": nodes}})


def test_without_a_cluster_it_has_no_name(paths: Paths) -> None:
    assert node_here(config_of([]), paths) == ""


def test_its_address_tells(paths: Paths) -> None:
    assert node_here(config_of(NODES), paths, None, lambda: {"127.0.0.1", "10.0.0.2"}) == "gpu1"


def test_what_up_has_noted_counts_more(paths: Paths) -> None:
    paths.node.write_text("head")
    assert node_here(config_of(NODES), paths, None, lambda: {"10.0.0.2"}) == "head"


def test_a_name_that_is_no_longer_listed_does_not(paths: Paths) -> None:
    paths.node.write_text("gone")
    assert node_here(config_of(NODES), paths, None, lambda: {"10.0.0.2"}) == "gpu1"


def test_the_command_line_counts_most(paths: Paths) -> None:
    paths.node.write_text("head")
    assert node_here(config_of(NODES), paths, "gpu1", lambda: {"10.0.0.1"}) == "gpu1"


@pytest.mark.parametrize("addresses", [set(), {"10.0.0.1", "10.0.0.2"}])
def test_where_it_cannot_be_told_all_are_named(paths: Paths, addresses: set[str]) -> None:
    with pytest.raises(ConfigError, match=r"--node NAME`, of: head \(10.0.0.1\), gpu1 \(10.0.0.2"):
        node_here(config_of(NODES), paths, None, lambda: addresses)


def test_an_unknown_one_is_refused(paths: Paths) -> None:
    with pytest.raises(ConfigError, match=r"no .gpu7.; there are: head, gpu1"):
        node_here(config_of(NODES), paths, "gpu7")
    with pytest.raises(ConfigError, match=r"--node gpu7: cluster\.nodes lists no machines"):
        node_here(config_of([]), paths, "gpu7")
