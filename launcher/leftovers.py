"""Processes of this installation that outlived what started them.

Each program carries a tag in its environment, which all of its descendants inherit. A process is
known by that tag and never by a name: another installation's vLLM has the same one. Standard
library only, and Linux only: the engine's parent uses it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

TAG = "STEP3VL_INSTANCE"
# Set by supervisord for what it starts.
UNDER_SUPERVISORD = "SUPERVISOR_PROCESS_NAME"

POLL_S = 0.02
_SHARED_MEMORY = r"/dev/shm/psm_\w+"  # noqa: S108  (not ours: only taken away)

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def tag_of(run: Path, program: str) -> str:
    """What the programs of one installation, known by its run folder, carry.

    The folder itself and not its path alone: containers of one image have the same paths.
    """
    identity = os.fsencode(run.resolve())
    with contextlib.suppress(OSError):
        found = run.stat()
        identity += f" {found.st_dev} {found.st_ino}".encode()
    digest = hashlib.sha256(identity).hexdigest()[:16]
    return f"{digest}-{program}"


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this signal to this process when its parent ends, however it does."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (child subreaper)."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def environment_of(pid: int) -> dict[str, str]:
    """The variables that a process was started with; empty for one that is gone or not ours."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0") if item)
    return {name: value for name, _, value in pairs}


def tagged(tags: Iterable[str], *, under_supervisord: bool = False) -> set[int]:
    """Process ids that carry one of the tags, without this process.

    Args:
        under_supervisord: only those that supervisord started, and what came of them.
    """
    wanted = set(tags)
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        environment = environment_of(int(entry.name))
        if environment.get(TAG) not in wanted or not _is_ours(entry):
            continue
        if under_supervisord and UNDER_SUPERVISORD not in environment:
            continue
        if state_of(int(entry.name)) not in {"", "Z"}:
            found.add(int(entry.name))
    return found


def _is_ours(process: Path) -> bool:
    """Whether it runs as this user: anybody may carry the tag."""
    try:
        return process.stat().st_uid == os.getuid()
    except OSError:
        return False


def state_of(pid: int) -> str:
    """The kernel's letter for a process: R, S, D, T (stopped), Z; empty where there is none."""
    return _stat(pid)[0]


def has_ended(pid: int) -> bool:
    """Whether nothing is left of a process but its exit code.

    One that is ending loses its environment first, and its files, ports among them, a moment later;
    and with threads it is a zombie while others of them still hold all that.
    """
    if state_of(pid) not in {"", "Z"}:
        return False
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except OSError:
        return True


def parent_of(pid: int) -> int:
    """The parent's process id; 0 where there is no such process."""
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    try:
        # "pid (name) state parent ...", and the name may hold anything: half a character too.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return stat.rpartition(")")[2].split()[:2]
    except OSError:
        return ["", "0"]


def descendants(pid: int) -> list[int]:
    """Process ids below ``pid``; ended ones that nobody collected included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(parent_of(int(entry.name)), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def shared_memory(pids: Iterable[int]) -> set[Path]:
    """The blocks of shared memory, as Python names them, that these processes have. Whoever is
    killed leaves them in memory."""
    found: set[Path] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            found |= set(map(Path, re.findall(_SHARED_MEMORY, maps)))
    return found


def kill_all(find: Callable[[], Iterable[int]], limit_s: float) -> tuple[set[int], set[int]]:
    """Kill what ``find`` finds, and what it finds then, until it finds nothing and all have ended.

    Returns:
        All that were killed, and those that are still there after ``limit_s`` seconds.
    """
    deadline = time.monotonic() + limit_s
    killed: set[int] = set()
    while (left := kill_found(find, killed)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return killed, left


def kill_found(find: Callable[[], Iterable[int]], killed: set[int]) -> set[int]:
    """Kill what ``find`` finds now, and add it to ``killed``; who of all those is still there.

    What was found now counts as still there: it may have started another a moment before its end.
    """
    found = set(find())
    kill(found)
    killed |= found
    return found | {pid for pid in killed if not has_ended(pid)}


def kill(pids: Iterable[int]) -> None:
    """Kill processes, and collect those that are children of this one."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def wake(pids: Iterable[int]) -> list[int]:
    """Let stopped processes (SIGSTOP, Ctrl-Z) run on; those that were stopped."""
    stopped = [pid for pid in pids if state_of(pid) == "T"]
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)
    return stopped
