"""``launch restart --rolling``: one engine after the other, while the others answer."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.backends import with_backend
from launcher.cluster import Agent
from launcher.cluster_guard import read_key
from launcher.config import DeployConfig, load_config
from launcher.engine_state import FAILED, READY, read_document
from launcher.errors import LauncherError
from launcher.layout import Replica, has_head, replicas_of
from launcher.nodes import node_here
from launcher.paths import Paths
from launcher.programs import cluster_key_file
from launcher.render import RenderedFile, write_if_changed
from launcher.selection import select_config
from launcher.supervisord import Supervisord
from launcher.terminal import ProgressLine, say

POLL_S = 0.2
TAKEN_OUT_S = 15.0
FIGURES_S = 3.0
START_MARGIN_S = 30.0
_BUSY = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? ([0-9.e+]+)$", re.MULTILINE)


def restart_rolling() -> int:
    """
    Raises:
        LauncherError: no engine could take over, or one did not come back; the rest runs on as it
            did.
    """
    paths = Paths.from_environ()
    selection = select_config(None, paths)
    config = with_backend(load_config(selection.path), paths)
    node = node_here(config, paths)
    if not has_head(config, node):
        head = config.cluster.head
        raise LauncherError(f"the head does that: {head.name if head else ''}")
    rolling = _Rolling(config, selection.path, paths, node)
    known = set(rolling.rows())
    engines = [replica for replica in replicas_of(config) if replica.title in known]
    if len(engines) < 2:
        raise LauncherError("there is no second engine to take over: `launch restart vllm`")
    try:
        for replica in engines:
            rolling.restart(replica)
    finally:
        paths.draining.unlink(missing_ok=True)
    return 0


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
        others = [row for name, row in self.rows().items() if name != replica.title]
        if not any(row["phase"] == READY for row in others):
            raise LauncherError(f"no other engine is ready, so {replica.title} is left as it is")
        self._began = time.monotonic()
        write_if_changed(RenderedFile(self._paths.draining, replica.title))
        self._wait(replica, "taken out", lambda: self._phase(replica) != READY, TAKEN_OUT_S)
        # What takes longer is ended with the engine, as at any stop.
        limit = self._config.engine.stop_timeout_s
        self._wait(replica, "finishing", lambda: not self._is_busy(replica), limit, must=False)
        self._progress.show(f"{replica.title}: restarting", time.monotonic() - self._began)
        if replica.node == self._node:
            self._supervisord.stop(replica.name)
            self._supervisord.start(replica.name)
        else:
            self._agent(replica).restart(replica.name)
        self._paths.draining.unlink(missing_ok=True)
        limit = self._config.engine.start_timeout_s + START_MARGIN_S
        self._wait(replica, "starting", lambda: self._is_back(replica), limit)
        self._progress.end()
        say(f"{replica.title}: restarted in {time.monotonic() - self._began:.0f} s")

    def _agent(self, replica: Replica) -> Agent:
        node = self._config.cluster.node(replica.node)
        assert node is not None  # noqa: S101  (it was made of one)
        return Agent(node, self._config, self._config_path)

    def _phase(self, replica: Replica) -> str:
        return str(self.rows().get(replica.title, {}).get("phase"))

    def _is_back(self, replica: Replica) -> bool:
        phase = self._phase(replica)
        if phase == FAILED:
            words = self.rows()[replica.title].get("message")
            raise LauncherError(f"{replica.title} did not come back: {words}")
        return phase == READY

    def _is_busy(self, replica: Replica) -> bool:
        request = urllib.request.Request(f"{replica.url}/metrics")
        if replica.node:
            key = read_key(cluster_key_file(self._config, self._config_path))
            request.add_header("authorization", f"Bearer {key}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=FIGURES_S) as answer:
                text = answer.read().decode(errors="replace")
        except (OSError, urllib.error.URLError):
            return False
        return any(float(value) for value in _BUSY.findall(text))

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
            if time.monotonic() > deadline:
                if must:
                    raise LauncherError(f"{replica.title}: not {words} after {limit_s:.0f} s")
                return
            self._progress.show(f"{replica.title}: {words}", time.monotonic() - self._began)
            time.sleep(POLL_S)
