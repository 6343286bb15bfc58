"""The commands that start, stop and show the service."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.backends import check_backend, load_here
from launcher.checkpoint import problems_of
from launcher.cluster import check_others, ensure_key
from launcher.config import DeployConfig, load_config
from launcher.downloads import settled
from launcher.errors import ConfigError, LauncherError
from launcher.host_checks import gpus, holders_of, listen_problem
from launcher.keys import KeyFile
from launcher.layout import ENGINE, engines_on, has_head, replicas_on
from launcher.leftovers import kill_all, tag_of, tagged, wake
from launcher.nodes import node_here
from launcher.paths import Paths
from launcher.planning import cards_of
from launcher.programs import (
    ENGINES,
    EVERY,
    WEBUI,
    batch_folder,
    is_on_cpu,
    listens_on,
    model_location,
    programs_for,
    workers_of,
)
from launcher.readiness import Address, StartWatch, read_engine_state
from launcher.render import RenderedFile, render_supervisord, write_if_changed
from launcher.selection import active_config, default_for, select_config
from launcher.status import is_alive
from launcher.supervisord import Supervisord
from launcher.terminal import ProgressLine, say, warn

WEBUI_START_S = 60.0
KILL_LIMIT_S = 10.0
LEFTOVERS_POLL_S = 0.1
PORT_PATIENCE_S = 2.0
WEBUI_LEAVES_S = 10.0


def check_folders(config: DeployConfig, config_path: Path) -> None:
    """Refuse a checkpoint folder that cannot be loaded, and one for batches that is none.

    Raises:
        ConfigError: with a line for everything missing or broken.
    """
    shared = batch_folder(config, config_path)
    if shared and not Path(shared).is_dir():
        raise ConfigError(f"{config_path}: webui.batch_folder: {shared} is no folder; make it")
    if config.model.folder is None:
        return
    problems = problems_of(Path(model_location(config, config_path)))
    if problems:
        raise ConfigError(
            "\n  ".join([f"{config_path}: model.folder cannot be served:", *problems])
        )


def _programs_of(paths: Paths) -> set[int]:
    """Every process that a supervisord of this installation started, and what came of them."""
    return tagged([tag_of(paths.run, name) for name in EVERY], under_supervisord=True)


def _is_ours(port: int, paths: Paths) -> bool:
    """Whether a port is held by this installation's service."""
    holders = holders_of(port)
    return bool(holders) and holders <= _programs_of(paths)


def _wake_all(supervisord: Supervisord, paths: Paths) -> None:
    """Let what was stopped (SIGSTOP, Ctrl-Z) run on; until then nothing of it would answer."""
    own = supervisord.process()
    for pid in wake([*([own.pid] if own else []), *_programs_of(paths)]):
        say(f"Process {pid} had been stopped; it runs on.")


def _end_leftovers(paths: Paths, patience_s: float) -> bool:
    """End what outlived a supervisord that was killed; False where there is nothing.

    The kernel has told the programs. A WebUI with open streams may take so many seconds to end them
    properly.

    Raises:
        LauncherError: something cannot be ended.
    """
    webui, deadline = tag_of(paths.run, WEBUI), time.monotonic() + patience_s
    while tagged([webui], under_supervisord=True) and time.monotonic() < deadline:
        time.sleep(LEFTOVERS_POLL_S)
    killed, left = kill_all(lambda: _programs_of(paths), KILL_LIMIT_S)
    if left:
        raise LauncherError(f"processes {sorted(left)} of an earlier start cannot be ended")
    if killed:
        say(f"Ended what an earlier supervisord had left: processes {sorted(killed)}")
    return bool(killed)


def check_ports(config: DeployConfig, paths: Paths, node: str) -> None:
    """Refuse to start beside a foreign program.

    Raises:
        LauncherError: naming each taken port and the process that holds it.
    """
    wanted = listens_on(config, node)
    deadline = time.monotonic() + PORT_PATIENCE_S
    while problems := [
        f"{key}: {problem}; end that process or write another {key}"
        for key, host, port in wanted
        if (problem := listen_problem(host, port)) and not _is_ours(port, paths)
    ]:
        # A program of ours that is just ending still holds its port, and says no more whose it is.
        if time.monotonic() > deadline:
            raise LauncherError("\n  ".join(problems))
        time.sleep(LEFTOVERS_POLL_S)


@contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """Let no second `up` start another supervisord beside ours; it waits its turn."""
    paths.make_private_folders()
    with paths.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def refuse_other_config(config_path: Path, paths: Paths, supervisord: Supervisord) -> None:
    active = active_config(paths)
    if supervisord.is_running() and active is not None and active != config_path:
        raise LauncherError(
            f"supervisord already runs with {active}; `launch down` first, then `launch up --config"
            f" {config_path}`"
        )


