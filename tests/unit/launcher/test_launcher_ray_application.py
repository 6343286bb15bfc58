"""launcher.ray_application: the YAML in the words of Ray Serve's LLM applications."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.config import DeployConfig
from launcher.ray_application import application_arguments, engine_kwargs


def config_of(**sections: Any) -> DeployConfig:
    return DeployConfig.model_validate({"model": {"folder": "m", "names": ["a", "b"]}, **sections})


def llm_of(*, on_cpu: bool = True, env: dict[str, str] | None = None, **sections: Any) -> Any:
    found = application_arguments(config_of(**sections), {"model": "/m"}, env or {}, on_cpu=on_cpu)
    [llm] = found["llm_configs"]
    return llm


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max-model-len": 8192}, {"max_model_len": 8192}),
        ({"Enforce_Eager": True}, {"enforce_eager": True}),
        ({"enable-prefix-caching": False}, {"enable_prefix_caching": False}),
        ({"no-enable-prefix-caching": True}, {"enable_prefix_caching": False}),
        ({"no-x": "text"}, {"no_x": "text"}),
        ({"quantization": None}, {}),
        ({"limit-mm-per-prompt": {"image": 4}}, {"limit_mm_per_prompt": {"image": 4}}),
        ({"a-b.c-d": 1, "a-b.e.f": 2}, {"a_b": {"c_d": 1, "e": {"f": 2}}}),
        ({"a": {"b": 1}, "a.c": 2}, {"a": {"b": 1, "c": 2}}),
        ({"model": "m", "port": 1, "host": "h", "served-model-name": ["a"]}, {}),
    ],
)
def test_options_become_arguments(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert engine_kwargs(options) == expected


def test_the_yaml_itself_is_left_alone() -> None:
    options: dict[str, Any] = {"a": {"b": 1}, "a.c": 2}
    engine_kwargs(options)
    assert options == {"a": {"b": 1}, "a.c": 2}


def test_the_first_name_is_the_one_that_ray_knows() -> None:
    assert llm_of()["model_loading_config"] == {"model_id": "a", "model_source": "/m"}


def test_replicas_are_rays() -> None:
    deployment = llm_of(engine={"replicas": 3, "stop_timeout_s": 7.0})["deployment_config"]
    assert deployment["num_replicas"] == 3
    assert deployment["graceful_shutdown_timeout_s"] == 7


def test_on_the_cpu_each_replica_has_one_place() -> None:
    """Ray would ask for a second core for what waits for the engine, and for a card."""
    llm = llm_of()
    assert llm["accelerator_config"] == {"kind": "cpu"}
    assert llm["placement_group_config"] == {"bundles": [{"CPU": 1}]}
    assert llm["deployment_config"]["ray_actor_options"] == {"num_cpus": 0}


def test_cards_are_given_out_by_ray() -> None:
    """By tensor and pipeline parallel size, which it finds among the arguments."""
    llm = llm_of(on_cpu=False)
    assert "accelerator_config" not in llm
    assert "placement_group_config" not in llm


def test_rays_own_variables_do_not_reach_the_replicas() -> None:
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "RAY_ADDRESS": "10.0.0.1:6379"}
    assert llm_of(env=env)["runtime_env"] == {"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
