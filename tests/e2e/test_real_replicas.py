"""Two real engines, the real router before them, on an address that wants the cluster's key."""

from __future__ import annotations

import base64
import http.client
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import openai
import psutil
import pytest
import yaml
from e2e.conftest import Box
from support import ROOT, free_port, free_ports, png, wait_for

pytestmark = pytest.mark.real

# Of this machine as well, and not what the launcher uses itself.
ADDRESS, STRANGER = "127.0.0.2", "127.0.0.3"
PICTURE = base64.b64encode(png(300, 200, "red")).decode()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    home = tmp_path_factory.mktemp("replicas")
    document = yaml.safe_load((ROOT / "deploy" / "demo.yaml").read_text())
    document["model"]["folder"] = str(ROOT / "deploy" / "models" / "step3-vl-demo")
    port, engine_port = free_port(), free_ports(4)
    document["engine"]["port"] = engine_port
    document["webui"] = {"port": port}
    node = {"name": "alone", "address": ADDRESS, "replicas": 2}
    document["cluster"] = {"nodes": [node]}
    config = home / "demo.yaml"
    config.write_text(yaml.safe_dump(document))
    box = Box(home, f"http://127.0.0.1:{port}", f"http://{ADDRESS}:{engine_port + 1}", "")
    try:
        result = box.launch("up", "--config", str(config), "--node", "alone")
        assert result.returncode == 0, result.stdout + result.stderr
        wait_for(lambda: routed(box) == ["alone/vllm-0", "alone/vllm-1"], 200, "both are ready")
        yield box
    finally:
        assert box.launch("down").stdout == "Stopped.\n"


def routed(box: Box) -> list[str]:
    rows = json.loads((box.home / "run" / "replicas.json").read_text())["replicas"]
    return [row["name"] for row in rows if row["phase"] == "ready"]


def ask(box: Box) -> str | None:
    """About a picture that the engine knows by its name after the first time."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    text = {"type": "text", "text": "What colour is the picture?"}
    answer = box.client().chat.completions.create(
        model="Step3-VL-demo",
        messages=[{"role": "user", "content": [picture, text]}],  # type: ignore[misc,list-item]
        temperature=0,
        max_tokens=16,
        extra_body={"thinking": {"type": "disabled"}},
    )
    return answer.choices[0].message.content


def prompts(box: Box) -> dict[str, float]:
    """Tokens that each engine has read."""
    with urlopen(f"{box.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'vllm:prompt_tokens_total\{replica="([^"]+)"[^\n]*\} ([0-9.e+]+)', text)
    return {name: float(value) for name, value in found}


def engine_pid(box: Box, title: str) -> int:
    programs = json.loads(box.launch("status", "--json").stdout)["programs"]
    [pid] = [p["pid"] for p in programs if p["name"] == title.partition("/")[2]]
    [child] = psutil.Process(pid).children()
    return child.pid


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations", "/v1/models", "/metrics"])
def test_a_stranger_gets_no_answer_of_an_engine(replicas: Box, path: str) -> None:
    host = replicas.engine_url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10, source_address=(STRANGER, 0))
    connection.request("GET", path)
    assert connection.getresponse().status == 401
    connection.close()
    key = (Path(replicas.home) / "cluster-key").read_text().strip()
    connection = http.client.HTTPConnection(host, timeout=10, source_address=(STRANGER, 0))
    connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
    assert connection.getresponse().status in {200, 405}
    connection.close()


def test_a_refusal_is_still_the_engines_own(replicas: Box) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        replicas.client().chat.completions.create(
            model="Step3-VL-demo",
            messages=[{"role": "user", "content": "hi"}],
            temperature=-5,
        )


def test_a_talk_goes_on_when_its_engine_is_killed(replicas: Box) -> None:
    """The other one has never seen the picture: it is sent again, and nobody notices.

    The last one here: what it kills takes a while to load again.
    """
    before = prompts(replicas)
    answer = ask(replicas)
    assert answer == ask(replicas)
    now = prompts(replicas)
    [served] = [name for name in now if now[name] > before[name] + 100]
    psutil.Process(engine_pid(replicas, served)).kill()
    began = time.monotonic()
    assert answer == ask(replicas)
    assert time.monotonic() - began < 30
    wait_for(lambda: served not in routed(replicas), 10, "it gets no more requests")
