"""Which replica has the least of something that is counted."""

from __future__ import annotations


class Tally:
    """A number for each replica, and which has the least; each call takes the same time for any
    number of replicas. Of several with the least, it is the one that has had it for longest."""

    def __init__(self, replicas: int) -> None:
        self._numbers = [0] * replicas
        self._with: list[dict[int, None]] = [dict.fromkeys(range(replicas))]
        self._least = 0
        self._absent: set[int] = set()

    def add(self, replica: int, change: int) -> None:
        """``change`` is 1 or -1."""
        before = self._numbers[replica]
        self._numbers[replica] = before + change
        if replica not in self._absent:
            del self._with[before][replica]
            self._enter(replica)

    def remove(self, replica: int) -> None:
        """It keeps its number, and is not the least."""
        self._absent.add(replica)
        del self._with[self._numbers[replica]][replica]

    def restore(self, replica: int) -> None:
        self._absent.discard(replica)
        self._enter(replica)

    def least(self) -> int:
        while not self._with[self._least]:
            self._least += 1
        return next(iter(self._with[self._least]))

    def _enter(self, replica: int) -> None:
        number = self._numbers[replica]
        while number >= len(self._with):
            self._with.append({})
        self._with[number][replica] = None
        self._least = min(self._least, number)
