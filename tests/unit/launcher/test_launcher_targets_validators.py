"""launcher.targets, as the tools that read the files see them: hadolint, systemd, JSON schemas.

Each of them is shown a broken copy too, so that a validator that looks at nothing is noticed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, validators
from rendered_targets import DEMO_YAML, GPU_YAML, config_of, render
from support import ROOT

from launcher.config import DeployConfig, load_config
from launcher.targets.deployment import Site
from launcher.testing import ensure_tool

HERE = Path(__file__).parent
KUBERNETES = "1.37.0"
ODD = config_of(
    model={"hub_id": "a/b", "names": ["x:y", "1e3"], "notice": 'it\'s $5: "yes"\n# no'},
    engine={"environment": {"HF_TOKEN": "x", "A": "$(B)"}, "stop_timeout_s": 1.5},
    webui={"require_keys": True, "port": 1, "host": "::1"},
    service={"stop_limit_s": 100.5},
)
CONFIGS = {"gpu": (load_config(GPU_YAML), GPU_YAML), "odd": (ODD, Path("/srv/a b/it's 5$ %.yaml"))}
WITH_DEMO = CONFIGS | {"demo": (load_config(DEMO_YAML), DEMO_YAML)}

Shown = tuple[DeployConfig, Path]
any_config = pytest.mark.parametrize("shown", CONFIGS.values(), ids=CONFIGS)
any_config_and_demo = pytest.mark.parametrize("shown", WITH_DEMO.values(), ids=WITH_DEMO)


def broken(text: str, old: str, new: str) -> str:
    """A copy with one thing changed, which must be there."""
    changed, count = re.subn(old, new, text, count=1, flags=re.MULTILINE)
    assert count == 1, f"{old!r} is not there"
    return changed


def hadolint(text: str, folder: Path) -> str:
    """What it objects to; its own exit code says whether there is anything."""
    path = folder / "Dockerfile"
    path.write_text(text)
    program = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([program, path], capture_output=True, text=True, check=False)
    assert bool(found.returncode) == bool(found.stdout), found.stderr
    return found.stdout


@any_config_and_demo
def test_hadolint_likes_the_dockerfile(shown: Shown, tmp_path: Path) -> None:
    """Every rule of it, the informal ones too."""
    config, path = shown
    assert hadolint(render("docker", config, path=path)["Dockerfile"], tmp_path) == ""


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (r"^STOPSIGNAL SIGTERM$", "STOPSIGNALL SIGTERM", "missing whitespace"),
        (r"^ENTRYPOINT \[.*$", "ENTRYPOINT step3vl up", "DL3025"),
        (r"^USER 10001$", "USER root", "DL3002|DL3066"),
        (r"^FROM vllm/vllm-openai:\S+", "FROM vllm/vllm-openai:latest", "DL3007"),
        (r"^FROM python:\S+", "FROM python", "DL3006"),
        (r"^EXPOSE \d+$", "EXPOSE 99999", "DL3011"),
    ],
)
def test_hadolint_sees_a_broken_dockerfile(old: str, new: str, rule: str, tmp_path: Path) -> None:
    text = broken(render("docker", load_config(GPU_YAML))["Dockerfile"], old, new)
    assert re.search(rule, hadolint(text, tmp_path))


def errors_of(schema: dict[str, Any], document: Any) -> list[str]:
    """In words, each with its path."""
    validator = validators.validator_for(schema)(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def compose_schema() -> dict[str, Any]:
    """That of the Compose specification, which comes with check-jsonschema."""
    folder = files("check_jsonschema") / "builtin_schemas" / "vendor"
    return dict(json.loads((folder / "compose-spec.json").read_text()))


@any_config_and_demo
def test_a_compose_file_is_one(shown: Shown) -> None:
    config, path = shown
    document = yaml.safe_load(render("compose", config, path=path)["compose.yaml"])
    assert errors_of(compose_schema(), document) == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("stop_grace_period:", "stop_grace:", "stop_grace"),
        ("^      - type: bind$", "      - kind: bind", "volumes"),
        ("restart: unless-stopped", "restart: [always]", "restart"),
        ("count: all", "count: [all]", "deploy"),
        ("^services:", "service:", "service"),
    ],
)
def test_a_broken_compose_file_is_none(old: str, new: str, where: str) -> None:
    text = broken(render("compose", load_config(GPU_YAML))["compose.yaml"], old, new)
    assert where in "".join(errors_of(compose_schema(), yaml.safe_load(text)))


def systemd_says(unit: str, folder: Path) -> str:
    """What ``systemd-analyze verify`` objects to."""
    ensure_tool("systemd-analyze", "systemd", "the tests of the unit")
    path = folder / "step3vl.service"
    path.write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stderr + ("" if found.returncode == 0 else "failed")


def unit(folder: Path, config: DeployConfig, path: Path = GPU_YAML) -> str:
    """For a checkout in an odd place that has the program, which verify looks for."""
    root = folder / "100%n of my $HOME"
    (root / ".venv/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(sys.executable, root / ".venv/bin/step3vl")
    site = Site(root, "step3vl", Path("/srv/a home"))
    return render("systemd", config, path=path, site=site)["step3vl.service"]


@any_config
def test_systemd_likes_the_unit(shown: Shown, tmp_path: Path) -> None:
    """It finds the program behind % and blanks, so quoting is right."""
    config, path = shown
    assert systemd_says(unit(tmp_path, config, path), tmp_path) == ""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"^TimeoutStopSec=.*$", "TimeoutStopSec=soon", "Failed to parse"),
        (r"^KillMode=mixed$", "KillMode=some", "Failed to parse"),
        (r"^OOMPolicy=", "OOMPolice=", "Unknown key"),
        (r"\.venv/bin/step3vl", ".venv/bin/step4vl", "not executable"),
        (r'^(ExecStart=".*)100%%n', r"\g<1>100%n", "not executable"),
        (r"^Type=exec$", "Type=exce", "Failed to parse"),
    ],
)
def test_systemd_sees_a_broken_unit(old: str, new: str, words: str, tmp_path: Path) -> None:
    text = broken(unit(tmp_path, load_config(GPU_YAML)), old, new)
    assert re.search(words, systemd_says(text, tmp_path))


def validate_manifests(text: str) -> list[str]:
    """The kind of each, as Kubernetes' own API knows them; unknown keys are refused."""
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    return [document["kind"] for document in documents]


