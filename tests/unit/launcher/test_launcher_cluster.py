"""launcher.cluster and cluster_guard, and what must be right before anything starts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support import free_port

from launcher import lifecycle
from launcher.cards import Card
from launcher.cluster import Agent, UnreachableError, ensure_key
from launcher.cluster_guard import KEY_FILE, OPEN, RequireKey
from launcher.config import ClusterConfig, DeployConfig, parse_config
from launcher.errors import ConfigError
from launcher.yaml_source import YamlSource

KEY = "k" * 43
NODES = [{"name": "head", "address": "10.0.0.1"}, {"name": "gpu1", "address": "127.0.0.1"}]


def config_of(**sections: Any) -> DeployConfig:
    sections.setdefault("cluster", {"nodes": NODES})
    return DeployConfig.model_validate({"model": {"folder": "m"}, **sections})


def mistakes(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(YamlSource.parse(text, "x.yaml"))
    return str(caught.value)


def test_machines_with_one_name_or_address_are_refused() -> None:
    told = mistakes(
        "model: {folder: m}\ncluster:\n  nodes:\n"
        "    - {name: a, address: 10.0.0.1}\n    - {name: a, address: 10.0.0.1}\n"
    )
    assert "two nodes have the name a" in told
    assert "two nodes have the address 10.0.0.1" in told


@pytest.mark.parametrize(
    "node", ["{name: A, address: x}", "{name: a, address: 'x y'}", "{name: a}", "{name: a, ip: x}"]
)
def test_a_machine_that_cannot_be_is_refused(node: str) -> None:
    assert "line 4" in mistakes(f"model: {{folder: m}}\ncluster:\n  nodes:\n    - {node}\n")


def test_ports_of_replicas_must_be_free_of_the_page() -> None:
    told = mistakes("model: {folder: m}\nengine: {port: 7858, replicas: 2}\n")
    assert "webui.port 7860 is one of those of the router and the replicas, 7858 to 7861" in told
    told = mistakes("model: {folder: m}\nengine: {port: 65534, replicas: 2}\n")
    assert "engine.port 65534 leaves no ports" in told
    assert config_of(engine={"port": 65535}, cluster={}).last_port == 65535


def test_a_stop_has_time_for_the_router_too() -> None:
    limit = {"stop_limit_s": 60}
    times = {"engine": {"stop_timeout_s": 45}, "webui": {"stop_timeout_s": 8}}
    DeployConfig.model_validate({"model": {"folder": "m"}, "service": limit, **times})
    times["engine"]["replicas"] = 2
    with pytest.raises(ValueError, match="then 5 for the router"):
        DeployConfig.model_validate({"model": {"folder": "m"}, "service": limit, **times})


@pytest.mark.parametrize(
    ("replicas", "each", "cards", "fits"), [(2, 1, 2, 0), (2, 2, 4, 0), (3, 1, 2, 2), (3, 2, 4, 2)]
)
@pytest.mark.parametrize("backend", ["vllm", "ray"])
def test_more_replicas_than_cards_are_refused_with_the_number_that_fits(
    monkeypatch: pytest.MonkeyPatch, replicas: int, each: int, cards: int, fits: int, backend: str
) -> None:
    monkeypatch.setattr(lifecycle, "cards_of", lambda _: [Card("L4", 24.0, 8.9)] * cards)
    monkeypatch.setattr(lifecycle, "is_on_cpu", lambda: False)
    options = {"tensor-parallel-size": each}
    engine = {"backend": backend, "replicas": replicas, "options": options}
    config = config_of(engine=engine, cluster={})
    if not fits:
        lifecycle.check_cards(config, "")
    else:
        with pytest.raises(ConfigError, match=f"set engine.replicas to {fits}"):
            lifecycle.check_cards(config, "")


def test_the_head_makes_a_key_once_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    config, yaml = config_of(), tmp_path / "deploy.yaml"
    ensure_key(config, yaml, "head")
    file = tmp_path / "cluster-key"
    key = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    ensure_key(config, yaml, "head")
    ensure_key(config, yaml, "gpu1")
    assert key == file.read_text()


def test_another_machine_must_be_given_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="copy it from the head"):
        ensure_key(config_of(), tmp_path / "deploy.yaml", "gpu1")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("text", ["", "short\n", "two words that are long enough to be a key"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster-key").touch(mode=0o600)
    (tmp_path / "cluster-key").write_text(text)
    with pytest.raises(ConfigError, match="holds no key"):
        ensure_key(config_of(), tmp_path / "deploy.yaml", "head")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "cluster-key").write_text(KEY)
    (tmp_path / "cluster-key").chmod(mode)
    with pytest.raises(ConfigError, match="can be read by others: chmod 600"):
        ensure_key(config_of(), tmp_path / "deploy.yaml", "head")


def test_a_key_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    config = config_of(cluster={"nodes": NODES, "key_file": "nowhere/key"})
    with pytest.raises(ConfigError, match="nowhere/key: No such file"):
        ensure_key(config, tmp_path / "deploy.yaml", "head")


def test_a_machine_that_refuses_is_up_and_not_started(tmp_path: Path) -> None:
    (tmp_path / "cluster-key").write_text(KEY)
    config = config_of(engine={"port": free_port()})
    with pytest.raises(UnreachableError, match="not started: `launch up --node gpu1` there") as one:
        Agent(config.cluster.nodes[1], config, tmp_path / "x.yaml").state()
    assert one.value.is_up


def test_a_name_that_leads_nowhere_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "cluster-key").write_text(KEY)
    cluster = ClusterConfig.model_validate({"nodes": [{"name": "a", "address": "no.invalid"}]})
    config = config_of(cluster=cluster)
    with pytest.raises(UnreachableError, match=r"a \(no.invalid\) cannot be reached") as one:
        Agent(cluster.nodes[0], config, tmp_path / "x.yaml").state()
    assert not one.value.is_up


class App:
    """Notes who got through."""

    def __init__(self) -> None:
        self.called = 0

    async def __call__(self, *_: Any) -> None:
        self.called += 1


def answered(
    guard: RequireKey, path: str, client: str, key: str = "", kind: str = "http"
) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    scope = {"type": kind, "path": path, "client": (client, 1), "server": ("10.0.0.2", 8001)}
    asyncio.run(guard({**scope, "headers": headers}, receive, send))
    return sent


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RequireKey:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "key"))
    return RequireKey(App())


@pytest.mark.parametrize(
    ("client", "path", "key", "passes"),
    [
        ("10.0.0.1", "/v1/chat/completions", KEY, True),
        ("10.0.0.1", "/v1/chat/completions", "", False),
        ("10.0.0.1", "/v1/chat/completions", KEY[1:], False),
        ("10.0.0.1", "/invocations", "", False),
        ("10.0.0.1", "/metrics", "", False),
        ("10.0.0.1", "/health/../metrics", "", False),
        ("10.0.0.1", "/health", KEY, True),
        ("10.0.0.1", "/health", "another", False),
        ("10.0.0.2", "/health", "another", False),
        ("10.0.0.2", "/v1/chat/completions", "", True),
        ("127.0.0.1", "/v1/chat/completions", "", True),
        *(("10.0.0.1", path, "", True) for path in sorted(OPEN)),
    ],
)
def test_an_engine_answers_its_own_machine_and_who_has_the_key(
    guard: RequireKey, client: str, path: str, key: str, passes: bool
) -> None:
    sent = answered(guard, path, client, key)
    app = guard._app
    assert isinstance(app, App)
    assert int(passes) == app.called
    assert passes or sent[0]["status"] == 401
    assert passes or "error" in json.loads(sent[1]["body"])


def test_a_stranger_gets_no_websocket_either(guard: RequireKey) -> None:
    sent = answered(guard, "/v1/realtime", "10.0.0.1", kind="websocket")
    assert sent == [{"type": "websocket.close", "code": 1008}]
