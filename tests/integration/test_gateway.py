"""The API over a real socket, with the stand-in engine behind it."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from deployments import Webui
from support import wait_for

HELLO = [{"role": "user", "content": "hello"}]


def client(webui: Webui, prefix: str = "/api/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{webui.url}{prefix}", api_key="none", max_retries=0)


def ask(webui: Webui, **more: Any) -> Any:
    return client(webui).chat.completions.create(**{"model": "one", "messages": HELLO, **more})


def raw(webui: Webui, request: bytes) -> bytes:
    """Send bytes, and read until the other side closes."""
    address = urlsplit(webui.url)
    with socket.create_connection((address.hostname, address.port), 5) as connection:
        connection.sendall(request)
        connection.settimeout(5)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def request(webui: Webui, method: str, path: str, body: bytes = b"") -> tuple[int, Any, Any]:
    """Status, headers and parsed body of one exchange."""
    address = urlsplit(webui.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    connection.request(method, path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, json.loads(content) if content else None


@pytest.mark.parametrize("prefix", ["/api/v1", "/v1"])
def test_both_prefixes_serve_chat(webui: Webui, prefix: str) -> None:
    """A base_url of either form gives the engine's own answer, untouched."""
    answer = client(webui, prefix).chat.completions.create(model="two", messages=HELLO)
    assert answer.choices[0].message.content.startswith("1 messages, 0 images, last: hello.")
    assert answer.choices[0].message.reasoning == "Hmm."


def test_what_reaches_the_engine(webui: Webui) -> None:
    """A request as it was, with limits in the engine's terms, and no header of the client's."""
    body = {
        "model": "one",
        "messages": HELLO,
        "temperature": 0.25,
        "stop": ["é"],
        "max_tokens": None,
    }
    request(webui, "POST", "/api/v1/chat/completions", json.dumps(body).encode())
    [seen] = webui.engine.seen()
    del body["max_tokens"]
    assert seen["body"] == body | {"thinking_token_budget": 4096}
    assert set(seen["headers"]) <= {"Host", "Content-Type", "Content-Length", "Accept"}


@pytest.mark.fault(13, "400 that names the field")
def test_fields_of_the_engines_own_are_refused(webui: Webui) -> None:
    """What runs templates or names cache entries never gets there; the message names the field."""
    body = json.dumps({"model": "one", "messages": HELLO, "chat_template": "{{ x }}"}).encode()
    status, _, answer = request(webui, "POST", "/api/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")
    assert answer["error"]["param"] == "chat_template"
    assert webui.engine.seen() == []


@pytest.mark.parametrize(
    ("given", "kept"), [("a-1.B_2", True), ("x" * 65, False), ("a b", False), (None, False)]
)
def test_every_answer_has_a_name(webui: Webui, given: str | None, kept: bool) -> None:
    """The client's own where it is one, on answers and on errors."""
    address = urlsplit(webui.url)
    names = []
    for path in ("/v1/models", "/v1/nothing"):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("GET", path, headers={"x-request-id": given} if given else {})
        response = connection.getresponse()
        response.read()
        connection.close()
        names += response.headers.get_all("x-request-id")
    assert len(names) == 2
    assert all(name == given for name in names) == kept
    assert kept or names[0] != names[1]


