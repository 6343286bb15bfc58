"""Installations that run the stand-in engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployments import Deployment, new_deployment


@pytest.fixture
def deployment(home: Path) -> Deployment:
    """Not started yet."""
    return new_deployment(home)


@pytest.fixture
def running(deployment: Deployment) -> Deployment:
    result = deployment.up()
    assert result.returncode == 0, result.stdout + result.stderr
    return deployment
