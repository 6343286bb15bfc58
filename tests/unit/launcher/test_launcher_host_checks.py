"""launcher.host_checks: cards from nvidia-smi, and who holds a port."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher import host_checks
from launcher.host_checks import (
    Gpu,
    _parse_gpus,
    describe_holders,
    gpus,
    holders_of,
    listen_problem,
    visible,
)


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("", []),
        ("NVIDIA H200, 143771\n", [Gpu("NVIDIA H200", 143771 / 1024)]),
        (
            "NVIDIA A100-SXM4-80GB, 81920\nNVIDIA T4, 15360\n",
            [Gpu("NVIDIA A100-SXM4-80GB", 80.0), Gpu("NVIDIA T4", 15.0)],
        ),
        ("NVIDIA A100 MIG 1g.10gb, [N/A]\n", []),
        ("NVIDIA A100, [N/A]\nNVIDIA T4, 15360\n", [Gpu("NVIDIA T4", 15.0)]),
        ("NVIDIA X, [Insufficient Permissions]\n", []),
        ("Odd, Name, 1024\n", [Gpu("Odd, Name", 1.0)]),
        ("No devices were found\n", []),
        ("15360\n", [Gpu("", 15.0)]),
        ("\n\n", []),
    ],
)
def test_cards_are_read_from_the_listing(listing: str, expected: list[Gpu]) -> None:
    """A line is a name and MiB; a line without a number, as a MIG parent has, is no card."""
    assert expected == _parse_gpus(listing)


def fake_nvidia_smi(folder: Path, script: str) -> Path:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_without_nvidia_smi_there_are_no_cards(path: Path) -> None:
    """A machine without the driver is a machine without cards."""
    assert gpus() == []


def test_the_cards_are_those_that_nvidia_smi_lists(path: Path) -> None:
    """The program on PATH is asked for name and memory in MiB, as plain lines."""
    asked = path / "asked"
    fake_nvidia_smi(path, f'echo "$@" > {asked}\necho "NVIDIA L4, 23034"')
    assert [Gpu("NVIDIA L4", 23034 / 1024)] == gpus()
    assert (
        asked.read_text().strip()
        == "--query-gpu=name,memory.total,uuid --format=csv,noheader,nounits"
    )


@pytest.mark.parametrize(
    "script",
    [
        'echo "NVIDIA L4, 23034"; exit 9',
        'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the driver"; exit 9',
        "kill -9 $$",
    ],
)
def test_a_driver_that_does_not_answer_has_no_cards(script: str, path: Path) -> None:
    """nvidia-smi is there and fails: what it printed is not believed."""
    fake_nvidia_smi(path, script)
    assert gpus() == []


def test_an_nvidia_smi_that_cannot_be_run_has_no_cards(path: Path) -> None:
    """A program of another architecture, say, ends in no cards and no error."""
    fake_nvidia_smi(path, "").write_bytes(b"\x7fELF")
    assert gpus() == []


def test_a_driver_that_hangs_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the limit there are no cards; the launcher does not hang with it."""

    def hang(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    fake_nvidia_smi(path, "exit 0")
    monkeypatch.setattr(subprocess, "run", hang)
    assert gpus() == []


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket of this process that listens on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


OWN_NAME = f"{psutil.Process().name()} (process {os.getpid()})"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_taken_port_names_who_holds_it(host: str, listener: socket.socket) -> None:
    """The process that listens is named with its id, whichever address is asked for."""
    port = port_of(listener)
    assert f"port {port} is taken by {OWN_NAME}" == listen_problem(host, port)


def test_a_port_that_nobody_holds_is_no_problem(listener: socket.socket) -> None:
    """Once its holder has gone, the port can be had."""
    port = port_of(listener)
    listener.close()
    assert listen_problem("127.0.0.1", port) is None


def test_a_port_in_time_wait_is_no_problem(listener: socket.socket) -> None:
    """A restart right after a stop finds connections that linger; a server can listen over them."""
    address = listener.getsockname()
    with socket.create_connection(address) as client:
        accepted, _ = listener.accept()
        accepted.close()  # who closes first keeps the connection in TIME_WAIT
        assert client.recv(1) == b""
    listener.close()
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(address)
    assert listen_problem(*address) is None


def test_checking_a_port_does_not_take_it(listener: socket.socket) -> None:
    """The probe is gone when the answer comes."""
    port = port_of(listener)
    listener.close()
    listen_problem("127.0.0.1", port)
    assert set() == holders_of(port)


def test_an_address_of_another_machine_is_refused() -> None:
    """An address kept for documentation is nobody's own."""
    expected = "cannot listen on 192.0.2.1 port 8080: Cannot assign requested address"
    assert expected == listen_problem("192.0.2.1", 8080)


def test_a_name_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt host is said to be that."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert listen_problem("lokalhost", 8080) == "'lokalhost' is not an address of this machine"


def test_the_holders_of_a_port_are_those_that_listen(listener: socket.socket) -> None:
    """A client connected to the port holds another one, not this."""
    with socket.create_connection(listener.getsockname()) as client:
        assert {os.getpid()} == holders_of(port_of(listener))
        assert set() == holders_of(client.getsockname()[1])


def test_holders_are_described_by_name_and_id(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ended meanwhile is left out."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(host_checks, "holders_of", lambda _: {os.getpid(), ended.pid})
    assert describe_holders(port_of(listener)) == OWN_NAME


def test_a_holder_that_cannot_be_seen_belongs_to_someone_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without rights to look there are still words."""
    monkeypatch.setattr(host_checks, "holders_of", lambda _: set())
    assert describe_holders(80) == "a process of another user"


def test_cards_with_their_uuids() -> None:
    """By which CUDA_VISIBLE_DEVICES may name them."""
    found = _parse_gpus("NVIDIA L4, 23034, GPU-1\nOdd, name, 1024, GPU-2\nMIG, [N/A], GPU-3\n")
    assert [(gpu.name, gpu.uuid) for gpu in found] == [
        ("NVIDIA L4", "GPU-1"),
        ("Odd, name", "GPU-2"),
    ]
    assert visible(found, None) == found
    assert visible(found, "GPU-2,0") == found[::-1]
    assert visible(found, "") == []
