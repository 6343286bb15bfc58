"""Fixtures for all tests: a clean environment, an installation, a WebUI, a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployments import Engine, Webui, end, running_webui
from hypothesis import settings
from playwright.sync_api import Browser, Page, sync_playwright
from support import FAKE_VLLM, free_port

from launcher.host_checks import gpus
from launcher.paths import Paths
from launcher.supervisord import Supervisord

# For a table of faults, and to test what makes it.
pytest_plugins = ["fault_report", "pytester"]

# The same examples every time where a failure must mean a change; new ones on a person's machine.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# As root, Chromium refuses its sandbox; the rest keeps it from calling home.
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where none answers; nothing else is ever left out."""
    if gpus():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests changes their outcome."""
    for name in [*os.environ]:
        if name.startswith(("STEP3VL_", "WEBUI_", "VLLM_", "GRADIO_", "FAKE_")):
            if name != "STEP3VL_TEST_BROWSER":
                monkeypatch.delenv(name)
        elif name.lower() in {"http_proxy", "https_proxy", "all_proxy"}:
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation's files in a folder of their own; whatever still runs there is ended."""
    folder = tmp_path / "home"
    monkeypatch.setenv("STEP3VL_HOME", str(folder))
    yield folder
    supervisord = Supervisord(Paths.from_environ({"STEP3VL_HOME": str(folder)}))
    if supervisord.is_running():
        supervisord.shut_down(timeout=60)


@pytest.fixture(scope="session")
def engine_process() -> Iterator[Engine]:
    """A stand-in engine for all WebUIs."""
    port = free_port()
    fake = [sys.executable, str(FAKE_VLLM), "--port", str(port)]
    process = subprocess.Popen([*fake, "--served-model-name", "one", "two"])
    try:
        yield Engine(f"http://127.0.0.1:{port}", process)
    finally:
        end(process)


@pytest.fixture(scope="session")
def webui_process(
    tmp_path_factory: pytest.TempPathFactory, engine_process: Engine
) -> Iterator[Webui]:
    """One for all tests that only send requests."""
    with running_webui(tmp_path_factory.mktemp("webui"), engine_process) as webui:
        yield webui


@pytest.fixture
def webui(webui_process: Webui) -> Webui:
    """With an engine that behaves."""
    webui_process.engine.script()
    return webui_process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium that `launch test` found.

    Not kept for the whole session: while it runs, no test can run an event loop of its own.
    """
    path = os.environ.get("STEP3VL_TEST_BROWSER")
    assert path, "run the tests with ./launcher/launch test, which finds a browser"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A visitor of its own, with no cookies of the others."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    visitor = context.new_page()
    yield visitor
    context.close()
