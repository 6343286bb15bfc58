"""How much memory the NVIDIA cards have free, and which processes hold the rest (NVML)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    """A card's memory in bytes; ``holders`` is how much each process has of it.

    In a container the driver may not tell whose it is; then ``holders`` is empty.
    """

    index: int
    name: str
    total: int
    free: int
    holders: Mapping[int, int]

    def shortage(self, share: float) -> str | None:
        """Why ``share`` of the memory cannot be had now, in words; None if it can."""
        wanted = share * self.total
        if self.free >= wanted:
            return None
        names = [
            f"{_name_of(pid)} (process {pid}, {used / GIB:.1f} GiB)"
            for pid, used in sorted(self.holders.items(), key=lambda item: -item[1])
        ]
        by = f" and held by {', '.join(names)}" if names else "; the driver does not say by whom"
        return (
            f"GPU {self.index} ({self.name}): {wanted / GIB:.1f} GiB are wanted,"
            f" {self.free / GIB:.1f} of {self.total / GIB:.1f} are free{by}"
        )


def _name_of(pid: int) -> str:
    try:
        # Not with pathlib: this process must stay small.
        with open(f"/proc/{pid}/comm", errors="replace") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return "a process outside of this container"


def cards(count: int | None = None, visible: str | None = None) -> list[Card]:
    """The cards that an engine would use; none where no driver answers.

    Args:
        count: how many it uses, from the first on; None: all.
        visible: ``CUDA_VISIBLE_DEVICES``: indices or the beginnings of UUIDs.
    """
    try:
        import pynvml  # nvidia-ml-py, of the extra "gpu"
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return _read(pynvml, count, visible)
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _read(nvml: ModuleType, count: int | None, visible: str | None) -> list[Card]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    if visible is None:
        chosen = [*range(len(handles))]
    else:
        uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        chosen = chosen_cards(visible, uuids)
    cards = (_card(nvml, index, handles[index]) for index in chosen[:count])
    return [card for card in cards if card is not None]


def chosen_cards(visible: str, uuids: list[str]) -> list[int]:
    """As CUDA reads the variable: it ends at the first that is not there."""
    chosen = []
    for item in visible.split(","):
        word = item.strip()
        index = int(word) if word.isdecimal() else -1
        found = [i for i, uuid in enumerate(uuids) if word and uuid.startswith(word)]
        if not (found or 0 <= index < len(uuids)):
            break
        chosen.append(found[0] if found else index)
    return chosen


def _card(nvml: ModuleType, index: int, handle: Any) -> Card | None:
    """None for a card cut into slices (MIG): how full it is says nothing about one of them."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0]:
            return None
    except nvml.NVMLError:
        pass  # most cards cannot be cut
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:  # not told everywhere; how much is free is what matters
        processes = []
    holders = {process.pid: process.usedGpuMemory or 0 for process in processes}
    name = _text(nvml.nvmlDeviceGetName(handle))
    return Card(index, name, memory.total, memory.free, holders)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
