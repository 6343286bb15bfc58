"""Let the engine's parent run on where somebody has stopped it (SIGSTOP); it does the same for us.

While it is stopped nobody reads what the engine says, and nobody would see it hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from pathlib import Path

logger = logging.getLogger(__name__)

LOOK_S = 10.0


async def watch_over(state_file: Path | None) -> None:
    """Until cancelled.

    Args:
        state_file: what the engine's parent writes, its process id included.
    """
    while state_file is not None:
        await asyncio.sleep(LOOK_S)
        if (pid := _stopped_parent(state_file)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            logger.warning("the engine's parent (process %d) had been stopped; it runs on", pid)


def _stopped_parent(state_file: Path) -> int | None:
    """Its process id, if it is the parent and has been stopped."""
    try:
        pid = json.loads(state_file.read_text())["pid"]
        process = Path(f"/proc/{int(pid)}")
        # "pid (name) state ...", and the name may hold anything.
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        # The file may be an old one, and the number a stranger's by now.
        is_ours = b"launcher.engine" in (process / "cmdline").read_bytes()
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return pid if state == "T" and is_ours else None
