"""``launch exec NAME``: become a program. What supervisord runs, and the start script too."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from typing import NoReturn

from launcher.backends import check_backend, load_here
from launcher.downloads import settled
from launcher.engine_causes import OPTIONS, Cause
from launcher.engine_preparation import EX_CONFIG
from launcher.engine_state import StateFile
from launcher.errors import LauncherError
from launcher.host_checks import OPEN_FILES, listen_problem
from launcher.layout import LOOPBACK, replicas_on, share_of
from launcher.leftovers import UNDER_SUPERVISORD, end_with_parent
from launcher.lifecycle import check_folders
from launcher.nodes import node_here
from launcher.paths import Paths
from launcher.programs import (
    NODE,
    ROUTER,
    WEBUI,
    Process,
    engine_process,
    node_process,
    router_process,
    webui_process,
    workers_of,
)
from launcher.selection import select_config


class CannotStartError(LauncherError):
    """Trying again would not help; supervisord's logs show the message."""

    exit_code = EX_CONFIG


def exec_program(name: str, *, config: str | None, host: str | None, port: int | None) -> NoReturn:
    """Replace this process by an engine's parent, the router's, or by the WebUI, same pid.

    Args:
        name: of a program.
        config: a YAML; without one, the file that is in use.
        host: for the WebUI, in place of the YAML's.
        port: likewise.

    Raises:
        LauncherError: it could not start; nothing was executed.
    """
    if UNDER_SUPERVISORD in os.environ:
        # Nobody would stop it later, and nobody would read what it says. This outlives exec.
        end_with_parent(signal.SIGTERM)
    paths = Paths.from_environ()
    paths.make_private_folders()
    if name == WEBUI:
        _become(_webui(paths, config, host, port))
    try:
        process = _process(name, paths, config)
    except LauncherError as error:
        # Otherwise the page and `status` would go on telling what an earlier engine did. The
        # reason may hold paths, so it is for this machine's own commands only.
        words = "the engine cannot be started as it is configured; its log says why"
        if UNDER_SUPERVISORD in os.environ:  # by hand, another engine may well be running
            file = paths.engine_state if name == ROUTER else paths.state_of(name)
            StateFile(file).fail(Cause(OPTIONS, words, evidence=str(error)))
        raise
    _become(process)


def _process(name: str, paths: Paths, config: str | None) -> Process:
    if name == ROUTER:
        return _router(paths, config)
    return _node(paths, config) if name == NODE else _engine(name, paths, config)


def _node(paths: Paths, config: str | None) -> Process:
    selected = select_config(config, paths)
    settings = load_here(selected.path, paths)
    name = node_here(settings, paths)
    if (node := settings.cluster.node(name)) is None:
        raise CannotStartError(f"{NODE}: cluster.nodes lists no machines")
    if (problem := listen_problem(node.address, settings.engine.port)) is not None:
        raise CannotStartError(f"{NODE}: {name}: {problem}")
    return node_process(settings, selected.path, paths, node)


def _engine(name: str, paths: Paths, config: str | None) -> Process:
    selected = select_config(config, paths)
    settings = load_here(selected.path, paths)
    check_backend(settings)
    check_folders(settings, selected.path)
    settings, _ = settled(settings, selected.path, paths)
    here = replicas_on(settings, node_here(settings, paths))
    replica = next((replica for replica in here if replica.name == name), None)
    if replica is None:
        known = ", ".join(replica.name for replica in here) or "none"
        raise CannotStartError(f"no engine {name!r} on this machine; there are: {known}")
    process = engine_process(settings, selected.path, paths, replica)
    cores = sorted(os.sched_getaffinity(0))
    environ = {**os.environ, **process.env}
    share = share_of(replica, len(here), workers_of(settings), cores, environ)
    return Process(process.argv, process.env | share)


def _router(paths: Paths, config: str | None) -> Process:
    selected = select_config(config, paths)
    settings = load_here(selected.path, paths)
    settings, _ = settled(settings, selected.path, paths)
    if (problem := listen_problem(LOOPBACK, settings.engine.port)) is not None:
        raise CannotStartError(f"{ROUTER}: engine.port: {problem}")
    return router_process(settings, selected.path, paths)


def _webui(paths: Paths, config: str | None, host: str | None, port: int | None) -> Process:
    selected = select_config(config, paths)
    settings = load_here(selected.path, paths)
    with contextlib.suppress(LauncherError):  # the page tells why there is no engine then
        settings, _ = settled(settings, selected.path, paths)
    listen_on = (host or settings.webui.host, port or settings.webui.port)
    if (problem := listen_problem(*listen_on)) is not None:
        raise CannotStartError(f"{WEBUI}: {problem}")
    process = webui_process(settings, selected.path, paths, *listen_on)
    if os.environ.get(UNDER_SUPERVISORD) != WEBUI:
        # One started by hand beside the service must not pass for the service's own, nor take its
        # page from it.
        process.env.pop("WEBUI_ADDRESS_FILE")
        process.env.pop("WEBUI_SOCKETS")
    return process


def _become(process: Process) -> NoReturn:
    """With as many files and connections open as this user may have, up to what is of use."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    with contextlib.suppress(OSError, ValueError):  # some sandboxes forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    os.execvpe(process.argv[0], process.argv, {**os.environ, **process.env})  # noqa: S606
