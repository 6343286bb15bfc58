"""How much may be used within a minute, and how much at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from webui.gateway.errors import overloaded


@dataclass
class Rate:
    """So many a minute: a bucket that fills steadily and holds a minute's worth.

    What costs an unknown amount is taken afterwards; then the level may be below zero, and nothing
    more is let through until it has filled again.
    """

    per_minute: int
    clock: Callable[[], float] = field(default=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        self._level = float(self.per_minute)
        self._filled_at = self.clock()

    def _fill(self) -> None:
        now = self.clock()
        gained = (now - self._filled_at) * self.per_minute / 60
        self._level = min(self.per_minute, self._level + gained)
        self._filled_at = now

    def take(self, amount: float) -> None:
        self._fill()
        self._level -= amount

    def wait_s(self) -> float:
        """Seconds until something may be taken again; 0 if it may now."""
        self._fill()
        return max(0.0, (1 - self._level) * 60 / self.per_minute)


class AtOnce:
    """Bounds the requests that are being answered: each is a ``with`` block.

    Raises:
        ApiError: on entry, where there are too many already.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.now = 0

    def __enter__(self) -> None:
        if self.now >= self._most:
            raise overloaded()
        self.now += 1

    def __exit__(self, *_: object) -> None:
        self.now -= 1
