"""``python -m webui``: the WebUI alone, told by its environment (see settings.py)."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from types import FrameType

import uvicorn
import uvloop

from webui.app import Webui
from webui.gateway.keys import KeysError
from webui.server import Deadlines, Protocol, raise_file_limit
from webui.settings import Settings

# Longer than clients keep a connection for its next request (httpx, and so openai's: 5 s). With the
# same time on both sides a request can meet a connection that is just being closed.
KEEP_ALIVE_S = 30


class Server(uvicorn.Server):
    """Tells the application that the end is near before it waits for open connections."""

    def __init__(self, config: uvicorn.Config, webui: Webui) -> None:
        super().__init__(config)
        self._webui = webui

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        asyncio.get_event_loop().call_soon_threadsafe(self._webui.begin_shutdown)


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
        timeout_graceful_shutdown=round(settings.stop_timeout_s),
    )
    await Server(config, webui).serve()


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log is read while it is written
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request otherwise
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(serve(Settings.from_environ()))
        except KeysError as error:
            logging.error("%s", error)  # noqa: TRY400  (no traceback for a mistake of the reader's)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
