"""What answers for a machine of a cluster: how its engines do, and restarts of them.

    python -m launcher.node_agent SETTINGS

It listens on the machine's address in the cluster, on the port that on the head's 127.0.0.1 is the
router's, and wants the cluster's key.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from launcher.cluster_guard import is_from_here, is_key, read_key
from launcher.engine_state import read_document
from launcher.errors import LauncherError
from launcher.node_settings import AgentSettings
from launcher.paths import Paths
from launcher.supervisord import Supervisord


class NodeAgent:
    """Its routes."""

    def __init__(self, settings: AgentSettings, supervisord: Supervisord) -> None:
        self._settings = settings
        self._supervisord = supervisord
        self._key = read_key(Path(settings.key_file))

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._require_key])
        application.router.add_get("/state", self.state)
        application.router.add_post("/restart/{program}", self.restart)
        return application

    @web.middleware
    async def _require_key(self, request: web.Request, handler: Any) -> web.StreamResponse:
        client = request.remote or ""
        # Looking needs no key on the machine itself; doing does.
        is_near = request.method == "GET" and is_from_here(client, self._settings.host)
        if not (is_near or is_key(request.raw_headers, self._key)):
            return web.json_response({"error": "this wants the cluster's key"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def state(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "node": self._settings.node,
                "versions": self._settings.versions,
                "engines": {
                    name: read_document(Path(file)) for name, file in self._settings.states.items()
                },
            }
        )

    async def restart(self, request: web.Request) -> web.Response:
        """Stop an engine, wait until it is gone, and begin to start it."""
        program = request.match_info["program"]
        if program not in self._settings.states:
            return web.json_response({"error": f"no engine {program!r} here"}, status=404)
        try:
            limit = self._settings.stop_wait_s
            await asyncio.to_thread(self._supervisord.restart, program, limit)
        except LauncherError as error:
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response({"restarted": program})


def main(argv: list[str]) -> int:
    settings = AgentSettings(**json.loads(argv[0]))
    agent = NodeAgent(settings, Supervisord(Paths.from_environ()))
    web.run_app(
        agent.application(), host=settings.host, port=settings.port, print=None, access_log=None
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
