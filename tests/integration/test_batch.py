"""``launch batch`` through the gateway: stopped in the middle, it goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from deployments import LAUNCH, Webui
from support import png, wait_for

COUNT = 12


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of them, and a file that only looks like one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:02}.png").write_bytes(png(50 + number, 40, "red"))
    (folder / "broken.jpg").write_bytes(b"hello")
    return folder


def begin(pictures: Path, results: Path, url: str) -> subprocess.Popen[str]:
    command = [*LAUNCH, "batch", str(pictures), str(results)]
    options = ["--prompt", "What is it?", "--at-once", "3", "--url", url]
    environ = {**os.environ, "STEP3VL_HOME": str(results.parent / "home")}
    return subprocess.Popen(
        [*command, *options],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(results: Path) -> list[str]:
    file = results / "results.jsonl"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_stopped_goes_on(
    webui: Webui, pictures: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """However it was stopped; no answer is paid for twice but for those that were under way."""
    webui.engine.script(words=4, delay_s=0.1)
    results = tmp_path / "out"
    process = begin(pictures, results, webui.url)
    wait_for(lambda: len(lines(results)) >= 4, 60, "some answers are there")
    process.send_signal(how)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    if how == signal.SIGINT:
        assert "The same command goes on from here." in told
    before = len(lines(results))
    assert before < COUNT
    webui.engine.script()
    process = begin(pictures, results, webui.url)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert f"{COUNT} of {COUNT + 1}, 1 failed" in told
    assert "\n  broken.jpg: " in told
    found = [json.loads(line) for line in lines(results)]
    assert len({each["file"] for each in found if each["answer"]}) == COUNT
    # The one that is no picture is looked at again: it may have been mended.
    assert len(found) <= COUNT + 2
    with (results / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["file"] for row in rows] == [f"{n:02}.png" for n in range(COUNT)] + ["broken.jpg"]
    assert all("1 images, last: What is it?" in row["answer"] for row in rows[:-1])
    assert "broken.jpg" in rows[-1]["error"]


def test_nobody_there_is_said(pictures: Path, tmp_path: Path) -> None:
    """At once, with what to do."""
    process = begin(pictures, tmp_path / "out", "http://127.0.0.1:9")
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "nobody answers at http://127.0.0.1:9/api/v1; `launch up`" in told
