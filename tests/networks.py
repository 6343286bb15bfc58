"""Programs in a network of their own, as root there: what they print, as JSON, is what they saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ALONE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--kill-child", "--fork"]


def seen_in_own_network(program: Path, folder: Path, timeout: float) -> dict[str, Any]:
    """Run a program with a folder as its argument, to its end in so many seconds."""
    command = [*ALONE, sys.executable, str(program), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
