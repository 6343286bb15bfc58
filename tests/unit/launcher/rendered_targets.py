"""Targets as tests render them, and what is read back from them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from support import ROOT

from launcher.config import DeployConfig, load_config
from launcher.render import RenderedFile
from launcher.targets.deployment import Deployment, Site
from launcher.targets.table import TARGETS

GPU_YAML = ROOT / "deploy" / "step3-vl-10b.yaml"
DEMO_YAML = ROOT / "deploy" / "demo.yaml"
ELSEWHERE = Site(Path("/opt/step3vl"), "step3vl")
OUT = ROOT / "deploy" / "anywhere"


def config_of(**sections: Any) -> DeployConfig:
    """For the 10 B model, with these sections."""
    return DeployConfig.model_validate({"model": {"hub_id": "stepfun-ai/Step3-VL-10B"}, **sections})


def render(
    target: str,
    config: DeployConfig,
    *,
    path: Path = GPU_YAML,
    out: Path = OUT,
    site: Site = ELSEWHERE,
) -> dict[str, str]:
    """Each file of a target by its name."""
    files: list[RenderedFile] = TARGETS[target].render(Deployment(config, path, out, site))
    assert all(file.path.parent == out for file in files)
    return {file.path.name: file.content for file in files}


def rendered_for_gpu(target: str) -> dict[str, str]:
    return render(target, load_config(GPU_YAML))


def expanded(value: Any) -> Any:
    """As compose and Kubernetes read it, where nothing is to be put in."""
    if isinstance(value, str):
        assert "$" not in value.replace("$$", ""), f"{value!r} would be expanded"
        return value.replace("$$", "$")
    if isinstance(value, dict):
        return {key: expanded(item) for key, item in value.items()}
    return [expanded(item) for item in value] if isinstance(value, list) else value


def compose_service(config: DeployConfig, **where: Any) -> dict[str, Any]:
    document = yaml.safe_load(render("compose", config, **where)["compose.yaml"])
    [service] = document["services"].values()
    return dict(expanded(service))


def workload(config: DeployConfig) -> dict[str, Any]:
    """The pod of the WebUI."""
    documents = yaml.safe_load_all(render("k8s", config)["webui.yaml"])
    [found] = [document for document in documents if document["kind"] == "Deployment"]
    return dict(found["spec"]["template"]["spec"])


def engine_values(config: DeployConfig) -> dict[str, Any]:
    """The one model of the production stack."""
    values = yaml.safe_load(render("k8s", config)["vllm-stack-values.yaml"])
    [model] = values["servingEngineSpec"]["modelSpec"]
    return dict(model)


def instruction(dockerfile: str, name: str) -> str:
    """The last one of this name in a Dockerfile, without its name."""
    return re.findall(rf"^{name} ((?:.*\\\n)*.*)$", dockerfile, re.MULTILINE)[-1]


def run_command(dockerfile: str) -> list[str]:
    """The words of the ``docker run`` that starts the service, as a shell splits them."""
    [line] = re.findall(r"^#   (docker run --detach .*)$", dockerfile, re.MULTILINE)
    return shlex.split(line)


def unit_setting(unit: str, name: str) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)
    return value


def unit_words(line: str) -> list[str]:
    """A command line as systemd reads it: quotes, backslashes, %%, and $$ but in the program."""
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    program, *words = (re.sub(r"\\(.)", r"\1", word.replace("%%", "%")) for word in quoted)
    return [program, *(word.replace("$$", "$") for word in words)]