def write_files(
    config: DeployConfig, config_path: Path, paths: Paths, node: str
) -> list[RenderedFile]:
    """Write supervisord's configuration and note what it is made from; what was written."""
    paths.make_private_folders()
    programs = programs_for(config, config_path, paths, node)
    backend = config.engine.backend
    in_yaml = backend == load_config(config_path).engine.backend
    files = [
        RenderedFile(paths.active_config, str(config_path)),
        RenderedFile(paths.node, node),
        # Where it is the YAML's, that may change it.
        RenderedFile(paths.backend, "" if in_yaml else backend),
        *render_supervisord(programs, paths, config.logs),
    ]
    return [file for file in files if write_if_changed(file)]


def _forget_crashes(paths: Paths) -> None:
    for name in ENGINES:
        paths.crashes_of(name).unlink(missing_ok=True)


def _make_way(supervisord: Supervisord, paths: Paths, patience_s: float) -> None:
    """Before a supervisord is started: nothing of an earlier one is left.

    Raises:
        LauncherError: one runs that cannot be spoken to, or something cannot be ended.
    """
    if (silent := supervisord.process()) is not None:
        raise LauncherError(
            f"supervisord (process {silent.pid}) runs and does not answer: its socket"
            f" {paths.socket} is gone; `kill {silent.pid}`, then `launch up`"
        )
    _end_leftovers(paths, patience_s)
    paths.draining.unlink(missing_ok=True)
    for name in ENGINES:
        paths.state_of(name).unlink(missing_ok=True)


def _start_programs(supervisord: Supervisord) -> None:
    """Bring every program up."""
    if not supervisord.is_running():
        supervisord.ensure_running()
        return
    supervisord.update()
    for program in supervisord.states():
        if not is_alive(program):
            supervisord.start(program.name)


def _warn(config: DeployConfig, config_path: Path, paths: Paths) -> None:
    """Say what ``launch check`` would, at once instead of after a minute of loading."""
    from launcher.machine import read_machine  # most commands need neither
    from launcher.preflight import findings

    for finding in findings(config, config_path, paths, read_machine(config, config_path, paths)):
        warn(f"{finding.what}; {finding.fix}")


def check_cards(config: DeployConfig, node: str) -> None:
    """Refuse more replicas than there are cards for.

    Raises:
        ConfigError: with the number that fits.
    """
    count, each, found = engines_on(config, node), workers_of(config), len(cards_of(config))
    on_cpu = config.engine.command is not None or is_on_cpu()
    if on_cpu or count < 2 or count * each <= found:
        return
    key = "engine.replicas" if not node else f"the replicas of {node} in cluster.nodes"
    raise ConfigError(
        f"{count} replicas with {each} cards each need {count * each} cards, and this machine has"
        f" {found}: set {key} to {found // each}"
    )


def check_keys(config: DeployConfig, paths: Paths) -> None:
    """Refuse a service that nobody could use.

    Raises:
        LauncherError: the file of keys is broken, or a key is required and there is none.
    """
    has_keys = bool(KeyFile(paths.keys).entries())
    if config.webui.require_keys and not has_keys:
        raise LauncherError("webui.require_keys is set and there is no key: `launch keys add NAME`")


def up(
    given: str | None,
    *,
    detach: bool,
    foreground: bool = False,
    node: str | None = None,
    backend: str | None = None,
) -> int:
    """Start what is not running, apply what changed, wait until it answers.

    Args:
        detach: do not wait.
        foreground: become supervisord, for what keeps a process itself: docker, systemd.
        node: which machine of a cluster this is.
        backend: the engine, in place of the YAML's.
    """
    paths, began = Paths.from_environ(), time.time()
    selection = select_config(given, paths)
    say(f"Configuration: {selection.path} ({selection.reason})")
    config = as_written = load_here(selection.path, paths, backend)
    check_backend(config)
    supervisord = Supervisord(paths)
    here = node_here(config, paths, node)
    check_folders(config, selection.path)
    config, found = settled(config, selection.path, paths, here or None)
    if found is not None:
        say(f"Plan: {found.in_short} (`launch plan` tells why)")
    if config.model.hub_id is not None and config.engine.command is None:
        say(f"{config.model.hub_id} is fetched by vLLM while it starts, unless it was before;")
        say("  `launch download` does it with a progress line, resumes, and checks every file.")
    _wake_all(supervisord, paths)
    if supervisord.stopping():
        say("Waiting until what ran before has stopped.")
        supervisord.wait_until_stopped(_stop_limit(paths))
    refuse_other_config(selection.path, paths, supervisord)
    if foreground and supervisord.is_running():
        raise LauncherError("supervisord runs already; `launch down` first")
    check_cards(config, here)
    check_ports(config, paths, here)
    if here:
        ensure_key(config, selection.path, here)
        check_others(as_written, selection.path, here)
    if has_head(config, here):
        check_keys(config, paths)
    with _alone(paths):
        write_files(config, selection.path, paths, here)
        _forget_crashes(paths)
        if not supervisord.is_running():
            _make_way(supervisord, paths, config.webui.stop_wait_s)
        _warn(config, selection.path, paths)
        if foreground:
            supervisord.become()  # the lock goes with the file, which exec closes
        _start_programs(supervisord)
    if detach:
        say("Started; `launch status` tells when it is ready.")
        return 0
    return _wait(supervisord, paths, config, here, began)


