"""Installations that run the stand-in engine, and a WebUI process over it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from deployments import Deployment, Engine, Webui, answers, end
from support import FAKE_VLLM, ROOT, free_port, wait_for


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


@pytest.fixture(scope="session")
def webui_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """One for all tests that only send requests."""
    folder = tmp_path_factory.mktemp("webui")
    engine_port, port = free_port(), free_port()
    fake = [sys.executable, str(FAKE_VLLM), "--port", str(engine_port)]
    engine_process = subprocess.Popen([*fake, "--served-model-name", "one", "two"])
    environ = {
        **os.environ,
        "WEBUI_PORT": str(port),
        "WEBUI_UPSTREAM": f"http://127.0.0.1:{engine_port}",
        "WEBUI_MODEL": "one",
        "WEBUI_NOTICE": "A stand-in answers.",
        "WEBUI_MAX_REQUEST_MB": "2",
        "WEBUI_UPSTREAM_IDLE_S": "2",
        "WEBUI_ADDRESS_FILE": str(folder / "webui.json"),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    log = (folder / "webui.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "webui"], env=environ, stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    engine = Engine(f"http://127.0.0.1:{engine_port}", engine_process)
    try:
        wait_for(lambda: answers(f"{url}/readyz"), 30, "the WebUI over the stand-in is ready")
        yield Webui(url, engine, process)
    finally:
        end(process)
        end(engine_process)
        log.close()


@pytest.fixture
def webui(webui_process: Webui) -> Webui:
    """With an engine that behaves."""
    webui_process.engine.script()
    return webui_process
