"""Which YAML a command works on, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ConfigError
from launcher.host_checks import Gpu, gpus
from launcher.paths import Paths
from launcher.profiles import DEMO, GPU, GPU_PROFILE_NEEDS_GIB


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
    """The 10 B model where a card is large enough for it, else the demo."""
    if not cards:
        return Selection(Path(DEMO.path), "no NVIDIA GPU answers on this machine")
    first = cards[0]  # the one vLLM takes
    size = f"{first.name} with {first.memory_gib:.0f} GiB"
    if first.memory_gib >= GPU_PROFILE_NEEDS_GIB:
        return Selection(Path(GPU.path), f"found {size}")
    return Selection(
        Path(DEMO.path),
        f"{size} is below the {GPU_PROFILE_NEEDS_GIB:.0f} GiB that the bf16 model needs; for a"
        " smaller card write hub_id: stepfun-ai/Step3-VL-10B-FP8 and a smaller max-model-len into a"
        f" copy of deploy/{GPU.file_name}",
    )


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
