"""Every target there is: the folder of its files in deploy/, and what renders them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.config import DeployConfig, load_config
from launcher.errors import ConfigError
from launcher.paths import ROOT
from launcher.profiles import GPU
from launcher.render import RenderedFile
from launcher.targets.compose import compose
from launcher.targets.deployment import Deployment, Site
from launcher.targets.dockerfile import dockerfile
from launcher.targets.kubernetes import kubernetes
from launcher.targets.ray import ray
from launcher.targets.systemd import systemd


@dataclass(frozen=True)
class Target:
    """What runs the service, as files."""

    folder: str
    render: Callable[[Deployment], list[RenderedFile]]


TARGETS: Mapping[str, Target] = {
    "docker": Target("docker", dockerfile),
    "compose": Target("docker", compose),
    "systemd": Target("systemd", systemd),
    "k8s": Target("kubernetes", kubernetes),
    "ray": Target("ray", ray),
}
# In the samples a unit is for a checkout where one belongs, run by a user of its own.
SAMPLE_SITE = Site(Path("/opt/step3vl"), "step3vl")


def target_named(name: str) -> Target:
    """One of the table.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in TARGETS:
        raise ConfigError(f"no target {name!r}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]


def render_target(
    name: str, config: DeployConfig, config_path: Path, out: Path | None
) -> list[RenderedFile]:
    """The files for this checkout, in a folder named after the target where none is given.

    Raises:
        ConfigError: there is no such target, or it cannot express the configuration.
    """
    target = target_named(name)
    folder = (out or Path(target.folder)).absolute()
    return target.render(Deployment(config, config_path, folder, Site.here()))


def samples() -> dict[Path, str]:
    """Those of deploy/, for the configuration of the 10 B model."""
    path = Path(GPU.path)
    config, found = load_config(path), dict[Path, str]()
    for name, target in TARGETS.items():
        # A unit names the YAML as its own machine has it.
        seen = SAMPLE_SITE.root / path.relative_to(ROOT) if name == "systemd" else path
        deployment = Deployment(config, seen, ROOT / "deploy" / target.folder, SAMPLE_SITE)
        found |= {file.path: file.content for file in target.render(deployment)}
    return found
