"""Several engines behind the real router, under a real supervisord; the engines are stand-ins."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from deployments import Deployment, Engine, get, new_deployment, own_processes, states, status
from support import free_ports, wait_for

REPLICAS = 2
BOTH = {"vllm-0", "vllm-1"}


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two engines and a router; each word of an answer takes a moment."""
    deployment = new_deployment(tmp_path_factory.mktemp("replicas") / "home")
    deployment.engine_port = free_ports(REPLICAS + 2)
    deployment.edit(
        "engine",
        port=deployment.engine_port,
        replicas=REPLICAS,
        environment={"FAKE_VLLM": json.dumps({"delay_s": 0.02})},
        stop_timeout_s=10,
        # A kill every few seconds is no crash loop here.
        good_run_s=1,
        crash_limit=1000,
    )
    try:
        result = deployment.up()
        assert result.returncode == 0, result.stdout + result.stderr
        yield deployment
        # supervisord has the engines in a group, so that none waits for another to stop.
        assert states(deployment).keys() == {"router", "vllm:vllm-0", "vllm:vllm-1", "webui"}
    finally:
        deployment.launch("down")
    assert own_processes(deployment) == []


@pytest.fixture
def cluster(replicas: Deployment) -> Deployment:
    """Both get requests, and supervisord counts no end as a failed start any more."""
    wait_for(lambda: routed(replicas) == BOTH, 30, "both get requests")
    wait_for(lambda: set(states(replicas).values()) == {"RUNNING"}, 30, "all run")
    return replicas


def routed(deployment: Deployment) -> set[str]:
    document = json.loads((deployment.home / "run" / "replicas.json").read_text())
    return {row["name"] for row in document["replicas"] if row["phase"] == "ready"}


