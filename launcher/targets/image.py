"""The container's image: what it is made of, and where things lie in it."""

from __future__ import annotations

import configparser
import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launcher.errors import LauncherError
from launcher.paths import ROOT, Paths
from launcher.targets.deployment import UNPRINTABLE, Deployment

CHECKOUT = PurePosixPath("/opt/step3vl")
# Everything that must outlive a container: models, keys, conversations, caches.
HOME = PurePosixPath("/var/lib/step3vl")
PYTHON = CHECKOUT / ".venv/bin/python"
COMMAND = CHECKOUT / ".venv/bin/step3vl"
USER_ID = 10001

# What is copied into the image, and all that the build gets to see.
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "start-webui-service.sh")
FOLDERS = ("launcher", "webui", "supervisor", "deploy")


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine, and where the container has it; to be read only."""

    source: Path
    target: PurePosixPath


def _setup() -> configparser.ConfigParser:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return settings


def package_version() -> str:
    return _setup()["metadata"]["version"]


def engine_version() -> str:
    """The vLLM that this package is checked against: the least that the extra ``gpu`` takes.

    Raises:
        LauncherError: setup.cfg does not say it.
    """
    wanted = _setup()["options.extras_require"]["gpu"]
    found = re.search(r"^vllm>=(\d+)\.(\d+)(?:\.(\d+))?", wanted, re.MULTILINE)
    if found is None:
        raise LauncherError("setup.cfg: the extra `gpu` names no least version of vllm")
    return ".".join(part or "0" for part in found.groups())


def published_on(deployment: Deployment) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of this machine on which a container's port is reached: that of the YAML.

    Raises:
        ConfigError: it has a name there.
    """
    host = deployment.config.webui.host
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise deployment.refuse(
            "webui.host", f"docker publishes a port on an address, not on a name ({host!r})"
        ) from None


def paths_in_image() -> Paths:
    return Paths(etc=Path(HOME / "etc"), run=Path(HOME / "run"))


def config_in_image(deployment: Deployment) -> PurePosixPath:
    """Where the container has the YAML: one of deploy/ in its place, others beside those."""
    path = deployment.config_path
    if path.is_relative_to(ROOT / "deploy"):
        return CHECKOUT / path.relative_to(ROOT).as_posix()
    return CHECKOUT / "deploy" / path.name


def mounts(deployment: Deployment) -> Iterator[Mount]:
    """What the container needs of this machine: the YAML, and the folders that it names.

    Raises:
        ConfigError: a folder cannot be had in a container.
    """
    yield Mount(deployment.config_path, config_in_image(deployment))
    config = deployment.config
    named = (
        ("model.folder", config.model.folder),
        ("webui.batch_folder", config.webui.batch_folder),
    )
    for key, folder in named:
        if folder and not _is_in_image(found := _folder(deployment, key, folder)):
            yield found


def _folder(deployment: Deployment, key: str, folder: str) -> Mount:
    """A folder of the YAML, with the place where the launcher in the container looks for it."""
    if folder.startswith("~"):
        raise deployment.refuse(key, "write the whole path; ~ is another folder in a container")
    source = (deployment.config_path.parent / folder).resolve()
    target = PurePosixPath(os.path.normpath(config_in_image(deployment).parent / folder))
    if UNPRINTABLE.search(str(source)):
        raise deployment.refuse(key, "a path with control characters cannot be written")
    if CHECKOUT.is_relative_to(target) or target == CHECKOUT / "deploy":
        raise deployment.refuse(key, f"{folder} would hide the package in the container; move it")
    return Mount(source, target)


def _is_in_image(mount: Mount) -> bool:
    """Whether it was copied to that place with deploy/."""
    inside = mount.source.is_relative_to(ROOT / "deploy")
    return inside and mount.target == CHECKOUT / mount.source.relative_to(ROOT).as_posix()
