"""The real Ray Serve in vLLM's place, with the demo checkpoint."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import openai
import psutil
import pytest
import yaml
from e2e.conftest import Box
from support import ROOT, free_port, png, wait_for

pytestmark = pytest.mark.real

PICTURE = base64.b64encode(png(300, 200, "red")).decode()
HI = [{"role": "user", "content": "hi"}]
MODEL = "Step3-VL-demo"
AT_ONCE = {"thinking": {"type": "disabled"}}


def tagged_with(home: str) -> list[psutil.Process]:
    """Every process of an installation, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STEP3VL_HOME") == home:
                found.append(process)
        except psutil.Error:
            continue
    return found


def listening(processes: list[psutil.Process]) -> dict[str, set[int]]:
    """Addresses, each with the ports there."""
    found: dict[str, set[int]] = {}
    for process in processes:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                ip = connection.laddr.ip.removeprefix("::ffff:")
                found.setdefault(ip, set()).add(connection.laddr.port)
    return found


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    home = tmp_path_factory.mktemp("ray")
    document = yaml.safe_load((ROOT / "deploy" / "demo.yaml").read_text())
    document["model"]["folder"] = str(ROOT / "deploy" / "models" / "step3-vl-demo")
    document["engine"]["port"] = free_port()
    document["engine"]["environment"]["RAY_ADDRESS"] = "local"  # whatever this machine runs
    document["webui"] = {"port": (port := free_port())}
    config = home / "demo.yaml"
    config.write_text(yaml.safe_dump(document))
    box = Box(home, f"http://127.0.0.1:{port}", "", "")
    try:
        result = box.launch("up", "--config", str(config), "--backend", "ray")
        assert result.returncode == 0, result.stdout + result.stderr
        yield box
    finally:
        result = box.launch("down")
    assert result.stdout == "Stopped.\n"
    assert tagged_with(str(home)) == [], "`down` leaves nothing behind"


def ask(box: Box, content: Any, **more: Any) -> str | None:
    answer = box.client().chat.completions.create(
        model=more.pop("model", MODEL),
        messages=[{"role": "user", "content": content}],
        temperature=0,
        extra_body=AT_ONCE,
        **more,
    )
    text: str | None = answer.choices[0].message.content
    return text


def test_it_answers_under_each_of_its_names(ray: Box) -> None:
    """Ray knows the first alone."""
    assert ask(ray, "hi") == ask(ray, "hi", model="Step3-VL-10B") != ""
    names = {model.id for model in ray.client().models.list()}
    assert {MODEL, "Step3-VL-10B", "Step3-VL-10B:fast"} <= names


def test_it_sees_and_remembers_a_picture(ray: Box) -> None:
    """The second time, it gets no more than the picture's name."""
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        {"type": "text", "text": "What colour is the picture?"},
    ]
    assert [ask(ray, content), ask(ray, content)] == ["Red."] * 2


def test_it_streams(ray: Box) -> None:
    stream = ray.client().chat.completions.create(
        model=MODEL,
        messages=HI,  # type: ignore[arg-type]
        stream=True,
        temperature=0,
        extra_body=AT_ONCE,
    )
    pieces = [c.choices[0].delta.content or "" for c in stream if c.choices]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == ask(ray, "hi")


@pytest.mark.parametrize("max_tokens", [3, 5])
def test_an_answer_after_a_thought_is_as_long_as_it_may_be(max_tokens: int, ray: Box) -> None:
    """Without a tokenizer of the engine's, which would count it."""
    client = ray.client().chat.completions
    whole = client.create(model=MODEL, messages=HI, max_tokens=max_tokens, temperature=0)  # type: ignore[call-overload]
    at_once = ask(ray, "hi", max_tokens=max_tokens)
    assert whole.choices[0].message.content == at_once
    assert whole.choices[0].finish_reason == "length"


def test_the_other_apis_are_translated(ray: Box) -> None:
    answer = ray.client().responses.create(model=MODEL, input="hi", max_output_tokens=64)
    assert answer.output_text == ask(ray, "hi")


@pytest.mark.parametrize("asked", [{"prompt": "hi"}, {"messages": HI}])
def test_counting_tokens_is_not_possible(asked: dict[str, Any], ray: Box) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ray.client().post("/tokenize", body={"model": MODEL, **asked}, cast_to=object)
    assert caught.value.status_code == 501
    assert caught.value.code == "not_supported_by_backend"


def test_a_refusal_is_in_vllms_words(ray: Box) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        ray.client().chat.completions.create(model=MODEL, messages=HI, temperature=-5)  # type: ignore[arg-type]
    assert "Internal exception" not in caught.value.message
    with pytest.raises(openai.NotFoundError, match="nobody"):
        ask(ray, "hi", model="nobody")


def test_other_machines_reach_nothing_without_the_token(ray: Box) -> None:
    """A port of each of Serve's replicas is open on every address; those want Ray's token."""
    found = listening(tagged_with(str(ray.home)))
    for port in found.pop("::", set()):
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        ask = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        channel.close()
    assert set(found) == {"127.0.0.1"}


def test_status_is_ready_and_the_choice_is_remembered(ray: Box) -> None:
    status = json.loads(ray.launch("status", "--json").stdout)
    assert (status["ready"], status["engine"]["message"]) == (True, "ready")
    assert ray.launch("up").returncode == 0  # changes nothing, restarts nothing
    assert json.loads(ray.launch("status", "--json").stdout) == status


def rays(box: Box) -> tuple[psutil.Process, list[psutil.Process]]:
    """What has started a Ray of its own, and all of it."""
    before = tagged_with(str(box.home))
    [child] = [p for p in before if p.cmdline()[3:4] == ["launcher.ray_serve"]]
    return child, child.children(recursive=True)


def is_there(box: Box) -> bool:
    """As far as Serve's controller; the model may still load."""
    try:
        return any(process.name().startswith("ray::Serve") for process in rays(box)[1])
    except (ValueError, psutil.Error):
        return False


@pytest.mark.parametrize("whom", ["raylet", "its starter"])
def test_nothing_of_a_ray_that_was_killed_is_left(whom: str, ray: Box) -> None:
    """The last test: the next start is not waited for, only that there is one."""
    wait_for(lambda: is_there(ray), 60, "a Ray to kill")
    child, below = rays(ray)
    if whom == "raylet":
        [child] = [process for process in below if process.name() == whom]
    child.kill()
    wait_for(lambda: not [p for p in below if p.is_running()], 20, "the end of all of it")
