"""Hand the programs to a supervisord that the machine already runs (``launch install --system``).

Two files: the programs for supervisord's include folder, and the WebUI's start script where the
article's readers look for it. Both carry a mark; ``uninstall`` removes marked files only. Which
YAML is in use is noted in the checkout, as ``up`` does.
"""

from __future__ import annotations

import os
import pwd
import shlex
from dataclasses import replace
from pathlib import Path

from launcher.backends import load_here
from launcher.downloads import settled
from launcher.errors import LauncherError
from launcher.lifecycle import check_folders
from launcher.nodes import node_here
from launcher.paths import ROOT, Paths
from launcher.programs import START_SCRIPT, WEBUI, Program, programs_for
from launcher.render import RenderedFile, render_programs, write_if_changed
from launcher.selection import select_config
from launcher.supervisord import Supervisord
from launcher.terminal import say

MARK = "made by step3vl: `launch install --system`"
CONF = Path("etc/supervisor/conf.d/step3vl.conf")
SCRIPT = Path("usr/local/bin/start-webui-service.sh")


def _files(config_path: Path, root: Path) -> list[RenderedFile]:
    paths = Paths.from_environ()
    config = load_here(config_path, paths)
    check_folders(config, config_path)
    config, _ = settled(config, config_path, paths)
    node = node_here(config, paths)
    programs = [
        replace(program, command=_system_command(program, root))
        for program in programs_for(config, config_path, paths, node)
    ]
    rendered = render_programs(programs, paths, config.logs, user=owner().pw_name)
    return [
        RenderedFile(root / CONF, f"; {MARK}\n{rendered}", 0o644),
        RenderedFile(
            root / SCRIPT,
            f"#!/bin/sh\n# {MARK}\n# Options written here win over the YAML, as in"
            f' OPTIONS="--port 7861"\n{_options_line(root / SCRIPT)}\n'
            f'exec {shlex.quote(str(START_SCRIPT))} $OPTIONS "$@"\n',
            0o755,
        ),
        RenderedFile(paths.active_config, str(config_path)),
    ]


def _system_command(program: Program, root: Path) -> tuple[str, ...]:
    """A command for a supervisord that does not share our environment.

    The WebUI is started by the installed script: it is the one that the article's readers edit.
    """
    command = (str(root / SCRIPT),) if program.name == WEBUI else program.command
    home = os.environ.get("STEP3VL_HOME")
    variables = [f"HOME={owner().pw_dir}"]
    variables += [f"STEP3VL_HOME={Path(home).absolute()}"] if home else []
    return ("/usr/bin/env", *variables, *command)


def owner() -> pwd.struct_passwd:
    """Whose checkout this is. Root's supervisord runs it as that user: what another user may
    change must not run as root.

    Raises:
        LauncherError: this machine does not know that user.
    """
    uid = ROOT.stat().st_uid
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise LauncherError(
            f"{ROOT} belongs to user number {uid}, whom this machine does not know; chown it"
        ) from None


def _hand_over(paths: Paths) -> None:
    """What root made in the checkout belongs to the checkout's owner."""
    found = owner()
    for path in (paths.run, *paths.run.rglob("*"), paths.socket.parent, paths.etc):
        if path.exists() and os.geteuid() == 0:
            os.chown(path, found.pw_uid, found.pw_gid, follow_symlinks=False)


def _options_line(script: Path) -> str:
    """The OPTIONS of an earlier installation, which may have been edited."""
    lines = script.read_text().splitlines() if script.exists() and not _is_foreign(script) else []
    return next((line for line in lines if line.startswith("OPTIONS=")), 'OPTIONS=""')


def _require_root(root: Path) -> None:
    if root == Path("/") and os.geteuid() != 0:
        raise LauncherError("writing to /etc and /usr/local needs root: repeat it with sudo")


def _is_foreign(path: Path) -> bool:
    try:
        return MARK not in path.read_text(errors="replace")
    except FileNotFoundError:
        return False


def install(given: str | None, root: Path, *, dry_run: bool) -> int:
    """Write the files, or print them.

    Raises:
        LauncherError: not root, a file of somebody else's is in the way, or our own supervisord
            runs and would start everything a second time.
    """
    paths = Paths.from_environ()
    files = _files(select_config(given, paths).path, root)
    if dry_run:
        for file in files:
            say(f"--- {file.path} (mode {file.mode:o})\n{file.content}")
        return 0
    _require_root(root)
    foreign = [f.path for f in files if f.path != paths.active_config and _is_foreign(f.path)]
    if foreign:
        raise LauncherError(f"{foreign[0]} exists and is not ours; move it away first")
    if Supervisord(paths).is_running():
        raise LauncherError("our own supervisord runs; `launch down` first")
    paths.make_private_folders()
    for file in files:
        say(f"{'wrote' if write_if_changed(file) else 'unchanged'}: {file.path}")
    _hand_over(paths)
    say("Now: supervisorctl reread && supervisorctl update")
    return 0


def uninstall(root: Path, *, dry_run: bool) -> int:
    """Remove what ``install`` wrote."""
    if not dry_run:
        _require_root(root)
    for path in (root / CONF, root / SCRIPT):
        if not path.exists():
            say(f"absent: {path}")
        elif _is_foreign(path):
            say(f"kept, not ours: {path}")
        elif dry_run:
            say(f"would remove: {path}")
        else:
            path.unlink()
            say(f"removed: {path}")
    if not dry_run:
        say("Now: supervisorctl update")
    return 0
