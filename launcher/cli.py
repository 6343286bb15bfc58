"""The command line: a table of commands, each a function that returns an exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

from launcher import lifecycle
from launcher.backends import check_backend, load_here
from launcher.cards import Card, card_named, card_of_size
from launcher.config import Backend, DeployConfig, load_config
from launcher.downloads import fetch, settled
from launcher.errors import ConfigError, run_guarded
from launcher.keys import LIMITS, KeyFile
from launcher.nodes import node_here
from launcher.paths import Paths
from launcher.plan import plan
from launcher.planning import (
    as_document,
    cards_of,
    completed,
    in_words,
    planned,
    shape_of,
    wishes_of,
    with_weights,
)
from launcher.profiles import DEMO, GPU, PROFILES
from launcher.programs import EVERY, WEBUI, programs_for
from launcher.render import RenderedFile, render_supervisord, write_if_changed
from launcher.rolling import restart_rolling
from launcher.sample import sample_yaml
from launcher.selection import select_config
from launcher.status import status
from launcher.supervisord import Supervisord
from launcher.terminal import say

Handler = Callable[[argparse.Namespace], int]

PROGRAMS = "{vllm,webui,router,vllm-0,...}"
CONFIG_HELP = "a YAML file; without it: the one in use, else what fits this machine"


def _up(arguments: argparse.Namespace) -> int:
    return lifecycle.up(
        arguments.config,
        detach=arguments.detach,
        foreground=arguments.foreground,
        node=arguments.node,
        backend=arguments.backend,
    )


def _down(_arguments: argparse.Namespace) -> int:
    return lifecycle.down()


def _status(arguments: argparse.Namespace) -> int:
    return status(as_json=arguments.json)


def _restart(arguments: argparse.Namespace) -> int:
    if arguments.rolling:
        return restart_rolling()
    if arguments.name is None:
        raise ConfigError("restart what? vllm, webui, router or vllm-0, or all engines --rolling")
    return lifecycle.restart(arguments.name)


def _logs(arguments: argparse.Namespace) -> int:
    return lifecycle.logs(arguments.name, follow=arguments.follow, lines=arguments.lines)


def _check(arguments: argparse.Namespace) -> int:
    """Say all that would stand in the way of `up`; writes and starts nothing."""
    from launcher import preflight  # most commands need neither
    from launcher.machine import read_machine

    paths = Paths.from_environ()
    selection = select_config(arguments.config, paths)
    config = load_here(selection.path, paths)
    check_backend(config)
    lifecycle.check_folders(config, selection.path)
    config, _ = settled(config, selection.path, paths)
    node = node_here(config, paths)
    lifecycle.check_cards(config, node)
    render_supervisord(programs_for(config, selection.path, paths, node), paths, config.logs)
    say(f"{selection.path}: no mistakes in the YAML ({selection.reason})")
    machine = read_machine(config, selection.path, paths)
    found = preflight.findings(config, selection.path, paths, machine)
    for line in preflight.in_words(found):
        say(line)
    return preflight.exit_code(found)


def _doctor(arguments: argparse.Namespace) -> int:
    from launcher.doctor import bundle, describe, write

    report = bundle(Paths.from_environ(), os.environ, time.time())
    for line in describe(report, write(report, Path(arguments.out))):
        say(line)
    return 0


def _render(arguments: argparse.Namespace) -> int:
    """Write supervisord's files where `up` would, or below a folder of the caller's."""
    paths = Paths.from_environ()
    selection = select_config(arguments.config, paths)
    if arguments.target is not None:
        return _render_target(arguments, load_config(selection.path), selection.path)
    config = load_here(selection.path, paths)
    config, _ = settled(config, selection.path, paths)
    node = node_here(config, paths)
    if arguments.out is None:
        lifecycle.refuse_other_config(selection.path, paths, Supervisord(paths))
        written = lifecycle.write_files(config, selection.path, paths, node)
        for file in written:
            say(f"wrote: {file.path}")
        return 0 if written else _say_unchanged(paths.supervisord_conf)
    programs = programs_for(config, selection.path, paths, node)
    out, files = Path(arguments.out).absolute(), render_supervisord(programs, paths, config.logs)
    return _write(replace(file, path=out / file.path.name) for file in files)


def _render_target(arguments: argparse.Namespace, config: DeployConfig, config_path: Path) -> int:
    """For another machine's cards perhaps, so nothing is planned, and nothing here is looked at."""
    from launcher.targets.table import render_target

    out = Path(arguments.out) if arguments.out is not None else None
    return _write(render_target(arguments.target, config, config_path, out))