@any_config
def test_kubernetes_knows_the_manifests(shown: Shown) -> None:
    config, path = shown
    kinds = validate_manifests(render("k8s", config, path=path)["webui.yaml"])
    assert kinds == ["ConfigMap", "PersistentVolumeClaim", "Service", "Deployment"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("terminationGracePeriodSeconds: ", "terminationGracePeriod: "),
        ("replicas: 1", "replicas: one"),
        (r"^kind: Service$", "kind: Servce"),
        ('value: "7860"', "value: 7860"),
        ("startupProbe:", "startProbe:"),
        ("medium: Memory", "medium: [Memory]"),
    ],
)
def test_kubernetes_does_not_know_broken_ones(old: str, new: str) -> None:
    text = broken(render("k8s", load_config(GPU_YAML))["webui.yaml"], old, new)
    with pytest.raises(
        (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)
    ):
        validate_manifests(text)


def stack_schema() -> dict[str, Any]:
    """The chart's own, closed: it would let a misspelt key pass, and so would helm."""
    schema = json.loads((HERE / "vllm_stack.schema.json").read_text())
    sections = schema["properties"]
    model = sections["servingEngineSpec"]["properties"]["modelSpec"]["items"]
    objects = (schema, *sections.values(), model, model["properties"]["vllmConfig"])
    for closed in objects:
        closed["additionalProperties"] = False
    Draft202012Validator.check_schema(schema)
    return dict(schema)


@any_config
def test_the_charts_schema_takes_the_values(shown: Shown) -> None:
    config, path = shown
    document = yaml.safe_load(render("k8s", config, path=path)["vllm-stack-values.yaml"])
    assert errors_of(stack_schema(), document) == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("modelURL:", "modelUrl:", "modelUrl"),
        ("requestCPU: 4", "requestCPU: four", "requestCPU"),
        ("tensorParallelSize: 1", 'tensorParallelSize: "1"', "tensorParallelSize"),
        ("routingLogic: session", "routingLogic: best", "routingLogic"),
        ('pvcStorage: "60Gi"', "pvcStorage: 60", "pvcStorage"),
    ],
)
def test_the_charts_schema_refuses_broken_values(old: str, new: str, where: str) -> None:
    text = broken(render("k8s", load_config(GPU_YAML))["vllm-stack-values.yaml"], old, new)
    assert where in "".join(errors_of(stack_schema(), yaml.safe_load(text)))


def test_the_samples_are_among_what_is_validated() -> None:
    """Those of deploy/ are the rendered files of the same YAML, for another user's checkout."""
    for target, name in (("docker", "docker/Dockerfile"), ("k8s", "kubernetes/webui.yaml")):
        folder = ROOT / "deploy" / Path(name).parent
        found = render(target, load_config(GPU_YAML), out=folder)
        assert (ROOT / "deploy" / name).read_text() == found[Path(name).name]
