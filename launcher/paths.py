"""Where things are: the checkout, the environment, and the files of the running service."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# sockaddr_un holds 108 bytes on Linux, and supervisord adds ".<pid>" while it binds.
MAX_SOCKET_PATH = 96
# Ray adds "/session_2026-11-28_20-28-06_123456_1234567/sockets/plasma_store.1".
MAX_RAY_PATH = 107 - 68


@dataclass(frozen=True)
class Paths:
    """Every file the launcher writes, from two folders: ``etc`` and ``run``; and models, which lie
    beside ``run``."""

    etc: Path
    run: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Paths:
        """``STEP3VL_HOME`` moves both folders; else they are in the environment and the checkout.

        ``<environment>/etc/supervisord.conf`` is where ``supervisorctl`` looks by itself.
        """
        if home := environ.get("STEP3VL_HOME"):
            base = Path(home).absolute()
            return cls(etc=base / "etc", run=base / "run")
        return cls(etc=Path(sys.prefix) / "etc", run=ROOT / "run")

    @property
    def supervisord_conf(self) -> Path:
        return self.etc / "supervisord.conf"

    @property
    def models(self) -> Path:
        """What ``launch download`` has fetched, a folder for each model."""
        return self.run.parent / "models"

    @property
    def socket(self) -> Path:
        """supervisord's control socket; under /tmp where the path would be too long for one."""
        path = self.run / "supervisor.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        return self._in_tmp("supervisor.sock")

    def _in_tmp(self, name: str) -> Path:
        """In a folder of this installation there, with a short path."""
        digest = hashlib.sha256(os.fsencode(self.run)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"step3vl-{os.getuid()}-{digest}" / name

    @property
    def sockets(self) -> Path:
        """For the WebUI's own sockets, whose names are no longer than supervisord's."""
        return self.socket.parent

    @property
    def pidfile(self) -> Path:
        return self.run / "supervisord.pid"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    def log_of(self, program: str) -> Path:
        """The log file of ``vllm``, ``webui`` or ``supervisord``."""
        return self.logs / f"{program}.log"

    @property
    def launcher_log(self) -> Path:
        """Tracebacks of errors nobody expected."""
        return self.logs / "launcher.log"

    @property
    def engine_state(self) -> Path:
        """What the engine is doing, written by its parent (:mod:`launcher.engine`); of several,
        what they do together, written by the router's (:mod:`launcher.router`)."""
        return self.run / "engine.json"

    def state_of(self, engine: str) -> Path:
        """What one of several engines is doing; with one engine, that is :attr:`engine_state`."""
        return self.run / f"{_stem(engine)}.json"

    def crashes_of(self, engine: str) -> Path:
        """How often an engine crashed since it last ran well, and why the last time."""
        return self.run / f"{_stem(engine)}-crashes.json"

    def lock_of(self, engine: str) -> Path:
        """Held by an engine's parent for as long as it lives."""
        return self.run / f"{_stem(engine)}.lock"

    @property
    def replicas(self) -> Path:
        """Which engines there are and how they do, written by the router's parent."""
        return self.run / "replicas.json"

    @property
    def draining(self) -> Path:
        """The engine that is to get no new requests, by its title, while it is being restarted."""
        return self.run / "draining.json"

    @property
    def rolling_lock(self) -> Path:
        """Held by a rolling restart."""
        return self.run / "rolling.lock"

    @property
    def node(self) -> Path:
        """Which machine of a cluster this is, as ``up`` left it."""
        return self.run / "node"

    @property
    def backend(self) -> Path:
        """What ``up --backend`` chose in place of the YAML's; empty where that decides."""
        return self.run / "backend"

    @property
    def ray(self) -> Path:
        """Ray's sessions: its logs, and its sockets, for which the path must be short."""
        path = self.run / "ray"
        return path if len(os.fsencode(path)) <= MAX_RAY_PATH else self._in_tmp("ray")

    @property
    def active_config(self) -> Path:
        """Holds the path of the YAML in use, as ``up``, ``render`` or ``install`` left it."""
        return self.run / "config-path"

    @property
    def keys(self) -> Path:
        """Hashes of the API's keys; without the file none is needed (:mod:`launcher.keys`)."""
        return self.run / "api-keys.json"

    @property
    def secret(self) -> Path:
        """Of this installation, made by the WebUI."""
        return self.run / "secret"

    @property
    def history(self) -> Path:
        """Conversations that the page keeps."""
        return self.run / "history"

    @property
    def answers(self) -> Path:
        """The WebUI's kept answers, where ``webui.cache_mb`` is set."""
        return self.run / "answers.sqlite"

    @property
    def lock(self) -> Path:
        """Held while files are written and supervisord is started."""
        return self.run / "up.lock"

    @property
    def webui_address(self) -> Path:
        """Where the WebUI really listens, written by it (a ``--port`` may have changed it)."""
        return self.run / "webui.json"

    def make_private_folders(self) -> None:
        """Create every folder, readable by this user only."""
        for folder in (self.run, self.logs, self.socket.parent, self.ray.parent):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        self.etc.mkdir(parents=True, exist_ok=True)


def noted(file: Path) -> str:
    """What an earlier ``up`` has noted there; empty where there is nothing."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _stem(engine: str) -> str:
    """Of the files of an engine: ``engine`` of ``vllm``, ``engine-0`` of ``vllm-0``."""
    return engine.replace("vllm", "engine", 1)
