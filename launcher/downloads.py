"""Models that were fetched with ``launch download``: where they lie, and whether they are whole."""

from __future__ import annotations

import time
from pathlib import Path

from launcher.config import DeployConfig
from launcher.errors import ConfigError, LauncherError
from launcher.nodes import node_here
from launcher.paths import Paths
from launcher.plan import Plan
from launcher.planning import planned
from launcher.terminal import ProgressLine, say


def folder_of(hub_id: str, paths: Paths) -> Path:
    return paths.models / hub_id.replace("/", "--")


def settled(
    config: DeployConfig, config_path: Path, paths: Paths, node: str | None = None
) -> tuple[DeployConfig, Plan | None]:
    """A configuration as it is started: planned for this machine's cards, and with the folder of a
    model that has been fetched; and the plan, if there is one.

    Raises:
        ConfigError: it does not fit, or what was fetched is no longer whole.
        LauncherError: the driver does not answer just now.
    """
    config, found = planned(config, config_path, node_here(config, paths, node))
    return with_download(config, paths), found


def with_download(config: DeployConfig, paths: Paths) -> DeployConfig:
    """A configuration whose model has been fetched names the folder; the engine is then offline.

    Raises:
        ConfigError: what was fetched is no longer whole, with a line for each file.
    """
    if config.model.hub_id is None:
        return config
    from launcher.download import problems_of, read_manifest  # these bring an HTTP client along

    folder = folder_of(config.model.hub_id, paths)
    manifest = read_manifest(folder)
    if manifest is None:
        return config
    if manifest.revision != config.model.revision:
        raise ConfigError(
            f"{config.model.hub_id}: {folder} has revision {manifest.revision}, and model.revision"
            f" is {config.model.revision}; `launch download` fetches that"
        )
    if problems := problems_of(folder, manifest):
        first = f"{config.model.hub_id} is not whole any more; `launch download` fetches it again:"
        raise ConfigError("\n  ".join([first, *problems]))
    model = config.model.model_copy(update={"folder": str(folder), "hub_id": None})
    return config.model_copy(update={"model": model})


def fetch(config: DeployConfig, paths: Paths, *, verify: bool) -> int:
    """Fetch the model of a configuration, or go on with that, and tell how far it is.

    Args:
        verify: compute the hash of every file that is here already.

    Raises:
        LauncherError: it could not be done, or a file is not what the hub has.
    """
    from launcher.download import Progress, download, in_words, problems_of

    model = config.model
    if model.hub_id is None:
        raise ConfigError(f"model.folder is {model.folder}: there is nothing to download")
    folder, began, line = folder_of(model.hub_id, paths), time.monotonic(), ProgressLine()
    say(f"{model.hub_id} -> {folder}")

    def tell(progress: Progress) -> None:
        line.show(in_words(progress), time.monotonic() - began)

    try:
        manifest = download(
            model.hub_id, folder, revision=model.revision, source=model.source, tell=tell
        )
    finally:
        line.end()
    if verify and (problems := problems_of(folder, manifest, hashes=True)):
        first = f"{folder} is damaged; delete these and run `launch download` again:"
        raise LauncherError("\n  ".join([first, *problems]))
    size = sum(entry.size for entry in manifest.files.values()) / 1e9
    say(
        f"Whole: {len(manifest.files)} files, {size:.1f} GB, from {manifest.source},"
        f" commit {manifest.commit[:12]}"
    )
    return 0
