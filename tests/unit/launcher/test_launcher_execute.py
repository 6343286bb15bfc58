"""launcher.execute: becoming a program, or saying where everybody looks why not."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from support import free_port

from launcher.errors import LauncherError
from launcher.execute import CannotStartError, exec_program
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
    return Paths.from_environ()


def run(name: str, folder: Path, port: int | None = None, **sections: Any) -> None:
    path = folder / "deploy.yaml"
    path.write_text(yaml.safe_dump({"model": {"folder": CHECKPOINT}, **sections}))
    exec_program(name, config=str(path), host=None, port=port)


def refusal(name: str, folder: Path, port: int | None = None, **sections: Any) -> LauncherError:
    with pytest.raises(LauncherError) as caught:
        run(name, folder, port, **sections)
    return caught.value


@pytest.mark.parametrize(
    ("sections", "code", "words"),
    [
        ({"engine": {"port": "x"}}, 2, "engine.port: write a whole number, not 'x'"),
        ({"model": {"folder": "nowhere"}}, 2, "nowhere: no such folder"),
    ],
)
def test_a_refused_engine_leaves_its_reason(
    sections: dict[str, Any], code: int, words: str, paths: Paths, tmp_path: Path
) -> None:
    """This start is told of, not an earlier one; what holds paths is evidence, for here only."""
    paths.make_private_folders()
    paths.engine_state.write_text('{"phase": "stopped", "message": "stopped"}')
    error = refusal(ENGINE, tmp_path, **sections)
    assert (code, True) == (error.exit_code, words in str(error))
    state = json.loads(paths.engine_state.read_text())
    assert ("failed", WORDS, os.getpid()) == (state["phase"], state["message"], state["pid"])
    assert str(error) == state["evidence"]


@pytest.mark.parametrize(("name", "expected"), [(ENGINE, "failed"), (WEBUI, None)])
def test_a_taken_port_is_refused(
    name: str, expected: str | None, paths: Paths, tmp_path: Path
) -> None:
    """Starting again would not help, so it is exit 78; only the engine has a state."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refusal(name, tmp_path, **{"engine" if name == ENGINE else name: {"port": port}})
    assert (CannotStartError, 78) == (type(error), error.exit_code)
    assert str(error).startswith(f"{name}: ")
    assert str(port) in str(error)
    found = json.loads(paths.engine_state.read_text()) if paths.engine_state.exists() else {}
    assert (expected, expected and WORDS) == (found.get("phase"), found.get("message"))
    assert (expected and str(error)) == found.get("evidence")


def test_without_any_configuration_a_refused_engine_tells_so(paths: Paths) -> None:
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
    assert (str(paths.engine_state) in argv, env["HF_HUB_OFFLINE"]) == (True, "1")
    assert not paths.engine_state.exists()


@pytest.mark.parametrize(("manager", "expected"), [(WEBUI, True), (None, False), ("other", False)])
def test_only_the_services_own_webui_says_where_it_listens(
    manager: str | None,
    expected: bool,
    paths: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One started by hand beside the service must not pass for it; its port is the given one."""
    monkeypatch.delenv("SUPERVISOR_PROCESS_NAME", raising=False)
    if manager is not None:
        monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", manager)
    port = free_port()
    with pytest.raises(BecameError) as caught:
        run(WEBUI, tmp_path, port)
    _, env = caught.value.args
    assert (str(port), expected) == (env["WEBUI_PORT"], "WEBUI_ADDRESS_FILE" in env)