def ask(deployment: Deployment, text: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of a chat answer; a conversation is told by its text."""
    connection = http.client.HTTPConnection("127.0.0.1", deployment.webui_port, timeout=60)
    body = {"model": "one", "messages": [{"role": "user", "content": text}], **more}
    headers = {"content-type": "application/json"}
    try:
        connection.request("POST", "/api/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def engine_url(deployment: Deployment, index: int) -> str:
    return f"http://127.0.0.1:{deployment.engine_port + 1 + index}"


def seen(deployment: Deployment, index: int) -> list[dict[str, Any]]:
    """What an engine was asked."""
    found = get(f"{engine_url(deployment, index)}/fake/seen")[2]
    return [one for one in found if one["path"] == "/v1/chat/completions"]


def engine_of(deployment: Deployment, name: str) -> psutil.Process:
    """A stand-in itself, below its parent."""
    [child] = psutil.Process(status(deployment)["programs"][name]["pid"]).children()
    return child


def test_a_conversation_stays_where_it_began(cluster: Deployment) -> None:
    """Its pictures and its beginning are kept there, and nowhere else."""
    texts = [f"talk {number}" for number in range(12)]
    for text in texts * 3:
        assert ask(cluster, text)[0] == 200
    asked = [
        {one["body"]["messages"][0]["content"] for one in seen(cluster, index)} & set(texts)
        for index in (0, 1)
    ]
    assert set(texts) == asked[0] | asked[1]
    assert set() == asked[0] & asked[1]
    assert min(map(len, asked)) >= 3, "they are spread"


def test_the_figures_of_each_engine_have_its_name(cluster: Deployment) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", cluster.webui_port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    for name in ("vllm-0", "vllm-1"):
        assert f'vllm:num_requests_running{{replica="{name}",engine="0"}} 0' in text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_whole_answer_is_lost_with_an_engine(
    cluster: Deployment, number: signal.Signals
) -> None:
    """Killed under load it is taken out, and used again once it is back."""
    over = threading.Event()

    def talk(speaker: int) -> list[int]:
        found, turn = [], 0
        while not over.is_set():
            found.append(ask(cluster, f"talk {speaker} {turn}")[0])
            turn += 1
        return found

    with ThreadPoolExecutor(8) as pool:
        talks = [pool.submit(talk, speaker) for speaker in range(8)]
        try:
            wait_for(lambda: len(seen(cluster, 1)) > 20, 20, "both are asked")
            victim = engine_of(cluster, "vllm-0")
            victim.send_signal(number)
            wait_for(lambda: routed(cluster) == {"vllm-1"}, 10, "it gets no more requests")
            wait_for(lambda: routed(cluster) == BOTH, 30, "it is back")
            wait_for(lambda: len(seen(cluster, 0)) > 5, 20, "it is asked again")
        finally:
            over.set()
        statuses = [one for future in talks for one in future.result()]
    assert {200} == set(statuses), {code: statuses.count(code) for code in set(statuses)}


def test_a_stream_that_loses_its_engine_ends_with_an_error(cluster: Deployment) -> None:
    for index in (0, 1):  # forgotten with the engine
        Engine(engine_url(cluster, index), None).script(delay_s=0.1, words=600)
    connection = http.client.HTTPConnection("127.0.0.1", cluster.webui_port, timeout=60)
    messages = [{"role": "user", "content": "long"}]
    body = json.dumps({"model": "one", "stream": True, "messages": messages})
    connection.request(
        "POST", "/api/v1/chat/completions", body, {"content-type": "application/json"}
    )
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    index = 0 if seen(cluster, 0) else 1
    engine_of(cluster, f"vllm-{index}").kill()
    Engine(engine_url(cluster, 1 - index), None).script(delay_s=0.02)
    events = [line for line in answer.read().split(b"\n\n") if line.startswith(b"data: ")]
    assert events[-1].strip() == b"data: [DONE]"
    error = json.loads(events[-2].removeprefix(b"data: "))["error"]
    assert error["code"] == "engine_restarted"


def test_without_an_engine_it_says_so(cluster: Deployment) -> None:
    """The router is well then, and answers in its own words, which nobody is shown."""
    cluster.ctl("stop", "vllm:*")
    wait_for(lambda: not routed(cluster), 10, "none gets requests")
    code, document = ask(cluster, "anyone?")
    assert (code, document["error"]["code"]) == (503, "engine_unavailable")
    assert get(f"{cluster.url}/readyz")[0] == 503
    assert "http://127.0.0.1" not in json.dumps(document)
    cluster.ctl("start", "vllm:*")


def test_a_router_that_is_killed_comes_back_and_knows_the_engines(cluster: Deployment) -> None:
    parent = psutil.Process(status(cluster)["programs"]["router"]["pid"])
    parent.kill()
    wait_for(lambda: parent.pid != status(cluster)["programs"]["router"]["pid"], 20, "a new one")

    def answers() -> bool:
        try:
            return ask(cluster, "hello")[0] == 200
        except OSError:
            return False

    wait_for(answers, 30, "it answers again")
    wait_for(lambda: routed(cluster) == BOTH, 20, "both get requests")


def test_an_engine_that_hangs_gets_no_requests(cluster: Deployment) -> None:
    engine = engine_of(cluster, "vllm-0")
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: routed(cluster) == {"vllm-1"}, 20, "it is taken out")
        began = time.monotonic()
        assert ask(cluster, "something new")[0] == 200
        assert time.monotonic() - began < 5
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    wait_for(lambda: routed(cluster) == BOTH, 20, "it is back")


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_stops_the_engines_work(cluster: Deployment, stream: bool) -> None:
    """Through the router too, in the middle of a stream and before a whole answer."""
    text = f"Somebody leaves, {stream}"
    connection = http.client.HTTPConnection("127.0.0.1", cluster.webui_port, timeout=30)
    messages = [{"role": "user", "content": text}]
    for index in (0, 1):
        Engine(engine_url(cluster, index), None).script(delay_s=0.1, words=300)
    try:
        body = json.dumps({"model": "one", "stream": stream, "messages": messages})
        headers = {"content-type": "application/json"}
        connection.request("POST", "/api/v1/chat/completions", body, headers)
        if stream:
            assert connection.getresponse().readline().startswith(b"data: ")
        asked = wait_for(lambda: of_text(cluster, text), 10, "an engine is asked")
        assert asked[0]["outcome"] == "running"
        connection.close()
        wait_for(lambda: of_text(cluster, text)[0]["outcome"] == "aborted", 5, "it stops")
    finally:
        for index in (0, 1):
            Engine(engine_url(cluster, index), None).script(delay_s=0.02)


def of_text(deployment: Deployment, text: str) -> list[dict[str, Any]]:
    asked = [*seen(deployment, 0), *seen(deployment, 1)]
    return [one for one in asked if one["body"]["messages"][0]["content"] == text]


def test_large_requests_pass_the_router(cluster: Deployment) -> None:
    """As large as the gateway lets them be by default."""
    text = "x" * 50_000_000
    code, document = ask(cluster, text)
    assert (code, document["object"]) == (200, "chat.completion")


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 500])
def test_an_engines_refusal_is_told_as_with_one_engine(
    cluster: Deployment, path: str, stream: bool, status: int
) -> None:
    """The router calls it a stream where one was asked for."""
    for index in (0, 1):
        Engine(engine_url(cluster, index), None).script(status=status, error="too long")
    try:
        answer = send(cluster, path, {"prompt": "x", "stream": stream})
        tries = len([*seen(cluster, 0), *seen(cluster, 1)])
    finally:
        for index in (0, 1):
            Engine(engine_url(cluster, index), None).script(delay_s=0.02)
    assert answer == (status, "application/json", "too long")
    assert path == "completions" or tries <= 1, "and asked no more often"


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_what_the_router_cannot_read_is_the_clients_mistake(cluster: Deployment, path: str) -> None:
    code, kind, message = send(cluster, path, {"prompt": "x", "top_k": "many"})
    assert (code, kind) == (400, "application/json")
    assert "top_k" in message


def send(deployment: Deployment, path: str, more: dict[str, Any]) -> tuple[int, str, str]:
    """Status, content type and the error's message."""
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "one", **more} | ({"messages": messages} if "chat" in path else {})
    if "chat" in path:
        del body["prompt"]
    connection = http.client.HTTPConnection("127.0.0.1", deployment.webui_port, timeout=60)
    headers = {"content-type": "application/json"}
    connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer.status, str(answer.headers["content-type"]), document["error"]["message"]


