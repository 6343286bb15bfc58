"""launcher.ray_serve: which Ray is joined, and what one of its own is started with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import free_port

from launcher import ray_serve
from launcher.engine_causes import cause_of
from launcher.ray_serve import (
    RaySettings,
    arguments_of,
    own_environment,
    running_cluster,
)


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whatever this machine runs."""
    noted = tmp_path / "ray_current_cluster"
    monkeypatch.setattr(ray_serve, "CURRENT_CLUSTER", noted)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return noted


def test_without_a_ray_one_is_started() -> None:
    assert running_cluster() is None


def test_the_ray_that_is_named_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gcs:
        address = f"127.0.0.1:{gcs.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert running_cluster() == address


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "auto", "ray://127.0.0.1:x"])
def test_one_that_is_named_must_answer(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To start another beside it is not what was asked for."""
    monkeypatch.setenv("RAY_ADDRESS", address.format(free_port()))
    with pytest.raises(SystemExit, match="does not answer") as caught:
        running_cluster()
    found = cause_of([str(caught.value)])
    assert found is not None
    assert found.code == "ray"


def test_a_ray_that_runs_here_is_joined(no_cluster: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gcs:
        address = f"127.0.0.1:{gcs.getsockname()[1]}"
        no_cluster.write_text(address)
        assert running_cluster() == address
    assert running_cluster() is None, "it has ended since"


def test_local_joins_none(no_cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with socket.create_server(("127.0.0.1", 0)) as gcs:
        no_cluster.write_text(f"127.0.0.1:{gcs.getsockname()[1]}")
        assert running_cluster() is None


@pytest.mark.parametrize("content", ["", "nonsense", "127.0.0.1:x"])
def test_a_note_that_says_nothing_is_no_ray(no_cluster: Path, content: str) -> None:
    no_cluster.write_text(content)
    assert running_cluster() is None


def settings(replicas: int) -> RaySettings:
    llm = {"model_loading_config": {"model_id": "a"}, "runtime_env": {"env_vars": {}}}
    arguments = {"llm_configs": [llm], "ingress_deployment_config": {}}
    variables = ["HF_TOKEN", "RAY_ADDRESS", "VLLM_GONE"]
    return RaySettings("127.0.0.1", 8000, "/run/ray", replicas, arguments, variables)


def test_a_ray_of_somebody_elses_is_told_vllms_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of its own has them already, and Ray writes what it is told into its logs."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    [llm] = arguments_of(settings(1), joined=True)["llm_configs"]
    assert llm["runtime_env"] == {"env_vars": {"HF_TOKEN": "secret"}}
    assert llm["model_loading_config"] == {"model_id": "a"}
    assert arguments_of(settings(1), joined=False) == settings(1).arguments


def test_replicas_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    counts = [own_environment(settings(n))["OMP_NUM_THREADS"] for n in (1, 3, 9)]
    assert counts == ["8", "2", "1"]


def test_a_number_of_threads_in_the_yaml_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert own_environment(settings(1))["OMP_NUM_THREADS"] == "5"


def test_every_ray_has_a_token_of_its_own() -> None:
    one, two = own_environment(settings(1)), own_environment(settings(1))
    assert one["RAY_AUTH_MODE"] == "token"
    assert one["RAY_AUTH_TOKEN"] != two["RAY_AUTH_TOKEN"]


# In a process of its own, whose only children these are; "collected" is as Ray does it.
LOSES_ONE = """\
import subprocess, threading
from launcher.ray_serve import children, wait_for_an_end
cats = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2)]
print(sorted(children()) == sorted(cat.pid for cat in cats))
waiting = threading.Thread(target=wait_for_an_end, args=[children()], daemon=True)
waiting.start()
waiting.join(1.5)
print(waiting.is_alive())
cats[1].kill()
cats[1].wait()  # collected
waiting.join(10)
print(waiting.is_alive())
"""


def test_the_end_of_a_part_is_noticed() -> None:
    command = [sys.executable, "-P", "-c", LOSES_ONE]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.split() == ["True", "True", "False"]
