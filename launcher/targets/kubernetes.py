"""Kubernetes manifests for the WebUI and its API, over the router of the vLLM production stack."""

from __future__ import annotations

import hashlib
from typing import Any

from launcher.leftovers import TAG
from launcher.preflight import is_secret_name
from launcher.programs import Process, webui_process
from launcher.render import RenderedFile
from launcher.targets import image
from launcher.targets.deployment import Deployment
from launcher.targets.dockerfile import check_own_engine, start_seconds
from launcher.targets.templates import mark
from launcher.targets.vllm_stack import PROBE_PERIOD_S, ROUTER_URL, vllm_stack
from launcher.targets.yaml_document import without_variables, yaml_text

NAME = "step3vl-webui"
LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "step3vl"}
FILE = "webui.yaml"
# Holds api-keys.json as `launch keys add` writes it; made by hand, and nowhere in the files.
KEYS_SECRET = "step3vl-keys"  # noqa: S105  (its name)
KEYS_FOLDER = "/etc/step3vl/keys"
CONFIG_FOLDER = "/etc/step3vl/config"
ALL_INTERFACES = "0.0.0.0"  # noqa: S104  (in a pod; the Service decides who reaches it)
# Until every node has heard that the pod takes no more connections.
LEAVE_S = 5
KEPT_GIB = 10


def kubernetes(deployment: Deployment) -> list[RenderedFile]:
    """The WebUI's manifests, and the values of the chart that runs the engines.

    Raises:
        ConfigError: the YAML needs something that a cluster does not have.
    """
    _check(deployment)
    header = [
        mark("k8s"),
        "",
        "Build the image (target `webui` of deploy/docker/Dockerfile), push it, name it below:",
        f"  kubectl apply --filename {FILE}",
        f"  kubectl port-forward service/{NAME} {deployment.config.webui.port}",
        "For keys, `launch keys add NAME` on a machine of yours, and the file it writes:",
        f"  kubectl create secret generic {KEYS_SECRET} --from-file=run/api-keys.json",
    ]
    documents = (_config_map(deployment), _claim(), _service(deployment), _workload(deployment))
    content = yaml_text(header, *documents)
    return [RenderedFile(deployment.out / FILE, content, 0o644), *vllm_stack(deployment)]


def _check(deployment: Deployment) -> None:
    check_own_engine(deployment)
    config = deployment.config
    if deployment.on_cpu:
        raise deployment.refuse("engine.environment", "a YAML for the CPU; use compose for that")
    if config.model.folder is not None:
        raise deployment.refuse(
            "model.folder", "a folder of this machine, which no pod has; write model.hub_id"
        )
    if config.webui.batch_folder:
        raise deployment.refuse("webui.batch_folder", "a folder of this machine, which no pod has")
    if secret := [name for name in config.engine.options if is_secret_name(name)]:
        raise deployment.refuse(
            f"engine.options.{secret[0]}",
            "a secret, which no rendered file may hold; write a variable under engine.environment",
        )


def _meta(**more: Any) -> dict[str, Any]:
    return {"name": NAME, "labels": LABELS, **more}


def config_text(deployment: Deployment) -> str:
    """The YAML without its defaults and without its secrets."""
    document = deployment.config.model_dump(mode="json", exclude_defaults=True)
    for name in deployment.secrets:
        del document["engine"]["environment"][name]
    return yaml_text([], document)


def _config_map(deployment: Deployment) -> dict[str, Any]:
    """What all of this is made from, to be looked up in the pod."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta(),
        "data": {"step3vl.yaml": config_text(deployment)},
    }


def _claim() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{KEPT_GIB}Gi"}},
        },
    }


def _service(deployment: Deployment) -> dict[str, Any]:
    port = {"name": "http", "port": deployment.config.webui.port, "targetPort": "http"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(),
        "spec": {"type": "ClusterIP", "selector": LABELS, "ports": [port]},
    }


def _workload(deployment: Deployment) -> dict[str, Any]:
    stamp = hashlib.sha256(config_text(deployment).encode()).hexdigest()
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(),
        "spec": {
            # One, because conversations lie on a volume that one pod has at a time.
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": LABELS},
            "template": {
                # Another YAML makes another pod.
                "metadata": {"labels": LABELS, "annotations": {"step3vl/config-sha256": stamp}},
                "spec": _pod(deployment),
            },
        },
    }


def _pod(deployment: Deployment) -> dict[str, Any]:
    keys = {"secretName": KEYS_SECRET, "optional": not deployment.config.webui.require_keys}
    return {
        "terminationGracePeriodSeconds": deployment.config.stop_grace_s + LEAVE_S,
        "automountServiceAccountToken": False,
        # Kubernetes would add a variable for every Service, some with our names.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": image.USER_ID,
            "runAsGroup": image.USER_ID,
            "fsGroup": image.USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(deployment)],
        "volumes": [
            {"name": "run", "persistentVolumeClaim": {"claimName": NAME}},
            {"name": "config", "configMap": {"name": NAME}},
            {"name": "keys", "secret": keys},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        ],
    }


def webui_settings(deployment: Deployment) -> Process:
    """What the launcher would start here, but for the engine, which is the stack's router."""
    config, path = deployment.config, deployment.config_path
    port, paths = config.webui.port, image.paths_in_image()
    process = webui_process(config, path, paths, ALL_INTERFACES, port)
    elsewhere = {
        "WEBUI_UPSTREAM": ROUTER_URL,
        "WEBUI_SESSIONS": "1",
        # Written by an engine's parent and by the router's, which no pod here has.
        "WEBUI_ENGINE_STATE": "",
        "WEBUI_REPLICAS": "",
        "WEBUI_KEYS_FILE": f"{KEYS_FOLDER}/{paths.keys.name}",
    }
    env = {name: value for name, value in process.env.items() if name != TAG} | elsewhere
    return Process((str(image.PYTHON), *process.argv[1:]), env)


def _container(deployment: Deployment) -> dict[str, Any]:
    process = webui_settings(deployment)
    env = [{"name": n, "value": without_variables(v)} for n, v in process.env.items()]
    return {
        "name": "webui",
        "image": f"{NAME}:{image.package_version()}",
        "command": list(process.argv),
        "env": env,
        "ports": [{"name": "http", "containerPort": deployment.config.webui.port}],
        # Of the engines too, so a pod that waits for its model is not ended meanwhile.
        "startupProbe": _probe("/startupz", start_seconds(deployment)),
        "readinessProbe": _probe("/readyz", 2 * PROBE_PERIOD_S),
        "livenessProbe": _probe("/livez", 6 * PROBE_PERIOD_S),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_S)]}}},
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi"},
            "limits": {"memory": "2Gi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "run", "mountPath": str(image.paths_in_image().run)},
            {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            {"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (in the pod)
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _probe(path: str, patience_s: int) -> dict[str, Any]:
    """One that gives up after so many seconds."""
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": PROBE_PERIOD_S,
        "timeoutSeconds": 5,
        "failureThreshold": max(1, -(-patience_s // PROBE_PERIOD_S)),
    }