def _write(files: Iterable[RenderedFile]) -> int:
    for file in files:
        if write_if_changed(file):
            say(f"wrote: {file.path}")
        else:
            _say_unchanged(file.path)
    return 0


def _say_unchanged(path: Path) -> int:
    say(f"unchanged: {path}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    """Say what fits: these cards and the machine around them, or those of the command line."""
    from launcher import preflight  # most commands need neither
    from launcher.machine import read_machine

    paths = Paths.from_environ()
    selection = select_config(arguments.config, paths)
    if not arguments.config and str(selection.path) == DEMO.path:
        selection = select_config(GPU.path, paths)  # the demo needs no plan
    config = load_config(selection.path)
    config = with_weights(config, config.model.weights)
    if not (cards := _cards(arguments, config)):
        say("No NVIDIA GPU answers on this machine: the demo runs on the CPU, and needs no plan.")
        say("For another machine: launch plan --gpu 'RTX 4090', or launch plan --vram 48")
        return 0
    shape, wishes = shape_of(config, selection.path), wishes_of(config)
    if shape is None:
        raise ConfigError(f"{config.model.hub_id}: its size is not known before it is here")
    found = plan(shape, cards, wishes)
    document = as_document(found, config.model.hub_id)
    words = in_words(found, cards, shape, wishes)
    if not (arguments.gpu or arguments.vram):
        config = completed(config, found)
        machine = read_machine(config, selection.path, paths)
        missing = preflight.beside_the_cards(config, paths, machine)
        document["machine"] = [asdict(finding) for finding in missing]
        nothing = "Driver, memory, /dev/shm and disks of this machine will do."
        words += ["", *(preflight.in_words(missing) if missing else [nothing])]
    for line in [json.dumps(document, indent=2)] if arguments.json else words:
        say(line)
    return 0


def _download(arguments: argparse.Namespace) -> int:
    """Fetch the model that the YAML names, as it is planned for this machine."""
    paths = Paths.from_environ()
    selection = select_config(arguments.config, paths)
    config = load_here(selection.path, paths)
    config, _ = planned(config, selection.path, node_here(config, paths))
    if arguments.source:
        model = config.model.model_copy(update={"source": arguments.source})
        config = config.model_copy(update={"model": model})
    return fetch(config, paths, verify=arguments.verify)


def _cards(arguments: argparse.Namespace, config: DeployConfig) -> list[Card]:
    if arguments.gpu or arguments.vram:
        return [*map(card_named, arguments.gpu), *map(card_of_size, arguments.vram)]
    return cards_of(config)


def _sample_config(arguments: argparse.Namespace) -> int:
    sys.stdout.write(sample_yaml(PROFILES[arguments.profile].for_anywhere()))
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    from launcher.execute import exec_program  # the one command whose process must stay small

    exec_program(arguments.name, config=arguments.config, host=arguments.host, port=arguments.port)


def _install(arguments: argparse.Namespace) -> int:
    from launcher.system_install import install

    return install(arguments.config, Path(arguments.root), dry_run=arguments.dry_run)


def _uninstall(arguments: argparse.Namespace) -> int:
    from launcher.system_install import uninstall

    return uninstall(Path(arguments.root), dry_run=arguments.dry_run)


def _keys(arguments: argparse.Namespace) -> int:
    file = KeyFile(Paths.from_environ().keys)
    nobody = f"No key is left, so nobody gets in. To do without keys, delete {file.path}"
    if arguments.action == "add":
        limits = {limit: getattr(arguments, limit) for limit in LIMITS}
        say(file.add(arguments.name, limits, admin=arguments.admin))
        say("Keep it: it is not shown again. Within a second it is valid, and a key is needed.")
    elif arguments.action == "revoke":
        if not file.revoke(arguments.name):
            say(nobody)
    else:
        entries = file.entries()
        if not entries:
            say(nobody if file.path.exists() else "There is no key, and none is asked for.")
        for entry in entries:
            marks = [
                f"{entry[limit]} {limit.replace('_', ' ')}" for limit in LIMITS if limit in entry
            ]
            marks += ["admin"] if entry.get("admin") else []
            say(f"{entry['name']:20} {entry.get('added', '')}  {', '.join(marks)}".rstrip())
    return 0


def _selftest(arguments: argparse.Namespace) -> int:
    from launcher.selftest import default_url, selftest

    url = arguments.url or default_url(Paths.from_environ())
    return selftest(url, key=os.environ.get("STEP3VL_API_KEY"), as_json=arguments.json)


def _batch(arguments: argparse.Namespace) -> int:
    from launcher.selftest import default_url

    paths = Paths.from_environ()
    tasks = load_config(select_config(None, paths).path).webui.tasks
    command = [sys.executable, "-P", "-m", "webui.batch", *arguments.rest]
    own = {
        "STEP3VL_URL": default_url(paths),
        "WEBUI_TASKS": json.dumps([task.model_dump() for task in tasks]),
    }
    os.execve(command[0], command, {**os.environ, **own})  # noqa: S606


def _test(arguments: argparse.Namespace) -> int:
    from launcher.testing import run_tests

    return run_tests(arguments.rest)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def _program(text: str) -> str:
    if text not in EVERY:
        raise argparse.ArgumentTypeError(f"no program {text!r}: write one of {PROGRAMS}")
    return text


def _gib(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 1 <= size <= 10_000:
        raise argparse.ArgumentTypeError(f"a card's memory in GiB, such as 24, not {text!r}")
    return size


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text!r}")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="launch", description="Run STEP3-VL-10B: vLLM, a WebUI and the OpenAI API on one port."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(handler=handler)
        return command

    def add_config(command: argparse.ArgumentParser) -> None:
        command.add_argument("--config", metavar="FILE", help=CONFIG_HELP)

    up = add("up", _up, "start everything, or apply a changed YAML, and wait until it answers")
    add_config(up)
    up.add_argument(
        "--backend", choices=get_args(Backend), help="the engine, whatever the YAML says"
    )
    up.add_argument("--node", metavar="NAME", help="which machine of cluster.nodes this is")
    waiting = up.add_mutually_exclusive_group()
    waiting.add_argument("--detach", action="store_true", help="do not wait until it is ready")
    waiting.add_argument(
        "--foreground", action="store_true", help="become supervisord: for docker and systemd"
    )
    add("down", _down, "stop everything")
    shown = add("status", _status, "show what runs; exit code 0 when it is ready")
    shown.add_argument("--json", action="store_true", help="for programs")
    restart = add("restart", _restart, "restart one program and wait until it answers")
    restart.add_argument("name", nargs="?", type=_program, metavar=PROGRAMS, help="which one")
    restart.add_argument(
        "--rolling", action="store_true", help="all engines, one after the other, none missed"
    )
    logs = add("logs", _logs, "show the end of a log")
    logs.add_argument("name", metavar="{vllm,webui,supervisord}", help="which one")
    logs.add_argument("-f", "--follow", action="store_true", help="and what is added to it")
    logs.add_argument("-n", "--lines", type=int, default=50, help="how many lines (50)")
    add_config(add("check", _check, "say what would stand in the way of `up`; changes nothing"))
    doctor = add("doctor", _doctor, "write one file for a bug report, without secrets")
    doctor.add_argument("--out", default=".", metavar="PATH", help="the file, or a folder for it")
    render = add("render", _render, "write files for supervisord, docker, systemd, Kubernetes, Ray")
    add_config(render)
    render.add_argument(
        "--target",
        metavar="{docker,compose,systemd,k8s,ray}",
        help="what else runs the service; without it: supervisord",
    )
    render.add_argument("--out", metavar="DIR", help="write them there instead")
    fits = add("plan", _plan, "say what fits this machine's cards, or others, and why")
    add_config(fits)
    fits.add_argument("--gpu", nargs="+", default=[], metavar="NAME", help="for these cards")
    fits.add_argument(
        "--vram", nargs="+", default=[], type=_gib, metavar="GIB", help="for cards of this memory"
    )
    fits.add_argument("--json", action="store_true", help="for programs")
    download = add("download", _download, "fetch the model, or go on with that, and check it")
    add_config(download)
    download.add_argument("--source", choices=["auto", "huggingface", "modelscope"])
    download.add_argument("--verify", action="store_true", help="hash what is here already too")
    sample = add("sample-config", _sample_config, "print a commented YAML with every key")
    profiles = ", ".join(PROFILES)
    sample.add_argument("--profile", choices=sorted(PROFILES), default="demo", help=profiles)
    execute = add("exec", _exec, "become a program, in the foreground; what supervisord runs")
    execute.add_argument("name", type=_program, metavar=PROGRAMS)
    add_config(execute)
    execute.add_argument("--host", help=f"{WEBUI}: listen there, whatever the YAML says")
    execute.add_argument("--port", type=_port, help=f"{WEBUI}: likewise")
    _add_keys(add("keys", _keys, "make, list and revoke keys for the API and the page"))
    _add_system_commands(add, add_config)
    selftest = add("selftest", _selftest, "ask a running box one question of each kind")
    selftest.add_argument("--url", help="of the box; without it: the WebUI that runs here")
    selftest.add_argument("--json", action="store_true", help="for programs")
    # Its options are webui's own; so is its help.
    commands.add_parser(
        "batch", help="ask the same about many pictures, and go on where it stopped", add_help=False
    ).set_defaults(handler=_batch)
    add("test", _test, "run this package's own tests; what follows is passed on to pytest")
    return parser


def _add_keys(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(dest="action", metavar="{add,list,revoke}", required=True)
    add = actions.add_parser("add", help="make a key and show it once")
    for limit in LIMITS:
        text = f"the most {limit.split('_')[0]} a minute"
        add.add_argument(f"--{limit.replace('_', '-')}", type=_positive, metavar="N", help=text)
    add.add_argument("--admin", action="store_true", help="may see logs and restart, on the page")
    actions.add_parser("list", help="names, dates and limits")
    revoke = actions.add_parser("revoke", help="make a key invalid, within a second")
    for action in (add, revoke):
        action.add_argument("name", metavar="NAME", help="who or what uses it")


def _add_system_commands(
    add: Callable[[str, Handler, str], argparse.ArgumentParser],
    add_config: Callable[[argparse.ArgumentParser], None],
) -> None:
    """``install`` and ``uninstall``, for machines with a supervisord of their own."""
    install = add("install", _install, "hand the programs to this machine's own supervisord")
    uninstall = add("uninstall", _uninstall, "remove what `install` wrote, and nothing else")
    add_config(install)
    for command in (install, uninstall):
        command.add_argument("--system", action="store_true", required=True, help="needs root")
        command.add_argument("--dry-run", action="store_true", help="only show what would be done")
        command.add_argument("--root", default="/", help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done; 1 something outside the configuration stood in the way; 2 the configuration or the
        command line is wrong; 78 from ``exec``: trying again would not help; 130 interrupted.
    """
    parser = build_parser()
    arguments, arguments_rest = parser.parse_known_args(argv)
    if arguments_rest and arguments.handler not in {_test, _batch}:
        parser.error(f"unrecognized arguments: {' '.join(arguments_rest)}")
    arguments.rest = arguments_rest
    return run_guarded(lambda: int(arguments.handler(arguments)), Paths.from_environ().launcher_log)
