"""Three machines of a cluster, each a network namespace with an address of its own, and a switch
between them. Prints, as JSON, what was seen.

    unshare --user --map-root-user --net --mount python cluster_network.py FOLDER
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import FAKE_VLLM, ROOT, wait_for

ADDRESSES = {"head": "10.9.0.1", "gpu1": "10.9.0.2", "gpu2": "10.9.0.3"}
SWITCH = "10.9.0.254"
PORT, PAGE = 8000, 7860
LAUNCH = [sys.executable, "-P", "-m", "launcher"]


@dataclass
class Host:
    """A machine: a namespace that a sleeping process holds open."""

    name: str
    folder: Path
    namespace: int

    @property
    def config(self) -> Path:
        return self.folder / "deploy.yaml"

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "STEP3VL_HOME": str(self.folder)}
        enter = ["nsenter", f"--net=/proc/{self.namespace}/ns/net"]
        return subprocess.run(
            [*enter, *LAUNCH, *arguments], env=environ, capture_output=True, text=True, timeout=120
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        return self.launch("up", "--config", str(self.config), "--node", self.name)

    def write(self, **engine: Any) -> None:
        """The YAML, which is the same on each."""
        document = {
            "model": {"folder": str(ROOT / "deploy/models/step3-vl-demo"), "names": ["one"]},
            "engine": {
                "port": PORT,
                "command": [sys.executable, str(FAKE_VLLM)],
                "environment": {"FAKE_VLLM": json.dumps({"delay_s": 0.02})},
                "stop_timeout_s": 5,
                **engine,
            },
            "webui": {"host": "0.0.0.0", "port": PAGE, "stop_timeout_s": 3},
            "cluster": {
                "nodes": [
                    {"name": name, "address": address, "replicas": int(name != "head")}
                    for name, address in ADDRESSES.items()
                ]
            },
        }
        self.config.write_text(yaml.safe_dump(document))

    def cut_off(self, *, is_cut: bool) -> None:
        run("ip", "link", "set", f"to-{self.name}", "down" if is_cut else "up")


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def host(name: str, folder: Path) -> Iterator[Host]:
    """A machine on the switch."""
    sleeping = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    result = Host(name, folder / name, sleeping.pid)
    result.folder.mkdir()
    result.write()
    try:
        own = Path("/proc/self/ns/net").readlink()
        wait_for(
            lambda: Path(f"/proc/{sleeping.pid}/ns/net").readlink() != own, 10, "its namespace"
        )
        run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", f"of-{name}")
        run("ip", "link", "set", f"of-{name}", "netns", str(sleeping.pid))
        run("ip", "link", "set", f"to-{name}", "master", "switch", "up")
        enter = ["nsenter", f"--net=/proc/{sleeping.pid}/ns/net", "ip"]
        run(*enter, "link", "set", "lo", "up")
        run(*enter, "address", "add", f"{ADDRESSES[name]}/24", "dev", f"of-{name}")
        run(*enter, "link", "set", f"of-{name}", "up")
        yield result
    finally:
        result.launch("down")
        sleeping.kill()
        sleeping.wait()


def exchange(
    address: str, port: int, method: str, path: str, document: Any = None, key: str = ""
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, port, timeout=30)
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, document and json.dumps(document), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def ask(text: str) -> int:
    """The status of a chat answer."""
    document = {"model": "one", "messages": [{"role": "user", "content": text}]}
    return exchange(ADDRESSES["head"], PAGE, "POST", "/api/v1/chat/completions", document)[0]


def routed(head: Host) -> set[str]:
    document = json.loads((head.folder / "run" / "replicas.json").read_text())
    return {row["name"] for row in document["replicas"] if row["phase"] == "ready"}


@contextmanager
def asking(statuses: list[int]) -> Iterator[None]:
    """Eight who ask all the time, each time in a new conversation."""
    over = threading.Event()

    def speak(speaker: int) -> None:
        turn = 0
        while not over.is_set():
            statuses.append(ask(f"{speaker} {turn}"))
            turn += 1

    with ThreadPoolExecutor(8) as pool:
        speaking = [pool.submit(speak, speaker) for speaker in range(8)]
        try:
            yield
        finally:
            over.set()
        for one in speaking:
            one.result()


BOTH = {"gpu1/vllm-0", "gpu2/vllm-0"}


def main(folder: Path) -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "switch", "type", "bridge")
    run("ip", "address", "add", f"{SWITCH}/24", "dev", "switch")
    run("ip", "link", "set", "switch", "up")
    with ExitStack() as stack:
        head, *others = (stack.enter_context(host(name, folder)) for name in ADDRESSES)
        found = start(head, others)
        found["doors"] = doors((head.folder / "cluster-key").read_text().strip())
        found["rolling"] = rolling(head)
        found["other key"] = other_key(head, others[0])
        found["cut"] = cut_off(head, others[0])
        found["status"] = json.loads(head.launch("status", "--json").stdout)
        found["down"] = [one.launch("down").returncode for one in (head, *others)]
    print(json.dumps(found))


def said(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout + result.stderr


def start(head: Host, others: list[Host]) -> dict[str, Any]:
    found: dict[str, Any] = {"without key": said(others[0].up())}
    found["unknown"] = said(head.launch("up", "--config", str(head.config), "--node", "gpu9"))
    found["head"] = said(head.up())
    key = (head.folder / "cluster-key").read_text()
    found["waiting"] = json.loads(head.launch("status", "--json").stdout)["others"]
    others[1].write(stop_timeout_s=6)
    (others[0].folder / "cluster-key").write_text(key)
    found["open key"] = said(others[0].up())
    for other in others:
        (other.folder / "cluster-key").write_text(key)
        (other.folder / "cluster-key").chmod(0o600)
    started = [others[0].up(), others[1].up()]
    found["another YAML"] = said(started[1])
    others[1].write()
    started.append(others[1].up())
    found["started"] = [result.returncode for result in started]
    wait_for(lambda: routed(head) == BOTH, 30, "both get requests")
    found["answers"] = [ask(f"talk {number}") for number in range(6)]
    return found


def doors(key: str) -> dict[str, int]:
    """What a stranger on the cluster's network gets, and what one with the key does."""
    engine, agent = (ADDRESSES["gpu1"], PORT + 1), (ADDRESSES["gpu1"], PORT)
    chat = {"model": "one", "messages": [{"role": "user", "content": "hi"}]}
    return {
        "models": exchange(*engine, "GET", "/v1/models")[0],
        "chat": exchange(*engine, "POST", "/v1/chat/completions", chat)[0],
        "invocations": exchange(*engine, "POST", "/invocations", chat)[0],
        "metrics": exchange(*engine, "GET", "/metrics")[0],
        "state": exchange(*agent, "GET", "/state")[0],
        "restart": exchange(*agent, "POST", "/restart/vllm-0")[0],
        "router": exchange(ADDRESSES["head"], PORT, "GET", "/v1/models")[0],
        "with the key": exchange(*engine, "POST", "/v1/chat/completions", chat, key)[0],
        "state with the key": exchange(*agent, "GET", "/state", key=key)[0],
    }


