"""``launch keys``: what is shown, and when `up` says that anyone may come in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from launcher.config import DeployConfig
from launcher.errors import LauncherError
from launcher.keys import PREFIX, KeyFile
from launcher.lifecycle import check_keys
from launcher.paths import Paths


def config_of(**webui: Any) -> DeployConfig:
    return DeployConfig.model_validate({"model": {"folder": "checkpoint"}, "webui": webui})


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("STEP3VL_HOME", str(tmp_path))
    return Paths.from_environ()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    code = main(["keys", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_key_is_shown_once(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Afterwards only its name, its date and its limits."""
    code, out, _ = run(capsys, "add", "anna", "--requests-per-minute", "60")
    key = out.splitlines()[0]
    assert (code, key[: len(PREFIX)]) == (0, PREFIX)
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert out.startswith("anna ")
    assert out.endswith("60 requests per minute\n")
    assert key not in out + paths.keys.read_text()


def test_mistakes_are_one_line(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is taken, one that is not there, a file that is none."""
    run(capsys, "add", "anna")
    for words, said in ((["add", "anna"], "already"), (["revoke", "bert"], "keys list")):
        code, _, err = run(capsys, *words)
        assert (code, err.count("\n")) == (1, 1)
        assert said in err
    paths.keys.write_text("{")
    code, _, err = run(capsys, "list")
    assert (code, err.count("\n")) == (1, 1)
    assert str(paths.keys) in err


def test_the_last_key_that_goes_locks_the_door(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is said how to do without keys, again by a list that has none."""
    assert run(capsys, "list")[1] == "There is no key, and none is asked for.\n"
    run(capsys, "add", "anna")
    code, out, _ = run(capsys, "revoke", "anna")
    assert code == 0
    assert f"delete {paths.keys}" in out
    assert run(capsys, "list")[1] == out
    assert KeyFile(paths.keys).entries() == []


def test_a_key_that_is_required_must_be_there(paths: Paths) -> None:
    """`up` says how one is made."""
    check_keys(config_of(), paths)
    with pytest.raises(LauncherError, match="launch keys add"):
        check_keys(config_of(require_keys=True), paths)
    KeyFile(paths.keys).add("anna", {})
    check_keys(config_of(require_keys=True), paths)


def test_a_broken_file_of_keys_is_refused(paths: Paths) -> None:
    """Also where none is required: the WebUI could not start with it."""
    KeyFile(paths.keys).add("anna", {})
    paths.keys.write_text("{")
    with pytest.raises(LauncherError, match=re.escape(str(paths.keys))):
        check_keys(config_of(), paths)
