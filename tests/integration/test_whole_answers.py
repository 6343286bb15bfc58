"""Answers without stream: JSON that parses, kept answers, white space before slow ones; and what is
noted of all of them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from deployments import Engine, Webui, running_webui
from integration.test_gateway import request
from integration.test_image_names import fresh
from support import wait_for

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "pattern": "(a+)+$"}},
    "required": ["n"],
}
FORMS: dict[str, Any] = {
    "json_object": {"type": "json_object"},
    "json_schema": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
}


@pytest.fixture(scope="module")
def thrifty_process(
    tmp_path_factory: pytest.TempPathFactory, engine_process: Engine
) -> Iterator[Webui]:
    folder = tmp_path_factory.mktemp("thrifty")
    settings = {
        "WEBUI_CACHE_MB": "1",
        "WEBUI_CACHE_FILE": str(folder / "answers.sqlite"),
        "WEBUI_JSON_KEEP_ALIVE": "1",
        "WEBUI_MAX_REQUESTS": "3",
    }
    with running_webui(folder, engine_process, **settings) as webui:
        yield webui


@pytest.fixture
def thrifty(thrifty_process: Webui) -> Webui:
    """A WebUI that keeps answers, keeps connections alive, and answers three at once."""
    thrifty_process.engine.script()
    return thrifty_process


def ask(webui: Webui, question: str, **more: Any) -> tuple[str | None, str]:
    """What is said of the cache, and the answer."""
    body = {"model": "one", "messages": [{"role": "user", "content": question}], **more}
    status, headers, answer = request(
        webui, "POST", "/v1/chat/completions", json.dumps(body).encode()
    )
    assert status == 200, answer
    return headers["x-cache"], answer["choices"][0]["message"]["content"]


def asked_for_json(webui: Webui, form: str) -> Any:
    with openai.OpenAI(base_url=f"{webui.url}/v1", api_key="none", max_retries=0) as api:
        messages: Any = [{"role": "user", "content": "How many?"}]
        return api.chat.completions.create(
            model="one", messages=messages, response_format=FORMS[form]
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", ["no JSON", '{"n": ', '{"n": 1} and more'])
def test_an_answer_that_is_no_json_is_asked_again(webui: Webui, form: str, first: str) -> None:
    """Once, with what was wrong; the client gets the second answer."""
    webui.engine.script(says=[first, '{"n": 2}'])
    assert asked_for_json(webui, form).choices[0].message.content == '{"n": 2}'
    *_, answer, complaint = webui.engine.seen()[-1]["body"]["messages"]
    assert answer["role"] == "assistant"
    assert "not JSON" in complaint["content"]


def test_an_answer_that_does_not_fit_is_asked_again(webui: Webui) -> None:
    """The complaint says where."""
    webui.engine.script(says=['{"n": "two"}', '{"n": 2}'])
    assert asked_for_json(webui, "json_schema").choices[0].message.content == '{"n": 2}'
    assert "$.n" in webui.engine.seen()[-1]["body"]["messages"][-1]["content"]
    webui.engine.script(says=['{"n": "two"}'])
    assert asked_for_json(webui, "json_object").choices[0].message.content == '{"n": "two"}'


def test_what_is_no_json_twice_is_an_error(webui: Webui) -> None:
    """Never something that the caller's parser fails on."""
    webui.engine.script(says=["no JSON"])
    with pytest.raises(openai.InternalServerError, match="max_tokens") as caught:
        asked_for_json(webui, "json_schema")
    assert (caught.value.status_code, caught.value.code) == (502, "invalid_json_answer")
    assert len(webui.engine.seen()) == 2


def test_the_same_request_gets_the_same_answer(thrifty: Webui) -> None:
    """Kept where nothing is left to chance: the engine is asked once."""
    said, first = ask(thrifty, "a", temperature=0)
    assert said == "miss"
    assert ask(thrifty, "a", temperature=0, top_p=1)[0] == "miss"
    assert ask(thrifty, "b", temperature=0)[0] == "miss"
    assert ask(thrifty, "a", temperature=0) == ("hit", first)
    assert len(thrifty.engine.seen()) == 3
    assert ask(thrifty, "a", temperature=0.5)[0] is None
    assert ask(thrifty, "a")[0] is None


def test_kept_answers_have_thoughts_for_those_who_want_them(thrifty: Webui) -> None:
    """With and without are two requests, in either order."""
    for question, order in (("first with", (True, False)), ("first without", (False, True))):
        for wanted in order:
            messages = [{"role": "user", "content": question}]
            body = {"model": "one", "messages": messages, "temperature": 0}
            data = json.dumps(body | {"include_reasoning": wanted}).encode()
            _, headers, answer = request(thrifty, "POST", "/v1/chat/completions", data)
            assert headers["x-cache"] == "miss"
            assert ("reasoning" in answer["choices"][0]["message"]) == wanted


