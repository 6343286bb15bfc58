"""Programs to supervisord's files, as values; one function writes them.

The templates are data in ``supervisor/``. What is put into them is made of our own paths, quoted,
and of numbers: nothing of the YAML reaches an ini file as text.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from launcher.config import LogsConfig
from launcher.errors import LauncherError
from launcher.paths import ROOT, Paths
from launcher.programs import Program

TEMPLATES = ROOT / "supervisor"


@dataclass(frozen=True)
class RenderedFile:
    """A file to be written, with its permission bits."""

    path: Path
    content: str
    mode: int = 0o600


def ini_path(path: Path) -> str:
    """A path as a plain ini value.

    Raises:
        LauncherError: supervisord's files have no way to write this path.
    """
    text = str(path)
    # supervisord expands % once in some values and twice in others, so no spelling is right.
    if re.search(r"[\x00-\x1f%]|\s[;#]|^\s|\s$", text):
        raise LauncherError(
            f"{text!r}: supervisord cannot read a path with control characters, with % or with"
            " ' ;' or ' #' in it; move the checkout to a plainer folder"
        )
    return text


def ini_command(command: Sequence[str]) -> str:
    """A command line as supervisord splits it: like a POSIX shell."""
    return " ".join(shlex.quote(ini_path(Path(part)) if "/" in part else part) for part in command)


def _program_values(program: Program, paths: Paths, logs: LogsConfig) -> dict[str, str]:
    return {
        "name": program.name,
        "command": ini_command(program.command),
        "priority": str(program.priority),
        "startsecs": str(program.startsecs),
        "startretries": str(program.startretries),
        "stopwaitsecs": str(program.stopwaitsecs),
        "logfile": ini_path(paths.log_of(program.name)),
        "log_max_mb": str(logs.max_mb),
        "log_backups": str(logs.backups),
        "fingerprint": program.fingerprint,
    }


def _template(name: str) -> Template:
    return Template((TEMPLATES / name).read_text())


def render_programs(
    programs: Sequence[Program], paths: Paths, logs: LogsConfig, user: str | None = None
) -> str:
    """The ``[program:...]`` sections; ``user`` is who runs them where supervisord is root's."""
    template = _template("program.conf")
    sections = [template.substitute(_program_values(p, paths, logs)) for p in programs]
    sections = [f"{section}user={user}\n" if user else section for section in sections]
    return "\n".join([*sections, *_groups(programs)])


def _groups(programs: Sequence[Program]) -> Iterator[str]:
    """Otherwise supervisord would stop one after the other."""
    for name in sorted({program.group for program in programs} - {""}):
        members = [program for program in programs if program.group == name]
        yield _template("group.conf").substitute(
            name=name,
            programs=",".join(program.name for program in members),
            priority=members[0].priority,
        )


def render_supervisord(
    programs: Sequence[Program], paths: Paths, logs: LogsConfig
) -> list[RenderedFile]:
    """supervisord's whole configuration, one file."""
    main = _template("supervisord.conf").substitute(
        socket=ini_path(paths.socket),
        pidfile=ini_path(paths.pidfile),
        logfile=ini_path(paths.log_of("supervisord")),
        root=ini_path(ROOT),
        log_max_mb=logs.max_mb,
        log_backups=logs.backups,
        # supervisord warns about root unless the file says that root is meant.
        user="user=root" if os.getuid() == 0 else "; user: the one who started it",
    )
    content = f"{main}\n{render_programs(programs, paths, logs)}"
    return [RenderedFile(paths.supervisord_conf, content)]


def write_if_changed(file: RenderedFile) -> bool:
    """Write atomically, and only what differs; True if the file was written."""
    try:
        same_mode = file.path.stat().st_mode & 0o777 == file.mode
        if same_mode and file.path.read_bytes() == file.content.encode():
            return False
    except OSError:
        pass
    file.path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.path.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(file.content)
        Path(temporary).chmod(file.mode)
        Path(temporary).replace(file.path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True
