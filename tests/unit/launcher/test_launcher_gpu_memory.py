"""launcher.gpu_memory: what the cards say of their memory, with a driver made of Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.gpu_memory import GIB, Card, cards, chosen_cards

UUIDS = ["GPU-aa11", "GPU-ab22", "GPU-cc33", "MIG-dd44"]
SPENT = 2**22 + 1  # no process has this id


class NVMLError(Exception):
    """As pynvml's."""


@dataclass
class FakeDriver:
    """pynvml, with four cards of 80 GiB."""

    free: float = 80.0
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    bytes_for_text: bool = False
    fails_at: str = ""
    cut: set[int] = field(default_factory=set)
    open: int = 0

    NVMLError = NVMLError

    def _say(self, name: str, answer: Any) -> Any:
        if self.fails_at == name:
            raise NVMLError(name)
        return answer

    def _text(self, text: str) -> str | bytes:
        return text.encode() + b"\xff" if self.bytes_for_text else text

    def nvmlInit(self) -> None:  # noqa: N802  (the driver's name, and so on)
        self._say("nvmlInit", None)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return int(self._say("nvmlDeviceGetCount", len(UUIDS)))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return int(self._say("nvmlDeviceGetHandleByIndex", index))

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:  # noqa: N802
        return self._text(self._say("nvmlDeviceGetUUID", UUIDS[handle]))

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:  # noqa: N802
        return self._text(self._say("nvmlDeviceGetName", f"NVIDIA {handle}"))

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:  # noqa: N802
        return [int(handle in self.cut), 0]

    def nvmlDeviceGetMemoryInfo(self, _: int) -> Any:  # noqa: N802
        memory = SimpleNamespace(total=80 * GIB, free=round(self.free * GIB))
        return self._say("nvmlDeviceGetMemoryInfo", memory)

    def nvmlDeviceGetComputeRunningProcesses(self, _: int) -> Any:  # noqa: N802
        found = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes]
        return self._say("nvmlDeviceGetComputeRunningProcesses", found)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """In place of pynvml; whoever opens it closes it."""
    found = FakeDriver()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    yield found
    assert found.open == 0


def indices(count: int | None, visible: str | None) -> list[int]:
    return [card.index for card in cards(count, visible)]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        (" ", []),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("7", []),
        ("1,7,2", [1]),
        ("0,-1,2", [0]),
        ("-1", []),
        ("0,,1", [0]),
        ("NoDevFiles", []),
        ("GPU-ab22", [1]),
        ("GPU-cc,GPU-aa11", [2, 0]),
        ("GPU-zz", []),
        ("MIG-dd44", [3]),
        ("0x1", []),
        ("²", []),
    ],
)
def test_cards_are_chosen_as_cuda_does(
    visible: str | None, expected: list[int], driver: FakeDriver
) -> None:
    """By index or the beginning of a UUID, up to the first that is not there."""
    assert expected == indices(None, visible)


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [(1, None, [0]), (2, "3,1,0", [3, 1]), (9, "1", [1]), (0, None, [])],
)
def test_only_the_cards_of_the_engine_are_looked_at(
    count: int, visible: str | None, expected: list[int], driver: FakeDriver
) -> None:
    """An engine on one card does not wait for the others' memory."""
    assert expected == indices(count, visible)


@settings(deadline=None, max_examples=200)
@given(st.text("0123456789,-GPUaMI ²", max_size=20) | st.text(max_size=9))
def test_no_choice_is_too_odd(visible: str) -> None:
    """Whatever somebody writes into the variable, it names cards or none."""
    assert set(chosen_cards(visible, UUIDS)) <= set(range(len(UUIDS)))


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_card_is_read_whole(as_bytes: bool, driver: FakeDriver) -> None:
    """Older drivers answer in bytes; some do not say how much a process holds."""
    driver.bytes_for_text = as_bytes
    driver.free, driver.processes = 20.5, [(7, 3 * GIB), (8, None)]
    [card] = cards(1)
    assert card.name.removesuffix("\ufffd") == "NVIDIA 0"
    assert (card.total, card.free) == (80 * GIB, round(20.5 * GIB))
    assert card.holders == {7: 3 * GIB, 8: 0}


def test_a_card_cut_into_slices_is_left_out(driver: FakeDriver) -> None:
    """How full all of it is says nothing about the slice that is used."""
    driver.cut = {1}
    assert [card.index for card in cards(None, "0,1")] == [0]


@pytest.mark.parametrize(
    "name",
    [
        *("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"),
        *("nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"),
    ],
)
def test_a_driver_that_fails_has_no_cards(name: str, driver: FakeDriver) -> None:
    """Nothing is waited for then: vLLM itself will say what is wrong."""
    driver.fails_at = name
    assert cards(None, "0,1") == []


def test_a_driver_that_does_not_tell_holders_has_cards_all_the_same(driver: FakeDriver) -> None:
    """How much is free is known, and it is what matters."""
    driver.fails_at, driver.free = "nvmlDeviceGetComputeRunningProcesses", 1.0
    assert [(card.index, dict(card.holders)) for card in cards(2)] == [(0, {}), (1, {})]


def test_without_the_package_there_are_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM for the CPU does not bring it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert cards() == []


def card_with(free: float, **holders: int) -> Card:
    found = {int(pid.lstrip("p")): used for pid, used in holders.items()}
    return Card(2, "NVIDIA H200", 80 * GIB, round(free * GIB), found)


@pytest.mark.parametrize(("free", "share", "short"), [(72, 0.9, False), (71.9, 0.9, True)])
def test_memory_is_short_where_the_share_is_not_free(
    free: float, share: float, short: bool
) -> None:
    """Exactly enough is enough."""
    assert (card_with(free).shortage(share) is not None) is short


def test_a_shortage_names_card_sizes_and_holders() -> None:
    """The largest holder first, by name where the process can be seen."""
    card = card_with(4.5, **{f"p{SPENT}": 10 * GIB, f"p{os.getpid()}": 65 * GIB})
    name = Path("/proc/self/comm").read_text().strip()
    assert card.shortage(0.9) == (
        "GPU 2 (NVIDIA H200): 72.0 GiB are wanted, 4.5 of 80.0 are free and held by"
        f" {name} (process {os.getpid()}, 65.0 GiB),"
        f" a process outside of this container (process {SPENT}, 10.0 GiB)"
    )


def test_a_shortage_without_known_holders_says_so() -> None:
    """In a container the driver may not tell."""
    expected = "GPU 2 (NVIDIA H200): 72.0 GiB are wanted, 0.0 of 80.0 are free;"
    assert f"{expected} the driver does not say by whom" == card_with(0).shortage(0.9)


def test_a_holders_name_may_be_cut_in_a_character() -> None:
    """The kernel keeps 15 bytes of it."""
    script = (
        "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff\\xfe'); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        words = card_with(0, **{f"p{process.pid}": GIB}).shortage(0.9)
        process.kill()
    assert words is not None
    assert words.endswith(f"held by \ufffd\ufffd (process {process.pid}, 1.0 GiB)")
