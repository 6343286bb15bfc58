"""``python -m webui``: the gateway, which starts the page; told by its environment (see
settings.py)."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn

from webui.app import Webui
from webui.gateway.keys import KeysError
from webui.process import leave_to_rest, log_to_stdout, run_and_exit
from webui.server import Deadlines, Protocol, raise_file_limit
from webui.settings import Settings

# Longer than clients keep a connection for its next request (httpx, and so openai's: 5 s). With the
# same time on both sides a request can meet a connection that is just being closed.
KEEP_ALIVE_S = 30
# For what an answer that is ended says last, beyond the time to stop.
LAST_WORDS_S = 1


class Server(uvicorn.Server):
    """Goes on listening while the application drains: who asks then is told so, and when to come
    again, where a refused connection would tell nothing. Only then uvicorn's own shutdown begins.
    """

    def __init__(self, config: uvicorn.Config, webui: Webui, stop_timeout_s: float) -> None:
        super().__init__(config)
        self._webui = webui
        self._stop_timeout_s = stop_timeout_s
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn would note the signal and raise it again at the end: no exit code of 0 then.
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        """The first time with patience, the second time at once."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        else:
            self._webui.hurry()
            self.force_exit = True

    async def _drain(self) -> None:
        end = self._loop.time() + self._stop_timeout_s
        try:
            await self._webui.drain()
        finally:
            # What is written already, or just now, takes as long as its reader does.
            left = max(0.0, end - self._loop.time())
            self.config.timeout_graceful_shutdown = int(left + LAST_WORDS_S)
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # without waiting for anybody; but our files are put in order
            await self.lifespan.shutdown()


async def serve(settings: Settings) -> None:
    """Serve until a signal comes."""
    webui = Webui(settings)

    class GuardedProtocol(Protocol):
        deadlines = Deadlines.from_environ()

    config = uvicorn.Config(
        webui.asgi,
        interface="asgi3",
        host=settings.host,
        port=settings.port,
        http=GuardedProtocol,
        loop="uvloop",
        lifespan="on",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    leave_to_rest()
    await Server(config, webui, settings.stop_timeout_s).serve()


def main() -> int:
    log_to_stdout()
    raise_file_limit()
    try:
        run_and_exit(serve(Settings.from_environ()))
    except KeysError as error:
        logging.error("%s", error)  # noqa: TRY400  (no traceback for a mistake of the reader's)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
