"""What the tests share: free ports, pictures, waiting with a limit."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FAKE_VLLM = ROOT / "tests" / "fakes" / "fake_vllm.py"

T = TypeVar("T")


# Below the range from which the system takes ports for outgoing connections, begun at a place of
# this process's own, and none is given twice.
_ports = itertools.cycle(range(18_000, 30_000))
for _ in range(os.getpid() * 37 % 12_000):
    next(_ports)


def free_port() -> int:
    """A port on which nobody listens, and which no other test was given."""
    for port in itertools.islice(_ports, 12_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    while True:
        first = free_port()
        if all(free_port() == port for port in range(first + 1, first + count)):
            return first


def wait_for(what: Callable[[], T], seconds: float, message: str) -> T:
    """Poll until ``what`` returns something true, and return that; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {message}"
        time.sleep(0.05)
    return result


def png(width: int, height: int, colour: str) -> bytes:
    """A picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()
