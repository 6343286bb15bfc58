"""What the gateway's process and the page's begin and end with."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import uvloop


def log_to_stdout() -> None:
    """Lines of both processes go to the same log, each whole."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log is read while it is written
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s"
    )
    for client in ("httpx", "httpx2"):  # a line for each request otherwise
        logging.getLogger(client).setLevel(logging.WARNING)


def leave_to_rest() -> None:
    """Do not search what has been imported and built for garbage during requests; it stays. (Of
    gradio's that is half a million objects.)"""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def run_and_exit(work: Coroutine[Any, Any, None]) -> NoReturn:
    """Do the work, and end this process without waiting for its threads: one may be decoding a
    picture."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
        sys.stdout.flush()
        os._exit(0)
