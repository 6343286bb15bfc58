"""Which machine of a cluster this is."""

from __future__ import annotations

import socket
from collections.abc import Callable

import psutil

from launcher.config import DeployConfig
from launcher.errors import ConfigError
from launcher.paths import Paths, noted


def addresses_here() -> set[str]:
    """Those of this machine's interfaces."""
    internet = {socket.AF_INET, socket.AF_INET6}
    found = psutil.net_if_addrs().values()
    return {one.address for addresses in found for one in addresses if one.family in internet}


def node_here(
    config: DeployConfig,
    paths: Paths,
    given: str | None = None,
    addresses: Callable[[], set[str]] = addresses_here,
) -> str:
    """The name of this machine: as given, as an earlier ``up`` noted it, or as its address tells;
    empty where there is no cluster.

    Raises:
        ConfigError: there is no such machine, or it cannot be told which one this is.
    """
    nodes = config.cluster.nodes
    names = [node.name for node in nodes]
    if not nodes:
        if given:
            raise ConfigError(f"--node {given}: cluster.nodes lists no machines")
        return ""
    if given is None:
        earlier = noted(paths.node)
        own = addresses()
        found = [earlier] if earlier in names else [n.name for n in nodes if n.address in own]
        given = found[0] if len(found) == 1 else None
    if given is None:
        known = ", ".join(f"{node.name} ({node.address})" for node in nodes)
        raise ConfigError(f"which machine is this? write `launch up --node NAME`, of: {known}")
    if given not in names:
        raise ConfigError(f"cluster.nodes has no {given!r}; there are: {', '.join(names)}")
    return given
