"""``launch test``: lint, types and tests, with a browser for the tests that need one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from launcher.errors import LauncherError
from launcher.paths import ROOT
from launcher.terminal import say

# What every attack and fault met; written by a run of all tests.
FAULT_REPORT = ROOT / "docs" / "fault-report.md"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """A Chromium on PATH."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def ensure_browser() -> str:
    """A Chromium, installed from the distribution where we may.

    Raises:
        LauncherError: there is none and this user cannot install one.
    """
    if (browser := find_browser()) is not None:
        return browser
    _install("chromium", "the browser tests")
    if (browser := find_browser()) is not None:
        return browser
    raise LauncherError("the browser tests need Chromium: sudo apt-get install chromium")


def ensure_tool(command: str, package: str, purpose: str) -> None:
    """A command of a package, likewise.

    Raises:
        LauncherError: there is none and this user cannot install one.
    """
    if shutil.which(command) is None:
        _install(package, purpose)
    if shutil.which(command) is None:
        raise LauncherError(f"{purpose} need `{command}`: sudo apt-get install {package}")


def _install(package: str, purpose: str) -> None:
    """From the distribution, where we may."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"Installing {package} for {purpose} (apt-get)")
        for step in (["update", "-qq"], ["install", "-y", "-qq", package]):
            subprocess.run(["apt-get", *step], check=False, stdout=subprocess.DEVNULL)


def run_tests(pytest_arguments: Sequence[str]) -> int:
    """Everything that must pass before a change lands; pytest's summary comes last."""
    if find_spec("pytest") is None:
        raise LauncherError("the test packages are missing; run it as ./launcher/launch test")
    environ = {**os.environ, "STEP3VL_TEST_BROWSER": ensure_browser()}
    ensure_tool("npm", "npm", "the JavaScript examples, with Node 20,")
    ensure_tool("ip", "iproute2", "the tests in a network of their own")
    ensure_tool("systemd-analyze", "systemd", "the tests of the unit")
    checks = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]]
    failed = [" ".join(check) for check in checks if _run(check, environ) != 0]
    if failed:  # said before pytest, whose summary must come last
        say(f"FAILED: {'; '.join(failed)}. The tests run all the same.")
    report = [] if pytest_arguments else [f"--fault-report={FAULT_REPORT}"]
    status = _run(["pytest", *pytest_arguments, *report], environ)
    return status or (1 if failed else 0)


def _run(command: Sequence[str], environ: dict[str, str]) -> int:
    say(f"$ {' '.join(command)}")
    module = [sys.executable, "-m", *command]
    return subprocess.run(module, cwd=ROOT, env=environ, check=False).returncode
