"""Which program is the engine: vLLM, or Ray Serve with vLLM in it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from launcher.config import DeployConfig, load_config
from launcher.errors import ConfigError, LauncherError
from launcher.paths import ROOT, Paths, noted


def load_here(config_path: Path, paths: Paths, given: str | None = None) -> DeployConfig:
    """A YAML as it is run here.

    Raises:
        ConfigError: as load_config and :func:`with_backend` do.
    """
    return with_backend(load_config(config_path), paths, given)


def with_backend(config: DeployConfig, paths: Paths, given: str | None = None) -> DeployConfig:
    """The configuration with the engine as given, as an earlier ``up`` was given it, or as it is.

    Raises:
        ConfigError: what else it says does not go together with that engine.
    """
    wanted = given or noted(paths.backend) or config.engine.backend
    if wanted == config.engine.backend:
        return config
    document = config.model_dump()
    document["engine"]["backend"] = wanted
    try:
        return DeployConfig.model_validate(document)
    except ValidationError as error:
        words = "\n  ".join(problem["msg"] for problem in error.errors())
        raise ConfigError(f"--backend {wanted}: {words}") from None


def check_backend(config: DeployConfig) -> None:
    """Refuse to start what is not installed.

    Raises:
        LauncherError: with the command that installs it.
    """
    if config.engine.backend == "ray" and not (find_spec("ray") and find_spec("pyarrow")):
        raise LauncherError(
            "engine.backend is ray, and Ray is not installed here:"
            f" {sys.executable} -m pip install --editable '{ROOT}[ray]'"
        )
