"""A deployment under a real supervisord, a stand-in engine, a WebUI over it: what tests hold."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml
from support import FAKE_VLLM, ROOT, free_port, wait_for

LAUNCH = [sys.executable, "-P", "-m", "launcher"]


@dataclass
class Deployment:
    """A YAML of its own, its ports, and the commands on it."""

    config: Path
    home: Path
    webui_port: int
    engine_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.webui_port}"

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    def launch(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of the launcher to its end."""
        return subprocess.run(
            [*LAUNCH, *arguments],
            env={**os.environ, "STEP3VL_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.home,
        )

    def up(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.launch("up", "--config", str(self.config), *arguments, **more)

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``supervisorctl`` as a user types it, with no -c; cwd is anywhere."""
        return subprocess.run(
            [self.home / "bin" / "supervisorctl", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )

    def edit(self, section: str, **values: Any) -> None:
        """Change keys of the YAML."""
        document = yaml.safe_load(self.config.read_text())
        document.setdefault(section, {}).update(values)
        self.config.write_text(yaml.safe_dump(document))

    def script(self, **script: Any) -> None:
        """How the stand-in behaves from its next start on."""
        self.edit("engine", environment={"FAKE_VLLM": json.dumps(script)})


def new_deployment(home: Path) -> Deployment:
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


def states(deployment: Deployment) -> dict[str, str]:
    """What plain ``supervisorctl status`` prints."""
    lines = deployment.ctl("status").stdout.splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def status(deployment: Deployment) -> dict[str, Any]:
    """``launch status --json`` with the programs by name."""
    document = json.loads(deployment.launch("status", "--json").stdout)
    return {**document, "programs": {p["name"]: p for p in document["programs"]}}


def pids(deployment: Deployment) -> dict[str, int]:
    return {name: p["pid"] for name, p in status(deployment)["programs"].items()}


def own_processes(deployment: Deployment) -> list[psutil.Process]:
    """Every process that carries this installation's home in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("STEP3VL_HOME")
            ours = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if ours and home == str(deployment.home):
            found.append(process)
    return found


def get(url: str) -> tuple[int, Any, Any]:
    """Status, headers and parsed body, errors included."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.headers, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)


def engine_child(deployment: Deployment) -> psutil.Process:
    """The stand-in engine itself, below its parent."""
    [child] = psutil.Process(pids(deployment)["vllm"]).children()
    return child


def get_quietly(url: str) -> int:
    try:
        return get(url)[0]
    except OSError:
        return 0


@dataclass
class Engine:
    """A stand-in engine that runs, and what can be asked of it."""

    url: str
    process: subprocess.Popen[bytes] | None

    def script(self, **script: Any) -> None:
        """Behave like this from now on, and forget what was seen."""
        request = urllib.request.Request(
            f"{self.url}/fake/script",
            json.dumps(script).encode(),
            {"content-type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=5).close()

    def seen(self) -> list[dict[str, Any]]:
        """Requests so far, without those for the list of models, of which the WebUI has its own."""
        with urllib.request.urlopen(f"{self.url}/fake/seen", timeout=5) as response:
            return [seen for seen in json.load(response) if seen["path"] != "/v1/models"]


@dataclass
class Webui:
    """A WebUI process over a stand-in engine."""

    url: str
    engine: Engine
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running_webui(folder: Path, engine: Engine, **settings: str) -> Iterator[Webui]:
    """A WebUI over an engine, with limits that tests can reach, and these settings."""
    port = free_port()
    environ = {
        **os.environ,
        "WEBUI_PORT": str(port),
        "WEBUI_UPSTREAM": engine.url,
        "WEBUI_MODEL": "one",
        "WEBUI_NOTICE": "A stand-in answers.",
        "WEBUI_NOTICE_ZH": "回答的是替身。",
        "WEBUI_MAX_REQUEST_MB": "2",
        "WEBUI_UPSTREAM_IDLE_S": "2",
        "WEBUI_KEEP_ALIVE_S": "0.5",
        "WEBUI_MAX_UPLOAD_MB": "1",
        "WEBUI_IMAGE_HOSTS": "localhost",
        "WEBUI_ADDRESS_FILE": str(folder / "webui.json"),
        "WEBUI_HISTORY": str(folder / "history"),
        "WEBUI_BATCHES": str(folder / "batches"),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        **settings,
    }
    with contextlib.ExitStack() as at_end:
        # Its sockets' folder; one that is killed leaves it. The test's own has too long a path.
        environ["TMPDIR"] = at_end.enter_context(TemporaryDirectory())
        log = at_end.enter_context((folder / "webui.log").open("wb"))
        command = [sys.executable, "-P", "-m", "webui"]
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        at_end.callback(end, process)
        url = f"http://127.0.0.1:{environ['WEBUI_PORT']}"
        wait_for(
            lambda: process.poll() is not None or answers(f"{url}/readyz"), 30, "the WebUI is ready"
        )
        assert process.returncode is None, f"it ended with {process.returncode}"
        yield Webui(url, engine, process, folder / "webui.log")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    finally:
        process.kill()


SUPERVISED = """
[unix_http_server]
file={folder}/s.sock
[supervisord]
pidfile={folder}/s.pid
logfile={folder}/s.log
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:vllm]
command={python} -c "import os, time; print('begun', os.getpid(), flush=True); time.sleep(600)"
autorestart=true
startsecs=0
redirect_stderr=true
stdout_logfile={folder}/vllm.log
"""


@contextmanager
def supervised_program(folder: Path) -> Iterator[str]:
    """A supervisord with a program named like the engine, which says ``begun`` in ``vllm.log``;
    where it listens, as it tells those that it starts."""
    config = folder / "s.conf"
    config.write_text(SUPERVISED.format(folder=folder, python=sys.executable))
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
    with (folder / "supervisord.out").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        log = folder / "vllm.log"
        # The whole line, which unbuffered output writes word by word.
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"), 30, "the program runs")
        yield f"unix://{folder}/s.sock"
    finally:
        process.terminate()
        process.wait(30)
