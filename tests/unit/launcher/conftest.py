"""Fixtures for the launcher's unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

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