def test_an_answer_is_about_its_picture(thrifty: Webui) -> None:
    """Another picture under the same question is another request."""

    def about(url: str) -> str | None:
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "What?"},
        ]
        body = {"model": "one", "temperature": 0, "messages": [{"role": "user", "content": parts}]}
        return request(thrifty, "POST", "/v1/chat/completions", json.dumps(body).encode())[1][
            "x-cache"
        ]

    one, other = fresh(), fresh()
    assert [about(one), about(other), about(one), about(other)] == ["miss", "miss", "hit", "hit"]


def test_kept_answers_have_a_limit(thrifty: Webui) -> None:
    """A megabyte here: the oldest goes."""
    thrifty.engine.script(says=["x" * 400_000])
    for question in ("1", "2", "3"):
        assert ask(thrifty, question, temperature=0)[0] == "miss"
    assert ask(thrifty, "3", temperature=0)[0] == "hit"
    assert ask(thrifty, "1", temperature=0)[0] == "miss"


@pytest.mark.fault(40, "white space before a slow answer, where it is switched on")
def test_a_slow_answer_begins_with_white_space(thrifty: Webui) -> None:
    """Which JSON allows, so that proxies see something; an error then comes with status 200."""
    thrifty.engine.script(words=4, delay_s=0.4)
    address = urlsplit(thrifty.url)
    body = json.dumps({"model": "one", "messages": [{"role": "user", "content": "slow"}]})
    for fault, key in (({}, "choices"), ({"break_after": 0}, "error")):
        thrifty.engine.script(words=4, delay_s=0.4, **fault)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", body)
        began = time.monotonic()
        response = connection.getresponse()
        assert time.monotonic() - began < 1.4
        text = response.read().decode()
        connection.close()
        assert text.startswith(" ")
        assert key in json.loads(text)


@pytest.mark.fault(40, "503 and when to try again; none hangs")
def test_more_than_can_be_answered_at_once_are_turned_away(thrifty: Webui) -> None:
    """503 with the seconds to wait; nobody hangs, and afterwards all is as before."""
    thrifty.engine.script(words=10, delay_s=0.1)

    def one(number: int) -> tuple[int, Any]:
        messages = [{"role": "user", "content": f"many {number}"}]
        body = json.dumps({"model": "one", "messages": messages}).encode()
        status, headers, answer = request(thrifty, "POST", "/v1/chat/completions", body)
        return status, (headers["retry-after"], answer.get("error", {}).get("code"))

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(one, range(20)))
    turned_away = [said for status, said in results if status == 503]
    assert [status for status, _ in results].count(200) >= 3
    assert len(turned_away) >= 10
    assert set(turned_away) == {("5", "overloaded")}
    thrifty.engine.script()
    assert ask(thrifty, "after")[1]


def figure(webui: Webui, name: str) -> float:
    """The sum of a metric's lines that begin like this."""
    address = urlsplit(webui.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_figures_count_what_happened(webui: Webui) -> None:
    """Requests, tokens of answers and of streams, refusals."""
    chats = 'step3vl_requests_total{key="-",path="/chat/completions",status="200"}'
    tokens = 'step3vl_tokens_total{key="-",kind="completion"}'
    refusals = 'step3vl_refusals_total{code="unsupported_parameter"}'
    before = [figure(webui, name) for name in (chats, tokens, refusals)]
    ask(webui, "one")
    with openai.OpenAI(base_url=f"{webui.url}/v1", api_key="none") as api:
        hello: Any = [{"role": "user", "content": "two"}]
        chunks = list(api.chat.completions.create(model="one", messages=hello, stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    body = json.dumps({"model": "one", "messages": [], "foo": 1}).encode()
    assert request(webui, "POST", "/v1/chat/completions", body)[0] == 400
    after = [figure(webui, name) for name in (chats, tokens, refusals)]
    # Eight words, a thought of one, its end and the end.
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 22, 1]
    assert figure(webui, "step3vl_requests_running") == 0


def noted(webui: Webui, what: str) -> str:
    """The log, once it holds this."""
    log = webui.log.read_text()
    return log if what in log else ""


def test_the_log_has_a_line_for_each_request(webui: Webui) -> None:
    """Who, what, how long, how many tokens; no text of it."""
    address = urlsplit(webui.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    body = json.dumps({"model": "one", "messages": [{"role": "user", "content": "confidential"}]})
    connection.request("POST", "/v1/chat/completions", body, {"x-request-id": "find-me"})
    connection.getresponse().read()
    connection.close()
    log = wait_for(lambda: noted(webui, "id=find-me"), 5, "a line")
    [line] = [line for line in log.splitlines() if "id=find-me" in line]
    assert " POST /chat/completions 200 - " in line
    assert " tokens=1+11 " in line
    assert "confidential" not in log
