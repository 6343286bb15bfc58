"""Keep the page's process running: it is started, and started again when it ends or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping

from webui.page_relay import PageRelay, State

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "webui.chat")

# Before it is started again: the first time, and at most. A good run is one that lasts.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
GOOD_RUN_S = 60.0
# Ends before it has ever answered, after which visitors are told.
FAILED_STARTS = 3
# It is asked every few seconds. So many times without an answer, and it hangs; before it listens it
# may be importing for long, on a machine that is busy loading a model.
LOOK_S, ANSWER_S = 2.0, 4.0
MOST_SILENT, MOST_ABSENT = 4, 150
# To put away what has come of its visitors' answers.
STOP_S = 2.0


class PageProcess:
    """The page under the gateway's eye.

    Args:
        environ: of the process.
    """

    def __init__(self, relay: PageRelay, environ: Mapping[str, str]) -> None:
        self._relay = relay
        self._environ = environ
        self._failed_starts = 0
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """And go on starting it, until :meth:`stop`."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Returns when it has ended."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            began = loop.time()
            self._failed_starts += 1  # until it answers
            try:
                how = f"ended with {await self._run_once()}"
            except OSError as error:  # the machine has no room for one more
                how = f"cannot be started: {error}"
            self._relay.is_broken = self._failed_starts >= FAILED_STARTS
            pause = FIRST_PAUSE_S if loop.time() - began > GOOD_RUN_S else pause
            logger.warning("the page %s; it is started again in %.1f s", how, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _run_once(self) -> int:
        """Its exit code."""
        # It ends when its parent does, which it is told here: its own parent may be another by the
        # time it looks.
        process = await asyncio.create_subprocess_exec(
            *COMMAND, str(os.getpid()), stdin=DEVNULL, env=self._environ
        )
        watching = asyncio.create_task(self._watch(process))
        try:
            return await process.wait()
        finally:
            watching.cancel()
            await _end(process)

    async def _watch(self, process: Process) -> None:
        """Kill it if it hangs."""
        silent = absent = 0
        while silent < MOST_SILENT and absent < MOST_ABSENT:
            await asyncio.sleep(LOOK_S)
            match await self._relay.state(ANSWER_S):
                case State.ANSWERS:
                    silent = absent = self._failed_starts = 0
                    self._relay.is_broken = False
                case State.SILENT:
                    silent += 1
                case State.ABSENT:
                    absent += 1
        logger.warning("the page does not answer")
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _end(process: Process) -> None:
    """With time for its last words, but not much."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        logger.warning("the page does not end; it is killed")
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