def test_an_idle_connection_outlives_the_clients_own_patience(webui: Webui) -> None:
    """The openai client reuses a connection for 5 s: the server must not close it just then."""
    address = urlsplit(webui.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    connection.request("GET", "/livez")
    connection.getresponse().read()
    connection.sock.settimeout(6)
    with pytest.raises(TimeoutError):  # nothing comes, not even an end
        connection.sock.recv(1)
    connection.close()


def test_completions_are_served(webui: Webui) -> None:
    """The older text route is offered too."""
    status, _, _ = request(webui, "POST", "/v1/completions", b'{"prompt": "x", "model": "one"}')
    assert status == 200
    assert [seen["path"] for seen in webui.engine.seen()] == ["/v1/completions"]


def test_models_carry_the_notice(webui: Webui) -> None:
    """The list names every alias, and says what kind of model answers."""
    models = client(webui).models.list().data
    names = ["one", "one:fast", "one:deep", "two", "two:fast", "two:deep"]
    assert [m.id for m in models] == names
    assert {m.description for m in models} == {"A stand-in answers."}


def test_stream_comes_word_by_word(webui: Webui) -> None:
    """Words arrive while the engine still speaks, not at the end."""
    webui.engine.script(words=5, delay_s=0.3)
    arrivals = [
        time.monotonic() for chunk in ask(webui, stream=True) if chunk.choices[0].delta.content
    ]
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert len(arrivals) == 5
    assert all(gap > 0.1 for gap in gaps), gaps


@pytest.mark.fault(40, "comments while the model is silent")
def test_a_silent_stream_is_kept_alive(webui: Webui) -> None:
    """Comments come while the model says nothing, between events; clients do not see them."""
    webui.engine.script(words=3, delay_s=1.3)
    body = json.dumps({"model": "one", "messages": HELLO, "stream": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    answer = raw(webui, head.encode() + body)
    assert answer.count(b": keep-alive\n\n") >= 3
    assert b"data: [DONE]" in answer
    assert len([chunk for chunk in ask(webui, stream=True) if chunk.choices[0].delta.content]) == 3


def test_stream_is_marked_for_proxies(webui: Webui) -> None:
    """Proxies in between are told neither to collect nor to keep a stream."""
    body = json.dumps({"model": "one", "messages": HELLO, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    answer = raw(webui, head.encode() + body)
    headers = answer.split(b"\r\n\r\n")[0].lower()
    assert b"x-accel-buffering: no" in headers
    assert b"cache-control: no-cache" in headers
    assert b"data: [DONE]" in answer


@pytest.mark.fault(36, "the engine stops within a second")
def test_client_that_leaves_a_stream_stops_the_engine(webui: Webui) -> None:
    """Within a second of a client's leaving, the engine's request is aborted."""
    webui.engine.script(words=1000, delay_s=0.05)
    stream = ask(webui, stream=True)
    next(iter(stream))
    left = time.time()
    stream.close()
    [seen] = wait_for(lambda: aborted(webui), 5, "the engine noticed")
    assert seen["ended_at"] - left < 1.0


@pytest.mark.fault(36, "the engine stops within a second")
def test_client_that_leaves_before_the_answer_stops_the_engine(webui: Webui) -> None:
    """The same without streaming: nothing has been sent yet, and the work ends all the same."""
    webui.engine.script(words=100, delay_s=0.1)
    with pytest.raises(openai.APITimeoutError):
        ask(webui, timeout=0.5)
    left = time.time()
    [seen] = wait_for(lambda: aborted(webui), 5, "the engine noticed")
    assert seen["ended_at"] - left < 1.0


def aborted(webui: Webui) -> list[dict[str, Any]]:
    return [seen for seen in webui.engine.seen() if seen["outcome"] == "aborted"]


@pytest.mark.fault(37, "a last event that says why, and [DONE]")
def test_engine_that_dies_mid_stream_ends_it_with_an_error(webui: Webui) -> None:
    """A broken stream ends with a typed event and [DONE]; it never looks finished."""
    webui.engine.script(break_after=3)
    with pytest.raises(openai.APIError, match="ended while it worked") as caught:
        list(ask(webui, stream=True))
    assert caught.value.code == "engine_restarted"


@pytest.mark.fault(37, "a last event that says why, and [DONE]")
@pytest.mark.parametrize("fault", ["break_inside", "garbage_after"])
def test_half_an_event_is_not_passed_on(webui: Webui, fault: str) -> None:
    """The error follows the last whole event."""
    webui.engine.script(**{fault: 3})
    address = urlsplit(webui.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    body = json.dumps({"model": "one", "messages": HELLO, "stream": True})
    connection.request("POST", "/v1/chat/completions", body)
    # Without the framing of the chunks, which would stand between the two halves.
    events = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    last, error, done = [event for event in events if event][-3:]
    assert json.loads(last.removeprefix("data: "))["choices"][0]["delta"] == {"content": " 2"}
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_restarted"
    assert done == "data: [DONE]"


@pytest.mark.fault(37, "a last event that says why, and [DONE]")
def test_engine_that_stalls_mid_stream_ends_it_with_an_error(webui: Webui) -> None:
    """Silence beyond the limit is an error of its own kind."""
    webui.engine.script(stall_after=3)
    with pytest.raises(openai.APIError, match="silent for too long") as caught:
        list(ask(webui, stream=True))
    assert caught.value.code == "upstream_stalled"


@pytest.mark.fault(37, "502")
def test_engine_that_dies_without_an_answer_is_a_502(webui: Webui) -> None:
    """A lost request says that it may be sent again."""
    webui.engine.script(break_after=0, words=2)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(webui)
    assert (caught.value.status_code, caught.value.code) == (502, "engine_restarted")


def test_errors_of_the_engine_come_through(webui: Webui) -> None:
    """A refusal by the engine keeps its status and its words."""
    webui.engine.script(status=400)
    with pytest.raises(openai.BadRequestError, match="as the script says"):
        ask(webui)


@pytest.mark.fault(17, "400 or 404; the engine is asked nothing")
@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/api/v1",
        "/api/v1/",
        "/v1",
        "/api/chat/completions",
        "/api/v1/models/one/x",
        "/api/v1/../invocations",
        "/api/v1/%2e%2e/invocations",
        "/api/v1//chat/completions",
        "/api/v1/chat%2Fcompletions",
        "/api/v1/chat/completions;x",
    ],
)
def test_only_offered_routes_reach_the_engine(webui: Webui, path: str) -> None:
    """Everything else is a 404 in OpenAI's shape, and the engine sees nothing of it."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
    answer = raw(webui, head.encode() + b"{}")
    assert status_of(answer) == 404
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "not_found"
    assert webui.engine.seen() == []


def test_wrong_method_says_which_is_right(webui: Webui) -> None:
    """405 with Allow, in OpenAI's shape."""
    status, headers, body = request(webui, "GET", "/api/v1/chat/completions")
    assert (status, headers["allow"], body["error"]["code"]) == (405, "POST", "method_not_allowed")


@pytest.mark.fault(8, "413 for bytes")
@pytest.mark.fault(39, "413, unread")
def test_too_large_a_body_is_refused_unread(webui: Webui) -> None:
    """A request beyond the limit is refused by its own claim, before it is sent."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Content-Length: 999999999\r\n\r\n"
    )
    answer = raw(webui, head.encode())
    assert status_of(answer) == 413
    assert b"2 MB" in answer
    assert webui.engine.seen() == []


@pytest.mark.fault(8, "413 for bytes")
@pytest.mark.fault(39, "413, unread")
def test_too_large_a_chunked_body_is_refused(webui: Webui) -> None:
    """A body that hides its length is counted as it comes."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n%s\r\n" % (1_000_000, b"x" * 1_000_000)
    answer = raw(webui, head.encode() + chunk * 3 + b"0\r\n\r\n")
    assert status_of(answer) == 413
    assert webui.engine.seen() == []


@pytest.mark.fault(23, "403 or 404; nothing is read, nobody is called")
def test_page_refuses_to_fetch_for_visitors(webui: Webui) -> None:
    """The page's library would fetch any URL; this one does not."""
    status, _, _ = raw_status(webui, "/gradio_api/file=http://127.0.0.1:1/x")
    assert status == 404


def raw_status(webui: Webui, path: str) -> tuple[int, bytes, bytes]:
    answer = raw(webui, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return status_of(answer), head, body


@pytest.mark.fault(40, "each its own answer")
def test_many_at_once_all_get_their_own_answer(webui: Webui) -> None:
    """Sixty streams side by side do not mix."""

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{webui.url}/v1", api_key="none") as api:

            async def one(number: int) -> str:
                stream = await api.chat.completions.create(
                    model="one",
                    messages=[{"role": "user", "content": f"number {number}"}],
                    stream=True,
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*(one(number) for number in range(60)))

    webui.engine.script(words=3, delay_s=0.01)
    expected = [f"1 messages, 0 images, last: number {n}. 1 2" for n in range(60)]
    assert asyncio.run(run()) == expected


@pytest.fixture
def lonely_webui(webui: Webui) -> Iterator[Webui]:
    """A WebUI whose engine is stopped (SIGSTOP), and continues afterwards."""
    webui.engine.process.send_signal(signal.SIGSTOP)
    yield webui
    webui.engine.process.send_signal(signal.SIGCONT)


@pytest.mark.fault(37, "504")
def test_silent_engine_is_a_504_and_not_ready(lonely_webui: Webui) -> None:
    """An engine that accepts and says nothing is told apart from one that works."""
    with pytest.raises(openai.InternalServerError) as caught:
        ask(lonely_webui)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_stalled")
    status, _, body = request(lonely_webui, "GET", "/readyz")
    assert (status, body["status"]) == (503, "down")


@pytest.mark.fault(27, "an exit code 0 is no stop: started again")
@pytest.mark.parametrize("stream", [False, True])
def test_engine_whose_core_has_died_asks_to_send_again(webui: Webui, stream: bool) -> None:
    """502 with Retry-After, in place of vLLM's 500 that names a stack trace."""
    webui.engine.script(status=500, error="EngineCore encountered an issue. See stack trace")
    body = {"model": "one", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    status, headers, answer = request(
        webui, "POST", "/api/v1/chat/completions", json.dumps(body).encode()
    )
    assert (status, answer["error"]["code"]) == (502, "engine_restarted")
    assert int(headers["retry-after"]) > 0
