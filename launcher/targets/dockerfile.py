"""A Dockerfile with two images: the whole service, and the WebUI alone for Kubernetes."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex

from launcher.paths import ROOT
from launcher.render import RenderedFile
from launcher.targets import image
from launcher.targets.deployment import Deployment, seen_from_checkout
from launcher.targets.templates import mark, template

# The WebUI and the engine for the CPU need no more than a Python.
PYTHON_IMAGE = "python:3.12-slim"
# Shared memory, through which the workers of several cards speak; docker's own default is 64 MB.
SHM_GIB = 8

INSTALL_NUMA = """\
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 \\
    && rm -rf /var/lib/apt/lists/*
"""
# One more step of the installation: it fails where pip has put another engine over the image's.
KEEP_ENGINE = """\
    && test -z "$(find .venv/lib -path '*/site-packages/vllm' -o -path '*/site-packages/torch')" \\
"""
REPAIR_WHEELS = """\
    && .venv/bin/python -P -m launcher.wheels \\
"""
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def _stage(name: str, base: str, extra: str = "", **more: str) -> str:
    """One image: this package in an environment over what its base has."""
    values = {"packages": "", "index": "", "check": ""} | more
    return template("stage.Dockerfile").substitute(
        values,
        stage=name,
        base=base,
        extra=extra,
        root=image.CHECKOUT,
        home=image.HOME,
        user=image.USER_ID,
        copies="\n".join(f"COPY {folder} ./{folder}" for folder in image.FOLDERS),
        files=" ".join(image.FILES),
    )


def _service_stage(deployment: Deployment) -> str:
    if deployment.on_cpu:
        return _stage(
            "service",
            PYTHON_IMAGE,
            extra="[cpu]",
            packages=INSTALL_NUMA,
            index=f" {CPU_INDEX}",
            check=REPAIR_WHEELS,
        )
    base = f"vllm/vllm-openai:v{image.engine_version()}"
    return _stage("service", base, extra="[gpu]", check=KEEP_ENGINE)


def ready_command(port: int) -> list[str]:
    """Whether the whole service answers; the images have no curl for certain."""
    ask = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/readyz', timeout=4)"
    return [str(image.PYTHON), "-c", ask]


def start_seconds(deployment: Deployment) -> int:
    """How long a start may take, in whole seconds."""
    return math.ceil(deployment.config.engine.start_timeout_s)


def check_own_engine(deployment: Deployment) -> None:
    """Refuse a YAML whose engine is a program that no image has, and one for several machines.

    Raises:
        ConfigError: saying so.
    """
    if deployment.config.engine.command is not None:
        raise deployment.refuse(
            "engine.command", "a container runs its image's vLLM; leave the key out for this target"
        )
    if deployment.config.cluster.nodes:
        raise deployment.refuse(
            "cluster.nodes", "a container has no address of its own there; write engine.replicas"
        )


def _run_command(deployment: Deployment) -> str:
    """``docker run`` with all that the image needs from outside."""
    config, address = deployment.config, image.published_on(deployment)
    host = f"[{address}]" if address.version == 6 else str(address)
    words = ["docker", "run", "--detach", "--init", "--name", "step3vl"]
    words += [] if deployment.on_cpu else ["--gpus", "all"]
    words += ["--shm-size", f"{SHM_GIB}g", "--stop-timeout", str(config.stop_grace_s)]
    words += ["--publish", f"{host}:{config.webui.port}:{config.webui.port}"]
    words += ["--volume", f"step3vl:{image.HOME}"]
    for mount in image.mounts(deployment):
        if not mount.source.is_relative_to(ROOT / "deploy"):  # which the image has
            words += ["--mount", _mount(mount)]
    return shlex.join([*words, f"step3vl:{image.package_version()}"])


def _keys_command() -> str:
    """Makes a key before the first start too: where one is required, there is none without."""
    volume, tag = f"step3vl:{image.HOME}", f"step3vl:{image.package_version()}"
    words = ["docker", "run", "--rm", "--volume", volume, "--entrypoint", "step3vl", tag]
    return shlex.join([*words, "keys", "add", "NAME"])


def _mount(mount: image.Mount) -> str:
    """As docker reads it: a line of comma-separated values."""
    line = io.StringIO()
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}", "readonly"]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def dockerfile(deployment: Deployment) -> list[RenderedFile]:
    """The Dockerfile, and what of the checkout its build gets to see.

    Raises:
        ConfigError: no image can run what the YAML says.
    """
    check_own_engine(deployment)
    config, path = deployment.config, deployment.out / "Dockerfile"
    content = template("Dockerfile").substitute(
        mark=mark("docker"),
        build=shlex.join(["docker", "build", "--file", seen_from_checkout(path)]),
        run=_run_command(deployment),
        keys=_keys_command(),
        version=image.package_version(),
        webui=_stage("webui", PYTHON_IMAGE),
        service=_service_stage(deployment),
        python=image.PYTHON,
        home=image.HOME,
        port=config.webui.port,
        start=start_seconds(deployment),
        ready=json.dumps(ready_command(config.webui.port)),
        command=json.dumps([str(image.COMMAND), "up", "--foreground"]),
        arguments=json.dumps(["--config", str(image.config_in_image(deployment))]),
    )
    seen_by_build = ["*", *(f"!{name}" for name in (*image.FILES, *image.FOLDERS))]
    ignore = "\n".join([f"# {mark('docker')}", *seen_by_build, "**/__pycache__", ""])
    return [
        RenderedFile(path, content, 0o644),
        RenderedFile(path.with_name("Dockerfile.dockerignore"), ignore, 0o644),
    ]
