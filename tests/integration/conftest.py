"""Installations that run the stand-in engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from deployments import Deployment
from support import FAKE_VLLM, ROOT, free_port


@pytest.fixture
def deployment(home: Path) -> Deployment:
    """Not started yet. ``bin/supervisorctl`` stands beside ``etc`` as in an environment."""
    home.mkdir()
    (home / "bin").mkdir()
    control = (Path(sys.executable).parent / "supervisorctl").read_text()
    (home / "bin" / "supervisorctl").write_text(control)
    (home / "bin" / "supervisorctl").chmod(0o755)
    result = Deployment(home / "deploy.yaml", home, free_port(), free_port())
    document = {
        "model": {"folder": str(ROOT / "deploy/models/step3-vl-demo"), "names": ["one", "two"]},
        "engine": {
            "port": result.engine_port,
            "command": [sys.executable, str(FAKE_VLLM)],
            "stop_timeout_s": 5,
        },
        "webui": {"port": result.webui_port, "stop_timeout_s": 3},
    }
    result.config.write_text(yaml.safe_dump(document))
    return result


@pytest.fixture
def running(deployment: Deployment) -> Deployment:
    result = deployment.up()
    assert result.returncode == 0, result.stdout + result.stderr
    return deployment
