"""Which YAML a command works on, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from launcher.cards import card_named
from launcher.errors import ConfigError
from launcher.host_checks import Gpu, gpus, visible
from launcher.paths import Paths
from launcher.plan import STEP3_VL_10B, DoesNotFitError, plan
from launcher.profiles import DEMO, GPU


@dataclass(frozen=True)
class Selection:
    """A configuration file, and the reason in words."""

    path: Path
    reason: str


def active_config(paths: Paths) -> Path | None:
    """The file that ``up`` applied last."""
    try:
        text = paths.active_config.read_text()
    except OSError:
        return None
    return Path(text) if text else None


def default_for(cards: list[Gpu]) -> Selection:
    """The 10 B model where the cards can hold it, else the demo."""
    if not cards:
        return Selection(Path(DEMO.path), "no NVIDIA GPU answers on this machine")
    found = f"{len(cards)} x {cards[0].name}" if len(cards) > 1 else cards[0].name
    try:
        there = visible(cards, os.environ.get("CUDA_VISIBLE_DEVICES"))
        plan(STEP3_VL_10B, [card_named(card.name, card.memory_gib) for card in there])
    except DoesNotFitError as error:
        return Selection(Path(DEMO.path), f"found {found}, too small for the 10 B model: {error}")
    return Selection(Path(GPU.path), f"found {found} with {cards[0].memory_gib:.0f} GiB")


def select_config(given: str | None, paths: Paths) -> Selection:
    """The file named on the command line, else the one in use, else what fits this machine.

    Raises:
        ConfigError: the file in use is gone.
    """
    if given is not None:
        return Selection(Path(given).resolve(), "named on the command line")
    if (active := active_config(paths)) is not None:
        if not active.exists():
            raise ConfigError(f"{active}: in use until now, but gone; name another with --config")
        return Selection(active, "in use since the last `launch up`; --config names another")
    return default_for(gpus())
