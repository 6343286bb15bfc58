"""The bootstrap script on checkouts of its own, with packages that install in seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support import ROOT, wait_for

SETUP_CFG = """\
[metadata]
name = step3vl
version = 0

[options]
packages = launcher

[options.extras_require]
cpu =
gpu =
test =

[options.entry_points]
console_scripts =
    step3vl = launcher.__main__:main
"""

# Says what the launcher was asked to do, in place of doing it.
MAIN = 'import sys; print("launcher:", *sys.argv[1:])\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone with the real bootstrap and a launcher without dependencies."""
    root = tmp_path / "a clone"  # people do put spaces in folder names
    (root / "launcher").mkdir(parents=True)
    for name in ("launch", "bootstrap.py"):
        shutil.copy(ROOT / "launcher" / name, root / "launcher" / name)
    shutil.copy(ROOT / "pyproject.toml", root / "pyproject.toml")
    (root / "setup.cfg").write_text(SETUP_CFG)
    (root / "launcher" / "__init__.py").touch()
    (root / "launcher" / "__main__.py").write_text(MAIN)
    (root / "launcher" / "wheels.py").write_text('print("wheels looked at")\n')
    return root


def launch(root: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "launcher" / "launch", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd="/",
        env={**os.environ, **environ},
    )


def test_first_run_installs_and_second_does_not(checkout: Path) -> None:
    """An environment is made once; arguments reach the launcher; `test` adds to it once."""
    first = launch(checkout, "up", "--detach")
    assert first.returncode == 0, first.stderr
    assert first.stdout == "wheels looked at\nlauncher: up --detach\n"
    assert "installing into" in first.stderr
    second = launch(checkout, "up")
    assert (second.returncode, second.stdout, second.stderr) == (0, "launcher: up\n", "")
    assert "(cpu, test)" in launch(checkout, "test").stderr
    assert launch(checkout, "up").stderr == ""


def test_interrupted_run_is_continued(checkout: Path) -> None:
    """Killed in the middle of the installation, the same command finishes it."""
    command = [checkout / "launcher" / "launch", "up"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as bootstrap:
        wait_for((checkout / ".venv" / "bin" / "python").exists, 60, ".venv has begun")
        bootstrap.send_signal(signal.SIGINT)
        _, said = bootstrap.communicate(timeout=30)
    assert bootstrap.returncode == 130
    assert "the same command continues" in said
    again = launch(checkout, "up")
    assert again.returncode == 0, again.stderr
    assert again.stdout.endswith("launcher: up\n")


def test_two_at_once_do_not_disturb_each_other(checkout: Path) -> None:
    """The second waits for the first, and then has nothing to install."""
    command = [checkout / "launcher" / "launch", "up"]
    pair = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=240) for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert sorted(out.count("wheels looked at") for out, _ in results) == [0, 1]
    assert all(out.endswith("launcher: up\n") for out, _ in results)


def test_commands_that_only_look_never_install(checkout: Path) -> None:
    """After an upgrade of the checkout, `status` still works without a network."""
    assert launch(checkout, "up").returncode == 0
    (checkout / "setup.cfg").write_text(SETUP_CFG.replace("cpu =", "cpu =\n    no-such-package-x"))
    looked = launch(checkout, "status")
    assert (looked.returncode, looked.stdout, looked.stderr) == (0, "launcher: status\n", "")


def test_nothing_is_installed_only_to_look(checkout: Path) -> None:
    """`down` on a fresh clone says what to do, and makes no environment."""
    result = launch(checkout, "down")
    assert (result.returncode, result.stdout) == (1, "")
    assert "nothing is installed here yet; `./launcher/launch up`" in result.stderr
    assert not (checkout / ".venv").exists()


def test_package_that_cannot_be_had_is_named(checkout: Path) -> None:
    """pip's reason, the log's place and what to do, in one line and no traceback."""
    (checkout / "setup.cfg").write_text(SETUP_CFG.replace("cpu =", "cpu =\n    no-such-package-x"))
    result = launch(checkout, "up", PIP_NO_INDEX="1", PIP_RETRIES="0")
    assert result.returncode == 1
    assert "the packages could not be installed:" in result.stderr
    assert "run the same command again" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_python_it_says_which_is_needed(checkout: Path) -> None:
    """An old Python is not used, and the message says what to install."""
    result = launch(checkout, "up", STEP3VL_PYTHON="/bin/false")
    assert result.returncode == 1
    assert result.stderr.startswith("launch: Python 3.11 to 3.14 is needed")
    assert not (checkout / ".venv").exists()


def test_moved_checkout_is_made_anew(checkout: Path, tmp_path: Path) -> None:
    """Scripts in an environment name its folder; after a move it is made again."""
    assert launch(checkout, "up").returncode == 0
    moved = tmp_path / "moved"
    checkout.rename(moved)
    result = launch(moved, "up")
    assert result.returncode == 0, result.stderr
    assert "installing into" in result.stderr
    assert str(moved) in (moved / ".venv" / "pyvenv.cfg").read_text()
