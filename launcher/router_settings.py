"""What the router's parent is told: small, for it goes through a command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.config import DeployConfig
from launcher.layout import Replica, replicas_of
from launcher.paths import Paths


@dataclass(frozen=True)
class RouterSettings:
    """Files as paths."""

    port: int
    figures_port: int
    state: str
    """Where it writes how the engines do together, as the parent of a single one does."""
    replicas: str
    """Where it writes how each does."""
    draining: str
    key_file: str
    """Of the cluster; empty where there is none."""
    node: str
    """This machine in its cluster, or empty."""
    agents: dict[str, str]
    """By node, where the other machines answer."""
    engines: list[Replica]
    states: dict[str, str]
    """By title, where the parents of this machine's engines write."""

    @classmethod
    def of(cls, config: DeployConfig, key_file: Path, paths: Paths) -> RouterSettings:
        head, port = config.cluster.head, config.engine.port
        node = head.name if head else ""
        engines = replicas_of(config)
        return cls(
            port=port,
            figures_port=config.last_port,
            state=str(paths.engine_state),
            replicas=str(paths.replicas),
            draining=str(paths.draining),
            key_file=str(key_file) if head else "",
            node=node,
            agents={
                other.name: f"http://{other.address}:{port}"
                for other in config.cluster.nodes
                if other is not head
            },
            engines=engines,
            states={e.title: str(paths.state_of(e.name)) for e in engines if e.node == node},
        )

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> RouterSettings:
        document = json.loads(text)
        return cls(**{**document, "engines": [Replica(**e) for e in document["engines"]]})
