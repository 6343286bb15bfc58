"""What the router's parent is told: small, for it goes through a command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

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
    node: str
    """This machine in its cluster, or empty."""
    engines: list[Replica]
    states: dict[str, str]
    """By title, where the parents of this machine's engines write."""

    @classmethod
    def of(cls, config: DeployConfig, paths: Paths) -> RouterSettings:
        head = config.cluster.head
        node = head.name if head else ""
        engines = replicas_of(config)
        return cls(
            port=config.engine.port,
            figures_port=config.last_port,
            state=str(paths.engine_state),
            replicas=str(paths.replicas),
            draining=str(paths.draining),
            node=node,
            engines=engines,
            states={e.title: str(paths.state_of(e.name)) for e in engines if e.node == node},
        )

    def as_argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> RouterSettings:
        document = json.loads(text)
        return cls(**{**document, "engines": [Replica(**e) for e in document["engines"]]})
