"""What this machine has, and who is in the way: GPUs and ports."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from dataclasses import dataclass

import psutil

from launcher.gpu_memory import chosen_cards

NVIDIA_SMI_TIMEOUT_S = 15.0
OPEN_FILES = 65_536
"""What a process of the service may have open, connections included, where the system grants it."""


@dataclass(frozen=True)
class Gpu:
    """A card, with its memory in GiB as the driver reports it."""

    name: str
    memory_gib: float
    uuid: str = ""


def gpus() -> list[Gpu]:
    """The cards that the NVIDIA driver reports; none where it does not answer."""
    if (nvidia_smi := shutil.which("nvidia-smi")) is None:
        return []
    query = ["--query-gpu=name,memory.total,uuid", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(
            [nvidia_smi, *query],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _parse_gpus(result.stdout) if result.returncode == 0 else []


def _parse_gpus(listing: str) -> list[Gpu]:
    """Read ``name, MiB, UUID`` lines; a card that reports no number (a MIG parent) is left out."""
    found = []
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split(",")]
        uuid = fields.pop() if fields[-1].startswith("GPU-") else ""
        memory, name = fields[-1], ", ".join(fields[:-1])
        if memory.isdecimal():
            found.append(Gpu(name, int(memory) / 1024, uuid))
    return found


def visible(found: list[Gpu], chosen: str | None) -> list[Gpu]:
    """The cards that an engine gets, in its order.

    Args:
        chosen: ``CUDA_VISIBLE_DEVICES``: numbers, or beginnings of UUIDs; None: all.
    """
    if chosen is None:
        return found
    return [found[number] for number in chosen_cards(chosen, [gpu.uuid for gpu in found])]


def listen_problem(host: str, port: int) -> str | None:
    """Why a server could not listen there now; None if it could (TIME_WAIT does not matter)."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (socket.gaierror, UnicodeError):
        return f"{host!r} is not an address of this machine"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is taken by {describe_holders(port)}"
        return f"cannot listen on {host} port {port}: {error.strerror}"
    return None


def holders_of(port: int) -> set[int]:
    """Process ids that listen on a TCP port; empty when they belong to another user."""
    return {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.port == port
        and connection.pid is not None
    }


def describe_holders(port: int) -> str:
    """The listening processes in words: ``python3 (process 4242)``."""
    names = []
    for pid in sorted(holders_of(port)):
        try:
            names.append(f"{psutil.Process(pid).name()} (process {pid})")
        except psutil.NoSuchProcess:
            continue
    return ", ".join(names) or "a process of another user"
