"""Which engines get requests, and how they do together: what the router's parent decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.engine_state import FAILED, READY, STALLED, STARTING, STOPPED, STOPPING, WAITING
from launcher.layout import Replica

# A loaded machine may answer late once; a second time is no accident.
SILENCES = 2
# In what is known of an engine: its message is for those who run it alone.
ADVICE = "advice"
# In which an engine's parent knows better than an engine that says it is well.
UNFIT = {STALLED, STOPPING}
# The further, the more there is to say of it.
PROGRESS = (FAILED, STOPPED, STOPPING, WAITING, STARTING)

Health = bool | None
"""Of an engine: well, or not; None where it did not answer in time."""


@dataclass
class Member:
    """An engine, as it is known here."""

    replica: Replica
    is_routed: bool = False
    """The router sends requests to it."""
    document: Mapping[str, Any] = field(default_factory=dict)
    """What its parent wrote, where that can be read."""
    silences: int = 0
    is_well: bool = False

    def heard(self, health: Health) -> None:
        """Take note of an answer to ``/health``."""
        self.silences = self.silences + 1 if health is None else 0
        self.is_well = self.is_well and self.silences < SILENCES if health is None else health

    def is_wanted(self, draining: str) -> bool:
        """Whether it should get requests; ``draining`` is the title of one that should not."""
        unfit = self.document.get("phase") in UNFIT
        return self.is_well and not unfit and self.replica.title != draining

    @property
    def phase(self) -> str:
        if self.is_routed:
            return READY
        phase = self.document.get("phase")
        # Ready is what its parent says that has not noticed yet.
        return str(phase) if phase and phase != READY else WAITING

    @property
    def message(self) -> str:
        if self.is_routed:
            return "ready"
        if self.document.get("phase") in {None, READY}:
            return "does not answer" if not self.is_well else "gets no requests"
        return str(self.document.get("message"))

    def as_row(self) -> dict[str, Any]:
        """For ``launch status`` and the page."""
        return {
            "name": self.replica.title,
            "node": self.replica.node,
            "url": self.replica.url,
            "phase": self.phase,
            "message": self.message,
        }


def together(members: Sequence[Member]) -> tuple[str, str, dict[str, Any]]:
    """Phase and message of all of them as if they were one engine, and what else is known: ready
    when one is, failed when each has."""
    routed = sum(member.is_routed for member in members)
    if routed:
        count = "" if routed == len(members) else f": {routed} of {len(members)} engines"
        return READY, f"ready{count}", {}
    best = max(members, key=_progress)
    if best.document.get(ADVICE):
        return best.phase, "waiting for the engines on other machines", {}
    more = {key: best.document[key] for key in ("shards", "cause") if key in best.document}
    return best.phase, f"{best.replica.title}: {best.message}", more


def _progress(member: Member) -> int:
    """Phases of loading are further than those that are listed."""
    return PROGRESS.index(member.phase) if member.phase in PROGRESS else len(PROGRESS)