def test_a_stranger_among_the_engines_is_taken_out(cluster: Deployment) -> None:
    """The router takes orders from whoever is on this machine."""
    router = f"http://127.0.0.1:{cluster.engine_port}"
    stranger = f"http://127.0.0.1:{cluster.webui_port}"
    request = urllib.request.Request(f"{router}/add_worker?url={stranger}", method="POST")
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10):
        pass

    def has_strangers() -> bool:
        return stranger in get(f"{router}/list_workers")[2]["urls"]

    wait_for(lambda: not has_strangers(), 10, "it is taken out")


def test_each_engine_has_a_log_of_its_own(cluster: Deployment) -> None:
    """Whoever asks for that of the only one is told their names."""
    assert "startup complete" in cluster.launch("logs", "vllm-1").stdout
    refused = cluster.launch("logs", "vllm")
    assert refused.returncode == 1
    assert refused.stderr == "step3vl: vllm is vllm-0 and vllm-1 here; `launch logs vllm-0`\n"


def test_two_rolling_restarts_do_not_meet(cluster: Deployment) -> None:
    """The second says so, and an engine that the first one has taken out stays out."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cluster.launch, "restart", "--rolling")
        draining = cluster.home / "run" / "draining.json"
        wait_for(draining.exists, 20, "the first one has begun")
        second = cluster.launch("restart", "--rolling")
        assert second.returncode == 1
        assert "another `launch restart --rolling` is at it" in second.stderr
        assert first.result().returncode == 0, first.result().stderr
    assert not draining.exists()


def test_an_engine_is_drained_only_while_somebody_wants_it(cluster: Deployment) -> None:
    """Whoever did may have been killed."""
    draining = cluster.home / "run" / "draining.json"
    draining.write_text(json.dumps({"engine": "vllm-0", "pid": os.getpid()}))
    wait_for(lambda: routed(cluster) == {"vllm-1"}, 10, "it gets nothing new")
    draining.write_text(json.dumps({"engine": "vllm-0", "pid": 2**22 + 1}))
    wait_for(lambda: routed(cluster) == BOTH, 10, "it does again")
    draining.unlink()
