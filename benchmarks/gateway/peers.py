"""The gateways that are measured: how each is installed, and started in front of an engine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.processes import Program, free_port

MODEL = "Step3-VL-10B"
KEY = "sk-benchmark"
NO_LIMIT = 10**9
RELAY = Path(__file__).with_name("plain_relay.py")
ROUTER_OPTIONS = (
    ("--policy", "round_robin"),
    ("--health-check-interval-secs", "5"),
    ("--worker-startup-check-interval", "2"),
    ("--log-level", "warning"),
)


class MissingError(Exception):
    """A peer is not installed; the message says so."""


def environments() -> Path:
    """Where each peer has an environment of its own."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "step3vl" / "gateway-peers"


@dataclass(frozen=True)
class Place:
    """Where one gateway is to run."""

    programs: Path
    """The ``bin`` folder of its environment."""
    folder: Path
    port: int
    engine: str


Command = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Peer:
    """``packages`` are pip's, and the first one's version is told; without any, it is there or not.

    It is ready when the path ``ready`` answers 200, and its page has ``ready_text``.
    """

    name: str
    command: Command
    packages: tuple[str, ...] = ()
    ready: str = "/v1/models"
    ready_text: bytes = b""
    environ: Callable[[Place], Mapping[str, str]] = field(default=lambda _place: {})

    def environment(self, peers: Path) -> Path:
        return peers / self.name

    def install(self, peers: Path) -> None:
        """Make its environment, unless it has one.

        Raises:
            subprocess.CalledProcessError: pip cannot install it.
        """
        folder = self.environment(peers)
        if not self.packages or (folder / "complete").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *self.packages], check=True)
        (folder / "complete").touch()

    def version(self, peers: Path) -> str:
        """Of the installed one.

        Raises:
            MissingError: it is not installed.
        """
        if self.name == "nginx":
            return _nginx_version()
        if not self.packages:
            return ""
        folder = self.environment(peers)
        if not (folder / "complete").exists():
            raise MissingError("not installed; see --install")
        name = self.packages[0].partition("[")[0]
        ask = f"import importlib.metadata as m; print(m.version({name!r}))"
        python = folder / "bin" / "python"
        return subprocess.run(
            [python, "-c", ask], capture_output=True, text=True, check=True
        ).stdout.strip()

    def start(self, peers: Path, folder: Path, engine: str) -> Gateway:
        """In front of ``engine``, and ready.

        Raises:
            NotStartedError: it is not.
        """
        place = Place(self.environment(peers) / "bin", folder, free_port(), engine)
        program = Program(self.name, self.command(place), folder, self.environ(place))
        gateway = Gateway(program, place.port)
        try:
            program.wait_for(f"{gateway.url}{self.ready}")
            if self.ready_text:
                password = base64.b64encode(f"user:{KEY}".encode()).decode()
                program.wait_for(
                    f"{gateway.url}/", self.ready_text, Authorization=f"Basic {password}"
                )
        except BaseException:
            program.end()
            raise
        return gateway


@dataclass(frozen=True)
class Gateway:
    """A peer that runs."""

    program: Program
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _nginx_version() -> str:
    if shutil.which("nginx") is None:
        raise MissingError("not installed; it is the package `nginx` of the system")
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return told.strip().rpartition("/")[2]


def _nginx(place: Place) -> list[str]:
    """One worker, and streams passed on as they come."""
    temporary = "\n".join(
        f"  {kind}_temp_path {place.folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = place.folder / "nginx.conf"
    configuration.write_text(f"""\
daemon off; worker_processes 1; pid {place.folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
{temporary}
  upstream engine {{ server {place.engine.removeprefix("http://")}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    keepalive_requests 1000000;
    client_max_body_size 64m;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 300s;
    }}
  }}
}}
""")
    return ["nginx", "-p", str(place.folder), "-c", str(configuration), "-e", "stderr"]


def _vllm_router(place: Place) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(place.port)]
    metrics = ["--prometheus-port", str(free_port())]
    engine = ["--worker-urls", place.engine]
    options = [word for option in ROUTER_OPTIONS for word in option]
    return [str(place.programs / "vllm-router"), *address, *metrics, *engine, *options]


def _litellm(place: Place) -> list[str]:
    configuration = place.folder / "litellm.yaml"
    configuration.write_text(f"""\
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: hosted_vllm/{MODEL}
      api_base: {place.engine}/v1
      api_key: none
litellm_settings:
  telemetry: false
""")
    program = [str(place.programs / "litellm"), "--config", str(configuration)]
    return [*program, "--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]


def _litellm_environ(place: Place) -> Mapping[str, str]:
    return {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # prices of models come from the net otherwise
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # keys would cost it more
        "LITELLM_LOG": "ERROR",
        "PATH": f"{place.programs}:{os.environ.get('PATH', '')}",
    }


def _plain_relay(place: Place) -> list[str]:
    return [str(place.programs / "python"), str(RELAY), str(place.port), place.engine]


def _webui(_place: Place) -> list[str]:
    return [sys.executable, "-P", "-m", "webui"]


def _webui_environ(place: Place) -> Mapping[str, str]:
    """With a key that has limits, as large as they may be."""
    key = {"name": "benchmark", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    rates = {"requests_per_minute": NO_LIMIT, "tokens_per_minute": NO_LIMIT}
    keys = place.folder / "keys.json"
    keys.write_text(json.dumps({"keys": [key | rates]}))
    keys.chmod(0o600)
    return {
        "WEBUI_PORT": str(place.port),
        "WEBUI_UPSTREAM": place.engine,
        "WEBUI_MODEL": MODEL,
        "WEBUI_KEYS_FILE": str(keys),
        "WEBUI_REQUIRE_KEYS": "1",
        "GRADIO_TEMP_DIR": str(place.folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


WEBUI = Peer(
    "webui",
    _webui,
    ready="/readyz",
    ready_text=b"gradio",  # what its page costs to load is not to be seen in the figures
    environ=_webui_environ,
)
PEERS = (
    WEBUI,
    Peer("nginx", _nginx),
    Peer("vllm-router", _vllm_router, ("vllm-router",)),
    Peer("plain-relay", _plain_relay, ("starlette", "httpx", "uvicorn[standard]")),
    Peer("litellm", _litellm, ("litellm[proxy]",), "/health/readiness", environ=_litellm_environ),
)
