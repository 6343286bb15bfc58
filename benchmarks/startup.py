"""What `launch up` costs beside bare vLLM, and how fast the rest of it answers.

    python benchmarks/startup.py [--rounds 3]

Runs in turn, on this machine: vLLM alone with the demo's options until /health says 200, with dummy
weights and with the demo's, and `launch up` until it prints that it is ready. Prints every figure
beside its baseline or its goal.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import yaml

from launcher.config import load_config
from launcher.paths import ROOT, Paths
from launcher.programs import engine_process

START_LIMIT_S = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes] | None = None) -> float:
    """When ``url`` first answered 200."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process is not None and process.poll() not in {None, 0}:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return time.monotonic()
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"{url} did not answer in {START_LIMIT_S} s")


class Box:
    """deploy/demo.yaml on ports and in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.environ = {**os.environ, "STEP3VL_HOME": str(self.home)}
        self.port, self.engine_port = free_port(), free_port()
        document = yaml.safe_load((ROOT / "deploy" / "demo.yaml").read_text())
        document["model"]["folder"] = str(ROOT / "deploy" / document["model"]["folder"])
        document["engine"]["port"] = self.engine_port
        document["webui"] = {"port": self.port}
        self.config = folder / "demo.yaml"
        self.config.write_text(yaml.safe_dump(document))

    def bare(self, *more: str) -> float:
        """Seconds until vLLM alone, with ``more`` options, is ready; then end it."""
        paths = Paths.from_environ(self.environ)
        process = engine_process(load_config(self.config), self.config, paths)
        argv = process.argv[process.argv.index("--") + 1 :]
        began = time.monotonic()
        with subprocess.Popen(
            [*argv, *more],
            env={**self.environ, **process.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as vllm:
            seconds = wait_for(f"http://127.0.0.1:{self.engine_port}/health", vllm) - began
            vllm.terminate()
        return seconds

    def launch(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(ROOT / "launcher" / "launch"), *arguments]
        return subprocess.Popen(command, env=self.environ, stdout=subprocess.PIPE)

    def up(self) -> dict[str, float]:
        """Seconds from typing `up` to: first line, WebUI answering, engine ready; and memory."""
        began = time.monotonic()
        with self.launch("up", "--config", str(self.config)) as up:
            assert up.stdout is not None
            up.stdout.readline()
            first_line = time.monotonic() - began
            answering = wait_for(f"http://127.0.0.1:{self.port}/livez", up) - began
            page = self.page_appears(began)
            ready = self.says_ready(up) - began
        began = time.monotonic()
        with self.launch("up", "--config", str(self.config)) as again:
            assert again.stdout is not None
            again.stdout.readline()
            second = time.monotonic() - began
        return {
            "first line of up": first_line,
            "WebUI answering": answering,
            "page loaded": page,
            "engine ready": ready,
            "first line of a second up": second,
            "webui RSS, MB": self.webui_memory(),
        }

    def says_ready(self, up: subprocess.Popen[bytes]) -> float:
        """When `up` printed that everything serves, and was over."""
        assert up.stdout is not None
        output = up.stdout.read()
        assert b"Ready after" in output, output.decode()
        return time.monotonic()

    def page_appears(self, began: float) -> float:
        """When the real page has taken the place of the waiting one."""
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as response:
                if b"gradio" in response.read():
                    return time.monotonic() - began
            time.sleep(0.05)

    def webui_memory(self) -> float:
        supervisord = psutil.Process(int((self.home / "run" / "supervisord.pid").read_text()))
        [webui] = [p for p in supervisord.children() if "webui" in p.cmdline()]
        return sum(p.memory_info().rss for p in [webui, *webui.children(recursive=True)]) / 1e6

    def down(self) -> None:
        with self.launch("down") as down:
            down.wait(120)


def report(baseline: float, dummy: float, figures: dict[str, float]) -> None:
    """Each figure beside its baseline or its goal."""
    ratio = baseline / dummy
    print(f"bare vLLM, dummy weights     {dummy:6.1f} s")
    print(f"the demo's weights beside it {ratio:6.3f} x   (goal: at most 1.1 x)")
    ready = figures["engine ready"]
    added = f"{ready / baseline:.3f} x, {ready - baseline:+.1f} s"
    print(f"bare vLLM ready (baseline)   {baseline:6.1f} s")
    print(f"up, engine ready             {ready:6.1f} s   {added} (goal: at most +2 s)")
    print(f"up, WebUI answering          {figures['WebUI answering']:6.2f} s   (goal: at most 5 s)")
    print(f"up, page loaded              {figures['page loaded']:6.2f} s")
    print(
        f"second up, first line        {figures['first line of a second up']:6.2f} s   (goal: 2 s)"
    )
    print(
        f"webui idle memory            {figures['webui RSS, MB']:6.0f} MB  (goal: at most 350 MB)"
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    dummies, bare, ups = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        box = Box(Path(folder))
        try:
            box.bare()  # the first start of a machine reads everything from disk
            for number in range(rounds):
                dummies.append(box.bare("--load-format", "dummy"))
                bare.append(box.bare())
                ups.append(box.up())
                box.down()
                print(f"round {number + 1}: bare {bare[-1]:.1f} s, {ups[-1]}", file=sys.stderr)
        finally:
            box.down()
    figures = {name: statistics.median(up[name] for up in ups) for name in ups[0]}
    report(statistics.median(bare), statistics.median(dummies), figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
