"""A compose file: the image of the Dockerfile beside it, with what it needs from outside."""

from __future__ import annotations

import shlex
from typing import Any

from launcher.paths import ROOT
from launcher.render import RenderedFile
from launcher.targets import image
from launcher.targets.deployment import Deployment, seen_from_checkout
from launcher.targets.dockerfile import (
    SHM_GIB,
    dockerfile,
    ready_command,
    start_seconds,
)
from launcher.targets.templates import mark
from launcher.targets.yaml_document import without_variables, yaml_text

NAME = "step3vl"


def compose(deployment: Deployment) -> list[RenderedFile]:
    """The compose file and its Dockerfile.

    Raises:
        ConfigError: no container can run what the YAML says.
    """
    files = dockerfile(deployment)
    document = {"name": NAME, "services": {NAME: _service(deployment)}, "volumes": {NAME: {}}}
    path = deployment.out / "compose.yaml"
    command = shlex.join(["docker", "compose", "--file", seen_from_checkout(path)])
    header = [
        mark("compose"),
        "",
        "From the folder of this project:",
        f"  {command} build",
        f"  {command} run --rm --entrypoint step3vl {NAME} keys add NAME",
        f"  {command} up --detach",
        f"  {command} exec {NAME} step3vl status",
    ]
    content = yaml_text(header, without_variables(document))
    return [*files, RenderedFile(path, content, 0o644)]


def _service(deployment: Deployment) -> dict[str, Any]:
    config = deployment.config
    service: dict[str, Any] = {
        "image": f"{NAME}:{image.package_version()}",
        "build": {
            "context": deployment.seen_from_out(ROOT),
            # Which compose looks for from the context on.
            "dockerfile": seen_from_checkout(deployment.out / "Dockerfile"),
            "target": "service",
        },
        "command": ["--config", str(image.config_in_image(deployment))],
        "init": True,
        "restart": "unless-stopped",
        "ports": [_port(deployment)],
        "volumes": _volumes(deployment),
        "shm_size": f"{SHM_GIB}gb",
        # Pinned memory for copies to the card, and a file for each connection.
        "ulimits": {"memlock": -1, "nofile": {"soft": 65536, "hard": 65536}},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "healthcheck": {
            "test": ["CMD", *ready_command(config.webui.port)],
            "interval": "15s",
            "timeout": "5s",
            "retries": 4,
            "start_period": f"{start_seconds(deployment)}s",
        },
        "stop_signal": "SIGTERM",
        "stop_grace_period": f"{config.stop_grace_s}s",
    }
    if not deployment.on_cpu:
        cards = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [cards]}}}
    return service


def _port(deployment: Deployment) -> dict[str, Any]:
    """The WebUI's, on the address that the YAML names."""
    port, address = deployment.config.webui.port, image.published_on(deployment)
    return {"target": port, "published": str(port), "host_ip": str(address)}


def _volumes(deployment: Deployment) -> list[dict[str, Any]]:
    kept = {"type": "volume", "source": NAME, "target": str(image.HOME)}
    return [kept, *(_bind(deployment, mount) for mount in image.mounts(deployment))]


def _bind(deployment: Deployment, mount: image.Mount) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": deployment.seen_from_out(mount.source),
        "target": str(mount.target),
        "read_only": True,
        "bind": {"create_host_path": False},
    }
