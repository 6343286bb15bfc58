"""Between the gateway and the page: HTTP over sockets that only the service's own user can open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

# In the folder of the sockets.
API, PAGE = "webui-api.sock", "webui-page.sock"
# Longer than the clients here keep a connection: no request meets one that is being closed.
KEEP_ALIVE_S = 60
# All visitors at once.
BACKLOG = 2048


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, path: Path, *, behind_proxy: bool = False) -> AsyncIterator[None]:
    """Serve while the block runs. What is there from a process that was killed is replaced.

    Args:
        behind_proxy: whether ``X-Forwarded-For`` and ``-Proto`` tell who asks, and how.
    """
    config = uvicorn.Config(
        app,
        interface="asgi3",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="*",
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()
    state = ServerState()
    listener = _listener(path)
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: HttpToolsProtocol(config=config, server_state=state, app_state={}),
        sock=listener,
        backlog=BACKLOG,
    )
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
        for connection in [*state.connections]:
            connection.shutdown()


def _listener(path: Path) -> socket.socket:
    """Bound, and private before anybody can connect."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener
