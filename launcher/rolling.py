"""``launch restart --rolling``: one engine after the other, while the others answer."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.backends import load_here
from launcher.cluster import Agent
from launcher.cluster_guard import read_key
from launcher.config import DeployConfig
from launcher.downloads import settled
from launcher.engine_state import FAILED, READY, read_document
from launcher.engine_watch import RUNNING, figures_in
from launcher.errors import LauncherError
from launcher.layout import Replica, has_head, replicas_of
from launcher.nodes import node_here
from launcher.paths import Paths
from launcher.programs import cluster_key_file, programs_for
from launcher.render import RenderedFile, render_supervisord, write_if_changed
from launcher.selection import select_config
from launcher.supervisord import Supervisord
from launcher.terminal import ProgressLine, say

POLL_S = 0.2
TAKEN_OUT_S = 15.0
FIGURES_S = 3.0
START_MARGIN_S = 30.0
# Until what is known of an engine is of the new one.
NEWS_S = 5.0


def restart_rolling() -> int:
    """
    Raises:
        LauncherError: no engine could take over, or one did not come back; the rest runs on as it
            did.
    """
    paths = Paths.from_environ()
    selection = select_config(None, paths)
    config = load_here(selection.path, paths)
    config, _ = settled(config, selection.path, paths)
    node = node_here(config, paths)
    if not has_head(config, node):
        head = config.cluster.head
        raise LauncherError(f"the head does that: {head.name if head else ''}")
    _refuse_changes(config, selection.path, paths, node)
    rolling = _Rolling(config, selection.path, paths, node)
    known = rolling.rows()
    engines = [replica for replica in replicas_of(config) if replica.title in known]
    if len(engines) < 2:
        raise LauncherError("there is no second engine to take over: `launch restart vllm`")
    with _alone(paths):
        for replica in engines:
            rolling.restart(replica)
    return 0


def _refuse_changes(config: DeployConfig, config_path: Path, paths: Paths, node: str) -> None:
    """Engines are started by the YAML of now, and supervisord knows that of the last `up`."""
    programs = programs_for(config, config_path, paths, node)
    for file in render_supervisord(programs, paths, config.logs):
        if not file.path.exists() or file.path.read_text() != file.content:
            raise LauncherError(
                f"{config_path} has changed since the last `launch up`, which restarts all that it"
                " changes: do that first"
            )


@contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """Two at once would take out two engines at once."""
    with paths.rolling_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LauncherError("another `launch restart --rolling` is at it") from None
        try:
            yield
        finally:
            paths.draining.unlink(missing_ok=True)


class _Rolling:
    def __init__(self, config: DeployConfig, config_path: Path, paths: Paths, node: str) -> None:
        self._config = config
        self._config_path = config_path
        self._paths = paths
        self._node = node
        self._supervisord = Supervisord(paths)
        self._progress = ProgressLine()
        self._began = time.monotonic()

    def rows(self) -> dict[str, dict[str, Any]]:
        """The engines by title, as the router's parent knows them."""
        found = read_document(self._paths.replicas).get("replicas", [])
        return {str(row["name"]): row for row in found}

    def restart(self, replica: Replica) -> None:
        self._began = time.monotonic()
        self._check_others(replica)
        # Whoever reads it looks whether this process is still there.
        draining = {"engine": replica.title, "pid": os.getpid()}
        write_if_changed(RenderedFile(self._paths.draining, json.dumps(draining)))
        self._wait(replica, "taken out", lambda: self._phase(replica) != READY, TAKEN_OUT_S)
        # What takes longer is ended with the engine, as at any stop.
        limit = self._config.engine.stop_timeout_s
        self._wait(replica, "finishing", lambda: not self._is_busy(replica), limit, must=False)
        self._check_others(replica)
        self._progress.show(f"{replica.title}: restarting", time.monotonic() - self._began)
        if replica.node == self._node:
            self._supervisord.restart(replica.name, self._config.engine.stop_wait_s)
        else:
            self._agent(replica).restart(replica.name)
        self._paths.draining.unlink(missing_ok=True)
        limit = self._config.engine.start_timeout_s + START_MARGIN_S
        restarted = time.monotonic()
        self._wait(replica, "starting", lambda: self._is_back(replica, restarted), limit)
        self._progress.end()
        say(f"{replica.title}: restarted in {time.monotonic() - self._began:.0f} s")

    def _check_others(self, replica: Replica) -> None:
        rows = self.rows().items()
        if not any(row["phase"] == READY for name, row in rows if name != replica.title):
            raise LauncherError(f"no other engine is ready, so {replica.title} is left as it is")

    def _agent(self, replica: Replica) -> Agent:
        node = self._config.cluster.node(replica.node)
        assert node is not None  # noqa: S101  (it was made of one)
        return Agent(node, self._config, self._config_path)

    def _phase(self, replica: Replica) -> str:
        return str(self.rows().get(replica.title, {}).get("phase"))

    def _is_back(self, replica: Replica, restarted: float) -> bool:
        phase = self._phase(replica)
        if phase == FAILED and time.monotonic() - restarted > NEWS_S:
            words = self.rows()[replica.title].get("message")
            raise LauncherError(f"{replica.title} did not come back: {words}")
        return phase == READY

    def _is_busy(self, replica: Replica) -> bool:
        """Also where it does not say."""
        request = urllib.request.Request(f"{replica.url}/metrics")
        if replica.node:
            key = read_key(cluster_key_file(self._config, self._config_path))
            request.add_header("authorization", f"Bearer {key}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=FIGURES_S) as answer:
                figures = figures_in(answer.read())
        except ConnectionRefusedError:
            return False
        except (OSError, http.client.HTTPException):
            return True
        return any(figures.get(name) for name in RUNNING)

    def _wait(
        self,
        replica: Replica,
        words: str,
        until: Callable[[], bool],
        limit_s: float,
        *,
        must: bool = True,
    ) -> None:
        deadline = time.monotonic() + limit_s
        while not until():
            if not self._supervisord.is_running():
                raise LauncherError(f"{replica.title}: the service has been stopped meanwhile")
            if time.monotonic() > deadline:
                if must:
                    raise LauncherError(f"{replica.title}: not {words} after {limit_s:.0f} s")
                return
            self._progress.show(f"{replica.title}: {words}", time.monotonic() - self._began)
            time.sleep(POLL_S)
