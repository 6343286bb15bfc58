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
