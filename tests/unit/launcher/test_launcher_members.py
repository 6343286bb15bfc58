"""launcher.members and launcher.layout: which engines there are, and which get requests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import DeployConfig
from launcher.layout import Replica, has_head, replicas_of, replicas_on, share_of
from launcher.members import Health, Member, together

NODES = [
    {"name": "head", "address": "10.0.0.1", "replicas": 0},
    {"name": "gpu1", "address": "10.0.0.2"},
    {"name": "gpu2", "address": "10.0.0.3", "replicas": 1},
]


def config_of(**sections: Any) -> DeployConfig:
    return DeployConfig.model_validate({"model": {"folder": "m"}, **sections})


def member(index: int = 0, **document: Any) -> Member:
    return Member(Replica(f"vllm-{index}", "", "127.0.0.1", 8001 + index, index), document=document)


def test_one_engine_has_the_port_of_the_yaml_and_no_router() -> None:
    config = config_of(engine={"port": 9000})
    assert [Replica("vllm", "", "127.0.0.1", 9000)] == replicas_of(config)
    assert not config.has_router


def test_replicas_have_the_ports_after_the_routers() -> None:
    found = replicas_of(config_of(engine={"port": 9000, "replicas": 2}))
    assert [one.url for one in found] == ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    assert [one.title for one in found] == ["vllm-0", "vllm-1"]


def test_each_machine_has_its_own_part() -> None:
    config = config_of(engine={"replicas": 2}, cluster={"nodes": NODES})
    assert replicas_on(config, "head") == []
    assert [one.host for one in replicas_on(config, "gpu1")] == ["10.0.0.2", "10.0.0.2"]
    assert [one.title for one in replicas_on(config, "gpu2")] == ["gpu2/vllm-0"]
    assert [has_head(config, node["name"]) for node in NODES] == [True, False, False]


@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 64))
def test_no_two_replicas_share_a_card_or_a_core(count: int, cards: int, cores: int) -> None:
    shares = [
        share_of(Replica(f"vllm-{i}", "", "h", 1, i), count, cards, range(cores), {})
        for i in range(count)
    ]
    chosen = [card for share in shares for card in share["CUDA_VISIBLE_DEVICES"].split(",")]
    assert sorted(set(chosen)) == sorted(chosen)
    assert count * cards == len(chosen)
    bound = [share.get("VLLM_CPU_OMP_THREADS_BIND") for share in shares]
    if cores < count:
        assert [None] * count == bound
    else:
        own = [core for cores_of_one in bound for core in str(cores_of_one).split(",")]
        assert [*map(str, range(cores))] == own


def test_cards_that_were_chosen_are_shared_out() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c,GPU-d"}
    found = share_of(Replica("vllm-1", "", "h", 1, 1), 2, 2, range(1), environ)
    assert found == {"CUDA_VISIBLE_DEVICES": "GPU-c,GPU-d"}


def test_alone_it_has_everything() -> None:
    assert share_of(Replica("vllm", "", "h", 1), 1, 1, range(4), {}) == {}


@pytest.mark.parametrize(
    ("answers", "well"),
    [
        ([True], True),
        ([False], False),
        ([None], False),
        ([True, None], True),
        ([True, None, None], False),
        ([True, None, True, None], True),
        ([True, False], False),
        ([False, None], False),
    ],
)
def test_an_engine_is_well_until_it_refuses_or_is_silent_twice(
    answers: list[Health], well: bool
) -> None:
    one = member()
    for answer in answers:
        one.heard(answer)
    assert well is one.is_wanted("")


@pytest.mark.parametrize("phase", ["stalled", "stopping"])
def test_its_parent_may_know_better(phase: str) -> None:
    one = member(phase=phase)
    one.heard(health=True)
    assert not one.is_wanted("")


def test_one_that_is_drained_gets_nothing() -> None:
    one, other = member(0), member(1)
    for each in (one, other):
        each.heard(health=True)
    assert not one.is_wanted("vllm-0")
    assert other.is_wanted("vllm-0")


def test_together_they_are_ready_when_one_is() -> None:
    ready, loading = member(0), member(1, phase="loading", message="loading")
    ready.is_routed = True
    assert together([ready, loading]) == ("ready", "ready: 1 of 2 engines", {})
    loading.is_routed = True
    assert together([ready, loading]) == ("ready", "ready", {})


def test_until_then_the_one_that_is_furthest_speaks() -> None:
    shards = {"done": 1, "total": 2}
    failed = member(0, phase="failed", message="out of memory", cause={"code": "x"})
    loading = member(1, phase="loading", message="loading weights", shards=shards)
    told = together([failed, loading])
    assert ("loading", "vllm-1: loading weights", {"shards": shards}) == told
    told = together([failed])
    assert told == ("failed", "vllm-0: out of memory", {"cause": {"code": "x"}})


def test_a_parent_that_says_ready_is_not_believed_before_its_engine_answers() -> None:
    assert together([member(phase="ready")]) == ("waiting", "vllm-0: does not answer", {})
