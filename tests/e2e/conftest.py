"""The real thing: the demo configuration with the real vLLM, started once for all tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
import yaml
from deployments import LAUNCH
from support import ROOT, free_port


@dataclass
class Box:
    """A machine on which `up` has been typed."""

    home: Path
    url: str
    engine_url: str
    output: str

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "STEP3VL_HOME": str(self.home)}
        command = [*LAUNCH, *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)

    def processes(self) -> list[psutil.Process]:
        """supervisord and everything below it."""
        supervisord = psutil.Process(int((self.home / "run" / "supervisord.pid").read_text()))
        return [supervisord, *supervisord.children(recursive=True)]

    def client(self, prefix: str = "/api/v1") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}{prefix}", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """deploy/demo.yaml with ports and files of its own, up and ready."""
    home = tmp_path_factory.mktemp("box")
    document = yaml.safe_load((ROOT / "deploy" / "demo.yaml").read_text())
    port = free_port()
    document["model"]["folder"] = str(ROOT / "deploy" / "models" / "step3-vl-demo")
    engine_port = document["engine"]["port"] = free_port()
    document["webui"] = {"port": port, "image_hosts": ["localhost"]}
    config = home / "demo.yaml"
    config.write_text(yaml.safe_dump(document))
    started = Box(home, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{engine_port}", "")
    try:
        result = started.launch("up", "--config", str(config))
        assert result.returncode == 0, result.stdout + result.stderr
        started.output = result.stdout
        yield started
        assert len(started.processes()) >= 6, "supervisord, WebUI, the parent, vLLM's own three"
    finally:
        began = started.processes()
        result = started.launch("down")
    assert result.stdout == "Stopped.\n"
    left = [process for process in began if process.is_running()]
    assert left == [], "`down` leaves nothing behind"
