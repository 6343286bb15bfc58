"""Fixtures for the launcher's unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_runs import Runs

from launcher.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An installation's folders, made and empty."""
    found = Paths(etc=tmp_path / "etc", run=tmp_path / "run")
    found.make_private_folders()
    return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Runs]:
    """Runs of the engine's parent, with their files in a test's own folder."""
    runs = Runs(tmp_path)
    yield runs
    runs.clean_up()
