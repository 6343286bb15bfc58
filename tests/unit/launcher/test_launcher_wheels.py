"""launcher.wheels: torch wheels that do not fit are mended, those that fit are left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher import wheels
from launcher.wheels import PTH_CONTENT, PTH_NAME

MISFIT = "RuntimeError: operator torchvision::nms does not exist"


class Environment:
    """An environment in which packages are there, and break, as a test says."""

    def __init__(self, site_packages: Path) -> None:
        self.pth = site_packages / PTH_NAME
        self.errors: dict[str, str | None] = {}  # of the packages that are installed
        self.declaring_helps = True
        self.pip: list[list[str]] = []

    def find_spec(self, package: str) -> object | None:
        return object() if package in self.errors else None

    def import_error(self, package: str) -> str | None:
        mended = package == "torchvision" and self.pth.exists() and self.declaring_helps
        return None if mended else self.errors[package]

    def run(self, command: list[str], **_: object) -> None:
        self.pip.append(command)
        self.errors.pop(command[-1])


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    found = Environment(tmp_path)
    monkeypatch.setattr(wheels, "find_spec", found.find_spec)
    monkeypatch.setattr(wheels, "import_error", found.import_error)
    monkeypatch.setattr(subprocess, "run", found.run)
    return found


@pytest.mark.parametrize("package", wheels.OPTIONAL)
def test_an_optional_package_that_breaks_is_removed(package: str, environment: Environment) -> None:
    """The engine does without it; pip takes it out and the sentence calms whoever reads it."""
    environment.errors[package] = "OSError: libcudart.so"
    expected = f"removed {package}, which nothing here needs: it is built for another torch"
    assert expected == wheels.repair_optional(package)
    [command] = environment.pip
    assert [sys.executable, "-m", "pip", "uninstall"] == command[:4]
    assert ["--yes", package] == command[-2:]


@pytest.mark.parametrize("installed", [True, False])
def test_an_optional_package_that_works_or_is_absent_is_left(
    installed: bool, environment: Environment
) -> None:
    """Nothing is done and nothing is said."""
    if installed:
        environment.errors["torchaudio"] = None
    assert wheels.repair_optional("torchaudio") is None
    assert environment.pip == []


def test_a_torchvision_that_breaks_gets_its_declarations(
    environment: Environment, tmp_path: Path
) -> None:
    """The .pth file is written, and it is what makes the import work."""
    environment.errors["torchvision"] = MISFIT
    expected = "repaired torchvision, which is built for another torch"
    assert expected == wheels.repair_torchvision(tmp_path)
    assert environment.pth.read_text() == PTH_CONTENT


@pytest.mark.parametrize("before", [True, False])
def test_a_torchvision_that_works_has_no_pth_file(
    before: bool, environment: Environment, tmp_path: Path
) -> None:
    """One left from an earlier, broken build is taken away."""
    environment.errors["torchvision"] = None
    if before:
        environment.pth.write_text(PTH_CONTENT)
    assert wheels.repair_torchvision(tmp_path) is None
    assert not environment.pth.exists()


def test_without_torchvision_the_pth_file_goes_too(
    environment: Environment, tmp_path: Path
) -> None:
    """Nothing of ours runs at the start of every interpreter for nothing."""
    environment.pth.write_text(PTH_CONTENT)
    assert wheels.repair_torchvision(tmp_path) is None
    assert not environment.pth.exists()


def test_repairing_twice_keeps_the_repair(environment: Environment, tmp_path: Path) -> None:
    """The second run finds the broken build again, not its own repair."""
    environment.errors["torchvision"] = MISFIT
    first = wheels.repair_torchvision(tmp_path)
    assert first == wheels.repair_torchvision(tmp_path)
    assert environment.pth.exists()


def test_a_repair_that_does_not_help_is_undone(environment: Environment, tmp_path: Path) -> None:
    """The person learns that pictures will fail, and no useless file stays."""
    environment.errors["torchvision"] = MISFIT
    environment.declaring_helps = False
    expected = f"torchvision cannot be imported and images will fail: {MISFIT}"
    assert expected == wheels.repair_torchvision(tmp_path)
    assert not environment.pth.exists()


def test_a_sound_environment_needs_no_repair(environment: Environment, tmp_path: Path) -> None:
    """From matching wheels nothing is done."""
    environment.errors |= {"torchvision": None, "torchaudio": None}
    assert wheels.repair(tmp_path) == []


def test_every_repair_is_told(environment: Environment, tmp_path: Path) -> None:
    """A broken environment says one sentence for each package, in order."""
    environment.errors |= {"torchcodec": "a", "torchaudio": "b", "torchvision": MISFIT}
    said = [sentence.split(",")[0] for sentence in wheels.repair(tmp_path)]
    assert said == ["removed torchaudio", "removed torchcodec", "repaired torchvision"]


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("json", None),
        ("no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("sys; sys.exit(3)", "exit 3"),
    ],
)
def test_an_import_is_tried_in_a_fresh_interpreter(package: str, expected: str | None) -> None:
    """The last line of the traceback is the reason, or the exit code where there is no line."""
    assert expected == wheels.import_error(package)


def test_the_pth_file_is_one_statement_that_works() -> None:
    """A .pth line runs only if it starts with import; this one installs the hook."""
    assert PTH_CONTENT.startswith("import ")
    assert PTH_CONTENT.count("\n") == 1
    script = (
        f"{PTH_CONTENT}import sys\n"
        "assert 'torch' not in sys.modules\n"
        "print(*(type(finder).__name__ for finder in sys.meta_path if hasattr(finder, '__dict__')))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "_BeforeTorchvision" in result.stdout


def test_torchvision_works_in_this_environment() -> None:
    """A fresh interpreter imports it and resizes a picture, as the engine's processor does."""
    script = (
        "import torch, torchvision.transforms.v2.functional as F;"
        "print(tuple(F.resize(torch.zeros(3, 8, 8), [4, 2]).shape))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("(3, 4, 2)\n", 0), result.stderr
