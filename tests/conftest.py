"""Fixtures for all tests: a clean environment, and an installation of a test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.paths import Paths
from launcher.supervisord import Supervisord


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
