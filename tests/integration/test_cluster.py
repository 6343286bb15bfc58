"""A cluster of three machines: network namespaces with addresses of their own, the real router."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from networks import seen_in_own_network

PROGRAM = Path(__file__).with_name("cluster_network.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return seen_in_own_network(PROGRAM, tmp_path_factory.mktemp("cluster"), 280)


def test_each_machine_starts_its_part(seen: dict[str, Any]) -> None:
    assert seen["started"] == [0, 0, 0]
    assert seen["answers"] == [200] * 6
    assert seen["down"] == [0, 0, 0]


def test_an_unknown_machine_is_named(seen: dict[str, Any]) -> None:
    assert "cluster.nodes has no 'gpu9'; there are: head, gpu1, gpu2" in seen["unknown"]


def test_the_head_makes_the_key_and_the_others_ask_for_it(seen: dict[str, Any]) -> None:
    assert "copy it from the head" in seen["without key"]
    assert "copy it to the other machines" in seen["head"]


def test_a_machine_that_is_not_started_is_named(seen: dict[str, Any]) -> None:
    messages = {row["name"]: row["message"] for row in seen["waiting"]}
    for name in ("gpu1", "gpu2"):
        assert f"is not started: `launch up --node {name}` there" == messages[f"{name}/vllm-0"]


def test_a_key_that_others_can_read_is_refused(seen: dict[str, Any]) -> None:
    assert "can be read by others: chmod 600" in seen["open key"]


def test_a_machine_with_another_key_gets_nothing_and_is_named(seen: dict[str, Any]) -> None:
    """Its engine starts again with the key that its machine has now."""
    other = seen["other key"]
    assert other["up"] == 0
    assert other["answers"] == [200] * 4
    assert "has another key: copy cluster.key_file to gpu1" in other["status"]


def test_another_yaml_is_named_before_anything_starts(seen: dict[str, Any]) -> None:
    assert "head (10.9.0.1) was started with another YAML" in seen["another YAML"]


def test_without_the_key_nobody_gets_in(seen: dict[str, Any]) -> None:
    """The router listens on the head's 127.0.0.1 alone: what answers there is the agent."""
    doors = dict(seen["doors"])
    assert doors.pop("with the key") == 200
    assert doors.pop("state with the key") == 200
    assert {401} == set(doors.values()), doors


def test_a_rolling_restart_fails_nobody(seen: dict[str, Any]) -> None:
    rolling = seen["rolling"]
    assert rolling["code"] == 0, rolling["said"]
    assert "gpu1/vllm-0: restarted" in rolling["said"]
    assert "gpu2/vllm-0: restarted" in rolling["said"]
    assert {200} == set(rolling["statuses"])
    assert len(rolling["statuses"]) > 50


def test_a_machine_that_is_cut_off_is_missed_by_nobody_and_comes_back(
    seen: dict[str, Any],
) -> None:
    cut = seen["cut"]
    assert cut["without"] == [200] * 6
    assert "gpu1/vllm-0" in cut["status"]
    assert "gpu1 (10.9.0.2) cannot be reached" in cut["warned"]
    assert cut["again"] == [200] * 6


def test_the_status_shows_every_machine(seen: dict[str, Any]) -> None:
    others = {row["name"]: row["phase"] for row in seen["status"]["others"]}
    assert others == {"gpu1/vllm-0": "ready", "gpu2/vllm-0": "ready"}
    assert seen["status"]["ready"]
