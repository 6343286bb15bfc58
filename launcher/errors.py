"""The errors a person may meet, and the one place that turns them into a line and an exit code.

LauncherError            exit 1: something outside the configuration (a port, a process, a file)
└── ConfigError          exit 2: the configuration; the message has a line for each mistake
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path


class LauncherError(Exception):
    """Expected: the message says what, where and what to do, and is all the user sees."""

    exit_code = 1


class ConfigError(LauncherError):
    """The configuration is wrong; nothing was started or written."""

    exit_code = 2


def _write_traceback(log: Path) -> bool:
    """Keep the traceback for a bug report; False where the log cannot be written."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("a") as file:
            file.write(f"--- {datetime.now().astimezone().isoformat()} {sys.argv}\n")
            file.write(traceback.format_exc())
    except OSError:
        return False
    return True


def run_guarded(run: Callable[[], int], log: Path) -> int:
    """Run a command; whatever it raises becomes one line on standard error and an exit code."""
    try:
        return run()
    except LauncherError as error:
        print(f"step3vl: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("step3vl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `launch logs vllm | head`
        sys.stderr.close()
        return 141
    except Exception as error:  # noqa: BLE001  (the one boundary: nobody should meet a traceback)
        where = f" (details: {log})" if _write_traceback(log) else ""
        print(f"step3vl: unexpected {type(error).__name__}: {error}{where}", file=sys.stderr)
        return 1
