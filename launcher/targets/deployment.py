"""What a target is made from: the configuration, and where things lie on the machine it is for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from launcher.config import DeployConfig
from launcher.errors import ConfigError
from launcher.paths import ROOT
from launcher.preflight import is_secret_name
from launcher.system_install import owner

# A line end or the like would end a comment or a value of a unit, and mean something else.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
# An address with a password in it, such as a proxy's.
_WITH_PASSWORD = re.compile(r"://[^/@\s]+:[^/@\s]+@")
# Of vLLM for the CPU; on a card they mean nothing.
CPU_VARIABLE = "VLLM_CPU_"


@dataclass(frozen=True)
class Site:
    """A checkout on the machine that the files are for; with systemd it need not be this one."""

    root: Path
    user: str
    home: Path | None = None

    @classmethod
    def here(cls) -> Site:
        """This checkout, and its owner."""
        home = os.environ.get("STEP3VL_HOME")
        return cls(ROOT, owner().pw_name, Path(home).absolute() if home else None)


@dataclass(frozen=True)
class Deployment:
    """A configuration, the file it is from, and the folder that the rendered files go to."""

    config: DeployConfig
    config_path: Path
    out: Path
    site: Site

    def __post_init__(self) -> None:
        for path in (self.config_path, self.out, self.site.root, self.site.home):
            if path is not None and UNPRINTABLE.search(str(path)):
                raise ConfigError(
                    f"{str(path)!r}: a path with control characters cannot be written"
                )

    def refuse(self, what: str, why: str) -> ConfigError:
        """The error for what a target cannot express."""
        return ConfigError(f"{self.config_path}: {what}: {why}")

    @property
    def on_cpu(self) -> bool:
        """Whether the YAML is for vLLM on the CPU: it sets what only that one reads."""
        return any(name.startswith(CPU_VARIABLE) for name in self.config.engine.environment)

    @property
    def secrets(self) -> list[str]:
        """Variables of the engine that hold what no rendered file may."""
        variables = self.config.engine.environment.items()
        return [n for n, value in variables if is_secret_name(n) or _WITH_PASSWORD.search(value)]

    def seen_from_out(self, path: Path) -> str:
        """A path as the rendered files name it: relative where both belong to the checkout."""
        if not (path.is_relative_to(ROOT) and self.out.is_relative_to(ROOT)):
            return str(path)
        found = os.path.relpath(path, self.out)
        return found if found.startswith(".") else f"./{found}"


def seen_from_checkout(path: Path) -> str:
    """A path as somebody in the folder of this project types it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