def other_key(head: Host, other: Host) -> dict[str, Any]:
    """A machine that was given another key, and then the right one."""
    file = other.folder / "cluster-key"
    right = file.read_text()
    file.write_text("another" * 6)
    up = other.up().returncode
    wait_for(lambda: routed(head) == BOTH - {"gpu1/vllm-0"}, 20, "it is taken out")
    answers = [ask(f"without it {number}") for number in range(4)]
    shown = head.launch("status").stdout
    file.write_text(right)
    up += other.up().returncode
    wait_for(lambda: routed(head) == BOTH, 30, "it is back")
    return {"up": up, "answers": answers, "status": shown}


def rolling(head: Host) -> dict[str, Any]:
    """All engines restarted while eight people ask."""
    statuses: list[int] = []
    with asking(statuses):
        result = head.launch("restart", "--rolling")
    return {"code": result.returncode, "said": said(result), "statuses": statuses}


def cut_off(head: Host, other: Host) -> dict[str, Any]:
    """A machine without its cable, and with it again."""
    other.cut_off(is_cut=True)
    wait_for(lambda: routed(head) == BOTH - {"gpu1/vllm-0"}, 20, "it is taken out")
    without = [ask(f"meanwhile {number}") for number in range(6)]
    shown = head.launch("status").stdout
    warned = said(head.up())
    other.cut_off(is_cut=False)
    wait_for(lambda: routed(head) == BOTH, 30, "it is back")
    again = [ask(f"again {number}") for number in range(6)]
    return {"without": without, "status": shown, "warned": warned, "again": again}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
