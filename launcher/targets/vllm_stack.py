"""Values for the vLLM production stack: the engines, and the router before them."""

from __future__ import annotations

from typing import Any

from launcher.config import ENGINE_STOP_MARGIN_S, DeployConfig
from launcher.layout import ENGINE, LOOPBACK, Replica
from launcher.leftovers import TAG
from launcher.planning import with_weights
from launcher.programs import engine_process, serving_arguments, workers_of
from launcher.render import RenderedFile
from launcher.targets import image
from launcher.targets.deployment import Deployment
from launcher.targets.dockerfile import SHM_GIB, start_seconds
from launcher.targets.templates import mark
from launcher.targets.yaml_document import without_variables, yaml_text

# The release's name is part of the router's address.
RELEASE = "vllm-stack"
ROUTER_URL = f"http://{RELEASE}-router-service:80"
FILE = "vllm-stack-values.yaml"
# Holds what the YAML calls a secret; made by hand, and nowhere in the files.
ENGINE_SECRET = "step3vl-engine"  # noqa: S105  (its name)
# By which the gateway names a conversation.
SESSION_HEADER = "x-session-id"
PROBE_PERIOD_S = 10
WEIGHTS_GIB = 60
# When Kubernetes kills a pod that says nothing about it; the chart has no key for that.
POD_STOP_S = 30


def vllm_stack(deployment: Deployment) -> list[RenderedFile]:
    """The values file for ``helm install``."""
    document = {
        "servingEngineSpec": {
            "runtimeClassName": "",
            "imagePullPolicy": "IfNotPresent",
            "startupProbe": _startup_probe(deployment),
            "modelSpec": [_model(deployment)],
        },
        # Turn by turn of a conversation to the same engine, which has its pictures already.
        "routerSpec": {
            "routingLogic": "session",
            "sessionKey": SESSION_HEADER,
            "imagePullPolicy": "IfNotPresent",
        },
    }
    header = [
        mark("k8s"),
        "",
        "  helm repo add vllm https://vllm-project.github.io/production-stack",
        f"  helm install {RELEASE} vllm/vllm-stack --values {FILE}",
        "",
        "Nothing is planned for the cluster's cards: what `launch plan --gpu NAME` says of options",
        "belongs into the YAML before this is rendered.",
        f"The chart gives an engine {POD_STOP_S} s to stop, whatever engine.stop_timeout_s says.",
        *_secrets_to_make(deployment),
    ]
    return [RenderedFile(deployment.out / FILE, yaml_text(header, document), 0o644)]


def _secrets_to_make(deployment: Deployment) -> list[str]:
    names = " ".join(f"--from-literal={name}=..." for name in deployment.secrets)
    return ["", f"  kubectl create secret generic {ENGINE_SECRET} {names}"] if names else []


def _model(deployment: Deployment) -> dict[str, Any]:
    config = _as_the_chart_runs_it(deployment.config)
    return {
        "name": "step3vl",
        "repository": "vllm/vllm-openai",
        "tag": f"v{image.engine_version()}",
        "modelURL": config.model.hub_id,
        "replicaCount": config.engine.replicas,
        "requestCPU": 4,
        "requestMemory": "16Gi",
        "requestGPU": workers_of(config),
        "pvcStorage": f"{WEIGHTS_GIB}Gi",
        "pvcAccessMode": ["ReadWriteOnce"],
        "shmSize": f"{SHM_GIB}Gi",
        "vllmConfig": {
            "enablePrefixCaching": True,  # the chart switches it off where nothing is said
            # With this key the chart mounts shared memory.
            "tensorParallelSize": workers_of(config, ["tensor"]),
            "extraArgs": without_variables(serving_arguments(config)),
        },
        "env": _environment(deployment, config),
    }


def _as_the_chart_runs_it(config: DeployConfig) -> DeployConfig:
    """With the checkpoint of the wanted weights, and a stop that ends before the pod is killed."""
    config = with_weights(config, config.model.weights)
    most = POD_STOP_S - 2 * ENGINE_STOP_MARGIN_S
    stop = {"stop_timeout_s": min(config.engine.stop_timeout_s, most)}
    return config.model_copy(update={"engine": config.engine.model_copy(update=stop)})


def _environment(deployment: Deployment, config: DeployConfig) -> list[dict[str, Any]]:
    """The engine's own variables as everywhere; what is a secret by reference only."""
    # Alone in its pod, however many there are.
    alone = Replica(ENGINE, "", LOOPBACK, config.engine.port)
    process = engine_process(config, deployment.config_path, image.paths_in_image(), alone)
    plain = {n: v for n, v in process.env.items() if n != TAG and n not in deployment.secrets}
    return [
        *({"name": name, "value": without_variables(value)} for name, value in plain.items()),
        *({"name": name, "valueFrom": _from_secret(name)} for name in deployment.secrets),
    ]


def _from_secret(name: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": ENGINE_SECRET, "key": name, "optional": True}}


def _startup_probe(deployment: Deployment) -> dict[str, Any]:
    """For as long as a start may take; the chart's own gives up after ten minutes."""
    return {
        "initialDelaySeconds": PROBE_PERIOD_S,
        "periodSeconds": PROBE_PERIOD_S,
        "failureThreshold": max(1, -(-start_seconds(deployment) // PROBE_PERIOD_S)),
        "httpGet": {"path": "/health", "port": 8000},
    }
