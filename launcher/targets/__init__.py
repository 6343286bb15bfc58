"""What else runs the same YAML: each target turns it into files of its own, as a pure step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from launcher.config import DeployConfig
from launcher.render import RenderedFile
from launcher.targets.ray import ray

# The paths of the files are relative to where the caller wants them; a model's folder is absolute.
TARGETS: Mapping[str, Callable[[DeployConfig], list[RenderedFile]]] = {"ray": ray}
