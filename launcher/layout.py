"""Which engines there are, on which machine, and what each has of it: one pure step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.config import DeployConfig

ENGINE = "vllm"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Replica:
    """An engine. ``name`` is its program's, the same on each machine."""

    name: str
    node: str
    """Its machine in the cluster; empty where there is none."""
    host: str
    """Where it listens."""
    port: int
    index: int = 0
    """Among those of its machine."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.node}/{self.name}" if self.node else self.name


def replicas_of(config: DeployConfig) -> list[Replica]:
    """All engines, of every machine."""
    if not config.has_router:
        return [Replica(ENGINE, "", LOOPBACK, config.engine.port)]
    usual = config.engine.replicas
    places = [
        (node.name, node.address, usual if node.replicas is None else node.replicas)
        for node in config.cluster.nodes
    ]
    return [
        # The first port is the router's.
        Replica(f"{ENGINE}-{index}", node, host, config.engine.port + 1 + index, index)
        for node, host, count in places or [("", LOOPBACK, usual)]
        for index in range(count)
    ]


def replicas_on(config: DeployConfig, node: str) -> list[Replica]:
    """The engines of one machine; ``node`` is empty where there is no cluster."""
    return [replica for replica in replicas_of(config) if replica.node == node]


def engines_on(config: DeployConfig, node: str) -> int:
    """How many engines share a machine's cards. Ray Serve's are one program here."""
    here = len(replicas_on(config, node))
    return here * config.engine.replicas if config.engine.backend == "ray" else here


def has_head(config: DeployConfig, node: str) -> bool:
    """Whether a machine runs the page, the API and the router."""
    head = config.cluster.head
    return head is None or head.name == node


def share_of(
    replica: Replica, count: int, cards: int, cores: Sequence[int], environ: Mapping[str, str]
) -> dict[str, str]:
    """What a replica has of its machine, as variables; without others beside it, all.

    Args:
        count: of the replicas on the machine.
        cards: of each of them.
        cores: of the machine.
        environ: what would hold otherwise.
    """
    if count < 2:
        return {}
    index = replica.index
    given = environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count * cards))))
    all_cards = [name for name in given.split(",") if name]
    share = {"CUDA_VISIBLE_DEVICES": ",".join(all_cards[index * cards : (index + 1) * cards])}
    if "VLLM_CPU_OMP_THREADS_BIND" not in environ and len(cores) >= count:
        # Otherwise each engine on a CPU would compute on every core.
        own = cores[index * len(cores) // count : (index + 1) * len(cores) // count]
        share["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, own))
    return share