def _way_back(paths: Paths) -> str:
    """From a YAML that was named, and stays in use though it failed, to the one that fits."""
    fits = default_for(gpus())
    if fits.path == active_config(paths):
        return ""
    return (
        f"\n  `launch down` and `launch up --config {fits.path}` take what fits this machine"
        f" ({fits.reason})"
    )


def _wait(
    supervisord: Supervisord, paths: Paths, config: DeployConfig, node: str, began: float
) -> int:
    watch = StartWatch(supervisord, paths, began, ProgressLine())
    try:
        # The engine's parent keeps the limit, and its verdict says more than ours would.
        limit = config.engine.start_timeout_s + WEBUI_START_S
        if not has_head(config, node):
            watch.wait_for_engines([r.name for r in replicas_on(config, node)], limit)
            say(f"Ready after {time.time() - began:.0f} s: {node}, a part of the cluster.")
            return 0
        if not replicas_on(config, node):
            _announce(config, watch.wait_for_webui(WEBUI_START_S))
            say("The engines run on other machines; `launch status` shows how they do.")
            return 0
        address = watch.wait(limit)
    except LauncherError as error:
        raise LauncherError(f"{error}{'' if node else _way_back(paths)}") from error
    except KeyboardInterrupt:
        say("Still starting in the background: `launch status` shows it, `launch down` ends it.")
        return 130
    say(f"Ready after {time.time() - began:.0f} s: {config.model.names[0]}{_count(paths)}")
    _announce(config, address)
    return 0


def _count(paths: Paths) -> str:
    """Of several engines, as long as not all are ready."""
    engine = read_engine_state(paths.engine_state)
    _, colon, count = engine.message.partition(": ") if engine else ("", "", "")
    return f" ({count}; `launch status` shows the others)" if colon else ""


def _announce(config: DeployConfig, address: Address) -> None:
    if config.model.notice:
        say(f"  {config.model.notice}")
    say(f"  Page:       {address.url}")
    say(f"  OpenAI API: {address.url}/api/v1")


def down() -> int:
    """Stop both programs and supervisord, and wait until all is gone."""
    paths = Paths.from_environ()
    supervisord = Supervisord(paths)
    _wake_all(supervisord, paths)
    if supervisord.is_running():
        supervisord.shut_down(timeout=_stop_limit(paths))
    elif not (
        supervisord.wait_until_stopped(_stop_limit(paths)) or _end_leftovers(paths, WEBUI_LEAVES_S)
    ):
        say("Nothing is running.")
        return 0
    say("Stopped.")
    return 0


def _stop_limit(paths: Paths) -> float:
    """Seconds after which supervisord itself has killed everything, and a little more."""
    active = active_config(paths)
    if active is None:
        return 120.0
    try:
        config = load_here(active, paths)
        programs = programs_for(config, active, paths, node_here(config, paths))
    except ConfigError:  # edited into something wrong since; stopping must work all the same
        return 120.0
    # A group's are stopped together.
    return sum({p.group or p.name: p.stopwaitsecs for p in programs}.values()) + 10.0


def restart(name: str) -> int:
    """Stop and start one program, and wait until the service answers again."""
    paths, began = Paths.from_environ(), time.time()
    supervisord = Supervisord(paths)
    config = load_here(select_config(None, paths).path, paths)
    _wake_all(supervisord, paths)
    say(f"Stopping {name}.")
    supervisord.stop(name)
    _forget_crashes(paths)
    supervisord.start(name)
    if name.startswith(f"{ENGINE}-"):
        watch = StartWatch(supervisord, paths, began, ProgressLine())
        watch.wait_for_engines([name], config.engine.start_timeout_s + WEBUI_START_S)
        say(f"{name}: ready after {time.time() - began:.0f} s")
        return 0
    if name != WEBUI:
        return _wait(supervisord, paths, config, node_here(config, paths), began)
    address = StartWatch(supervisord, paths, began, ProgressLine()).wait_for_webui(WEBUI_START_S)
    say(f"{WEBUI} answers at {address.url}")
    return 0


def logs(name: str, *, follow: bool, lines: int) -> int:
    """Show the end of a log; this process becomes ``tail``."""
    paths = Paths.from_environ()
    log = paths.log_of(name)
    supervisord = Supervisord(paths)
    programs = supervisord.states() if supervisord.is_running() else []
    # Its log is there where there was one engine before.
    if several := sorted(p.name for p in programs if name == p.group != p.name):
        raise LauncherError(f"{name} is {' and '.join(several)} here; `launch logs {several[0]}`")
    if not log.exists():
        known = ", ".join(sorted(path.stem for path in log.parent.glob("*.log"))) or "none yet"
        raise LauncherError(f"no log of {name!r}; there are: {known}")
    arguments = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)]
    os.execvp("tail", arguments)  # noqa: S606
