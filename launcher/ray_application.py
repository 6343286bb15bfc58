"""What the YAML says, as the application of Ray Serve that serves the same: one pure step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from launcher.config import DeployConfig

IMPORT_PATH = "ray.serve.llm:build_openai_app"
NAME = "step3vl"

# Of the options that the launcher sets for vLLM, those that Ray has keys of its own for.
RAYS_OWN = frozenset(
    {
        *("model", "served-model-name", "host", "port", "middleware"),
        *("shutdown-timeout", "disable-access-log-for-endpoints"),
    }
)
# The gateway has one.
NO_LIMIT = 1_000_000
# Serve looks this often whether a replica that stops still answers somebody.
STOP_POLL_S = 0.5


def application_arguments(
    config: DeployConfig,
    options: Mapping[str, JsonValue],
    environment: Mapping[str, str],
    *,
    on_cpu: bool,
) -> dict[str, Any]:
    """The arguments of :data:`IMPORT_PATH`.

    Args:
        options: of vLLM, those that the launcher sets and those of the YAML.
        environment: of vLLM.
        on_cpu: whether the engine computes on the CPU; Ray otherwise gives it cards.
    """
    llm: dict[str, Any] = {
        "model_loading_config": {
            "model_id": config.model.names[0],
            "model_source": options["model"],
        },
        "engine_kwargs": engine_kwargs(options),
        "deployment_config": {
            # A number of replicas switches autoscaling off.
            "num_replicas": config.engine.replicas,
            "graceful_shutdown_timeout_s": config.engine.stop_timeout_s,
            "graceful_shutdown_wait_loop_s": STOP_POLL_S,
        },
        "runtime_env": {"env_vars": variables_of_replicas(environment)},
        # Only Ray's own metrics agent would show them.
        "log_engine_metrics": False,
    }
    if on_cpu:
        llm["accelerator_config"] = {"kind": "cpu"}
        llm["placement_group_config"] = {"bundles": [{"CPU": 1}]}
        # Otherwise a second core is taken for what only waits for the engine.
        llm["deployment_config"]["ray_actor_options"] = {"num_cpus": 0}
    return {
        "llm_configs": [llm],
        # It only passes requests on, and must find a place on a machine with one core too.
        "ingress_deployment_config": {
            "num_replicas": 1,
            "max_ongoing_requests": NO_LIMIT,
            "ray_actor_options": {"num_cpus": 0},
        },
    }


def variables_of_replicas(environment: Mapping[str, str]) -> dict[str, str]:
    """Without Ray's own, which are of the machine that starts the application."""
    return {name: text for name, text in environment.items() if not name.startswith("RAY_")}


def engine_kwargs(options: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Options of the command line as arguments of vLLM's engine: ``no-x: true`` is ``x: false``,
    and ``a.b`` is a map. Those without a value are left out, as there."""
    arguments: dict[str, Any] = {}
    for key, value in options.items():
        if key in RAYS_OWN or value is None:
            continue
        *path, last = key.lower().replace("-", "_").split(".")
        place = arguments
        for name in path:
            place[name] = {**place.get(name, {})}
            place = place[name]
        if isinstance(value, bool) and last.startswith("no_"):
            place[last.removeprefix("no_")] = not value
        else:
            place[last] = value
    return arguments
