"""launcher.execute: becoming a program, or saying where everybody looks why not."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from support import free_port

from launcher import execute
from launcher.errors import LauncherError
from launcher.execute import CannotStartError, exec_program
from launcher.host_checks import OPEN_FILES
from launcher.leftovers import UNDER_SUPERVISORD
from launcher.paths import ROOT, Paths
from launcher.programs import ENGINE, WEBUI

CHECKPOINT = str(ROOT / "deploy" / "models" / "step3-vl-demo")
WORDS = "the engine cannot be started as it is configured; its log says why"


class BecameError(Exception):
    """What this process would have become."""


@pytest.fixture(autouse=True)
def paths(home: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Files of a test's own, and a process that stays what it is."""

    def become(_: str, argv: tuple[str, ...], env: dict[str, str]) -> NoReturn:
        raise BecameError(argv, env)

    monkeypatch.setattr(os, "execvpe", become)
    monkeypatch.delenv(UNDER_SUPERVISORD, raising=False)
    return Paths.from_environ()


def run(name: str, folder: Path, port: int | None = None, **sections: Any) -> None:
    path = folder / "deploy.yaml"
    path.write_text(yaml.safe_dump({"model": {"folder": CHECKPOINT}, **sections}))
    exec_program(name, config=str(path), host=None, port=port)


def refusal(name: str, folder: Path, port: int | None = None, **sections: Any) -> LauncherError:
    with pytest.raises(LauncherError) as caught:
        run(name, folder, port, **sections)
    return caught.value


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    """As supervisord starts it; but the tests need not end with their parent."""
    monkeypatch.setenv(UNDER_SUPERVISORD, ENGINE)
    monkeypatch.setattr(execute, "end_with_parent", lambda _number: None)


def test_an_engine_refused_by_hand_says_nothing_of_the_one_that_runs(
    paths: Paths, tmp_path: Path
) -> None:
    """The state belongs to the service, which may well be serving."""
    paths.make_private_folders()
    refusal(ENGINE, tmp_path, model={"folder": "nowhere"})
    assert not paths.engine_state.exists()


@pytest.mark.parametrize(
    ("sections", "code", "words"),
    [
        ({"engine": {"port": "x"}}, 2, "engine.port: write a whole number, not 'x'"),
        ({"model": {"folder": "nowhere"}}, 2, "nowhere: no such folder"),
    ],
)
def test_a_refused_engine_leaves_its_reason(
    sections: dict[str, Any],
    code: int,
    words: str,
    paths: Paths,
    tmp_path: Path,
    supervised: None,
) -> None:
    """This start is told of, not an earlier one; what holds paths is evidence, for here only."""
    paths.make_private_folders()
    paths.engine_state.write_text('{"phase": "stopped", "message": "stopped"}')
    error = refusal(ENGINE, tmp_path, **sections)
    assert (code, True) == (error.exit_code, words in str(error))
    state = json.loads(paths.engine_state.read_text())
    assert ("failed", WORDS, os.getpid()) == (state["phase"], state["message"], state["pid"])
    assert str(error) == state["evidence"]


def test_a_webui_whose_port_is_taken_is_refused(paths: Paths, tmp_path: Path) -> None:
    """Starting again would not help, so it is exit 78; the engine's state is not touched."""
    with taken_port() as port:
        error = refusal(WEBUI, tmp_path, webui={"port": port})
    assert (CannotStartError, 78) == (type(error), error.exit_code)
    assert str(error).startswith(f"{WEBUI}: port {port} is taken by ")
    assert not paths.engine_state.exists()


def test_an_engine_whose_port_is_taken_becomes_its_parent(paths: Paths, tmp_path: Path) -> None:
    """Who holds it may be an earlier engine of ours, which the parent ends first."""
    with taken_port() as port, pytest.raises(BecameError):
        run(ENGINE, tmp_path, engine={"port": port})
    assert not paths.engine_state.exists()


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_without_any_configuration_a_refused_engine_tells_so(
    paths: Paths, supervised: None
) -> None:
    """The file in use may be gone by the time of a restart."""
    paths.make_private_folders()
    paths.active_config.write_text("/gone.yaml")
    with pytest.raises(LauncherError):
        exec_program(ENGINE, config=None, host=None, port=None)
    state = json.loads(paths.engine_state.read_text())
    assert state["message"] == WORDS
    assert state["evidence"].startswith("/gone.yaml: in use until now, but gone")


def test_an_engine_that_can_start_writes_no_state(paths: Paths, tmp_path: Path) -> None:
    """The state is then its parent's, which this process becomes."""
    with pytest.raises(BecameError) as caught:
        run(ENGINE, tmp_path, engine={"port": free_port()})
    argv, env = caught.value.args
    assert (sys.executable, "-P", "-m", "launcher.engine") == argv[:4]
    settings = json.loads(argv[4])
    assert (str(paths.engine_state), "1") == (settings["state"], env["HF_HUB_OFFLINE"])
    assert not paths.engine_state.exists()


@pytest.mark.parametrize(("manager", "expected"), [(WEBUI, True), (None, False), ("other", False)])
def test_only_the_services_own_webui_says_where_it_listens(
    manager: str | None,
    expected: bool,
    paths: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One started by hand beside the service must not pass for it, nor take its page; its port is
    the given one."""
    monkeypatch.setattr(execute, "end_with_parent", lambda _: None)
    if manager is not None:
        monkeypatch.setenv(UNDER_SUPERVISORD, manager)
    port = free_port()
    with pytest.raises(BecameError) as caught:
        run(WEBUI, tmp_path, port)
    _, env = caught.value.args
    assert (str(port), expected) == (env["WEBUI_PORT"], "WEBUI_ADDRESS_FILE" in env)
    assert ("WEBUI_SOCKETS" in env) == expected


@pytest.mark.parametrize("name", [ENGINE, WEBUI])
@pytest.mark.parametrize("managed", [True, False])
def test_what_supervisord_started_is_stopped_with_it(
    name: str, managed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would stop it after a SIGKILL of supervisord; one started by hand lives on."""
    asked: list[int] = []
    monkeypatch.setattr(execute, "end_with_parent", asked.append)
    if managed:
        monkeypatch.setenv(UNDER_SUPERVISORD, name)
    with pytest.raises(BecameError):
        run(name, tmp_path, free_port() if name == WEBUI else None)
    assert asked == ([signal.SIGTERM] if managed else [])


def test_a_program_may_open_what_the_system_grants(paths: Paths, tmp_path: Path) -> None:
    """Whatever the shell allowed that started it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        with pytest.raises(BecameError):
            run(WEBUI, tmp_path, port=free_port())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert hard == before[1]
    assert soft == (OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES))
