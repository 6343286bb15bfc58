"""``python -m webui.chat GATEWAY``: the page's process, which the gateway's starts (GATEWAY is its
process id) and tells by the environment (see settings.py)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys

from webui.private_socket import API, PAGE, serving
from webui.process import leave_to_rest, log_to_stdout, run_and_exit
from webui.settings import Settings

# The API goes first where the cores are full. Not by more: an engine without a GPU takes them all.
NICE = 5

_PR_SET_PDEATHSIG = 1


async def serve(settings: Settings) -> None:
    """Until a signal comes."""
    # gradio is imported here, by a process that already has its place and its end.
    from webui.chat.service import PageService

    assert settings.sockets is not None  # noqa: S101  (the gateway names it)
    service = PageService(settings, settings.sockets / API)
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with service.app.router.lifespan_context(service.app):
        leave_to_rest()
        async with serving(service.app, settings.sockets / PAGE, behind_proxy=True):
            await stopped.wait()
            await service.close()


def _end_with(gateway: int) -> None:
    """Have the kernel end this process with the gateway's, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != gateway:  # it has ended already
        raise SystemExit(1)


def main() -> None:
    _end_with(int(sys.argv[1]))
    os.nice(NICE)
    log_to_stdout()
    run_and_exit(serve(Settings.from_environ()))


if __name__ == "__main__":
    main()
