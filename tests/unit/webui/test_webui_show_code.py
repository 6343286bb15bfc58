"""webui.chat.show_code: the talk as code, whatever is in it."""

from __future__ import annotations

import ast
import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import png

from webui.chat.conversation import Conversation, Turn
from webui.chat.options import Options
from webui.chat.show_code import Example, public_address
from webui.client.tasks import TASKS

NASTY = [
    'it\'s "quoted" \\ and\nbroken',
    "$(touch pwned) `touch pwned` ${x} $x !! %s \\n",
    "</script> ''' \"\"\" ` ${process.exit(1)}",
    "二 🦊 \u2028 \u2029 \ufeff",
    "JSON\nEOF\n'",
    "half \ud83e",
]
TEXTS = st.text(max_size=40).map(lambda text: text.replace("\x00", ""))


def example(*turns: Turn, system: str = "", needs_key: bool = False, **fields: Any) -> Example:
    talk = Conversation(turns)
    return Example("https://box.example/api/v1", "one", talk, system, fields, needs_key)


def asked_by_python(code: str) -> dict[str, Any]:
    """The arguments in the code, which must be literals but for the pictures."""
    [call] = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "client.chat.completions.create"
    ]
    return {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}


@pytest.mark.parametrize("text", NASTY)
def test_python_says_every_text_as_it_is(text: str) -> None:
    """In questions, answers and the system prompt."""
    code = example(Turn(text, answer=text), Turn(text), system=text).python()
    messages = asked_by_python(code)["messages"]
    assert messages[0] == {"role": "system", "content": text}
    assert messages[2] == {"role": "assistant", "content": text}
    assert messages[3]["content"] == [{"type": "text", "text": text}]


@given(TEXTS)
def test_python_says_any_text(text: str) -> None:
    """Whatever the visitor typed."""
    asked = asked_by_python(example(Turn(text)).python())
    assert asked["messages"][0]["content"] == ([{"type": "text", "text": text}] if text else [])


def test_python_sends_our_own_fields_as_extra_body() -> None:
    """The client refuses what it does not know; a schema is written as Python has it."""
    fields = Options("low", False).fields(TASKS["safety"])
    asked = asked_by_python(example(Turn("x"), **fields).python())
    assert asked["extra_body"] == {"thinking": "low"}
    assert asked["response_format"] == TASKS["safety"].response_format
    assert (asked["model"], asked["temperature"], asked["stream"]) == ("one", 0.7, True)


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """Runs code with a ``curl`` that keeps what it is given."""
    fake = tmp_path / "bin" / "curl"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\ncat > "$KEPT/body"\nprintf "%s\\n" "$@" > "$KEPT/arguments"\n')
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    environ = {"PATH": path, "KEPT": str(tmp_path), "OPENAI_API_KEY": "sk-1"}

    def run(code: str) -> tuple[Any, list[str]]:
        script = code.encode()
        subprocess.run(["bash", "-eu"], input=script, cwd=tmp_path, env=environ, check=True)
        assert not (tmp_path / "pwned").exists()
        arguments = (tmp_path / "arguments").read_text().splitlines()
        return json.loads((tmp_path / "body").read_bytes()), arguments

    return run


@pytest.mark.parametrize("text", NASTY)
def test_curl_says_every_text_as_it_is(text: str, shell: Any) -> None:
    """And the shell runs nothing of it."""
    body, arguments = shell(example(Turn(text, answer=text), Turn(text), thinking="off").curl())
    assert body["messages"][1]["content"] == text
    assert body["messages"][2]["content"][0]["text"] == text
    assert (body["model"], body["thinking"], body["stream"]) == ("one", "off", False)
    assert arguments[0] == "https://box.example/api/v1/chat/completions"
    assert not any("Authorization" in argument for argument in arguments)


def test_curl_reads_pictures_however_large(tmp_path: Path, shell: Any) -> None:
    """More than a command line holds; the key comes from the environment."""
    large = os.urandom(3_000_000)
    red = tmp_path / "uploads" / "red one.png"
    red.parent.mkdir()
    red.write_bytes(png(8, 8, "red"))
    (tmp_path / "picture-1.png").write_bytes(large)
    (tmp_path / "uploads" / "a.png").write_bytes(png(8, 8, "red"))
    (tmp_path / "a.png").write_bytes(b"other")
    turn = Turn("x", (red, red.with_name("a.png")))
    body, arguments = shell(example(turn, needs_key=True).curl())
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"][:2]]
    sent = [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls]
    assert sent == [large, b"other"]
    assert "Authorization: Bearer sk-1" in arguments


@settings(max_examples=25)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_javascript_says_any_text(texts: list[str]) -> None:
    """Its request is JSON, but for the pictures."""
    code = example(*[Turn(text) for text in [*texts, *NASTY]]).javascript()
    start = code.index("create(") + len("create(")
    request = json.loads(code[start : code.index(");\nfor await")])
    said = [message["content"][0]["text"] for message in request["messages"] if message["content"]]
    assert said == [text for text in [*texts, *NASTY] if text]
    assert request["stream"] is True


def test_two_pictures_never_share_a_name(tmp_path: Path) -> None:
    """Every pasted picture is called image.png; one that is asked about twice keeps its name."""
    paths = [tmp_path / name / "image.png" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(png(8, 8, "red"))
    code = example(Turn("x", (paths[0], paths[1]))).javascript()
    assert 'picture("picture-1.png", "image/png")' in code
    assert 'picture("picture-2.png", "image/png")' in code
    code = example(Turn("x", (paths[0],), answer="y"), Turn("z", (paths[0],))).javascript()
    assert code.count('picture("image.png", "image/png")') == 2


def test_only_the_question_is_asked_whose_answer_is_there() -> None:
    """The last answer is what the code is to bring."""
    code = example(Turn("a", answer="b"), Turn("c", answer="the last answer")).python()
    assert "the last answer" not in code
    roles = [message["role"] for message in asked_by_python(code)["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_an_empty_talk_is_an_example() -> None:
    """Something to begin with."""
    for code in (example().curl(), example().python(), example().javascript()):
        assert "Hello" in code
        assert "picture" not in code


def test_a_key_never_stands_in_the_code() -> None:
    """Only where it is taken from."""
    locked, free = example(needs_key=True), example()
    assert 'os.environ["OPENAI_API_KEY"]' in locked.python()
    assert "process.env.OPENAI_API_KEY" in locked.javascript()
    assert '"none"' in free.python()
    assert '"none"' in free.javascript()


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "http://localhost:7860/api/v1"),
        ({"host": "10.0.0.5:7860"}, "http://10.0.0.5:7860/api/v1"),
        ({"host": "[::1]:7860"}, "http://[::1]:7860/api/v1"),
        ({"host": "a", "x-forwarded-proto": "HTTPS, http"}, "https://a/api/v1"),
        ({"host": "a", "x-forwarded-host": "gpu.example, b"}, "http://gpu.example/api/v1"),
        ({"host": "a", "x-forwarded-host": "x'; rm -rf /"}, "http://a/api/v1"),
        ({"host": "a b"}, "http://localhost:7860/api/v1"),
        ({"host": "a", "x-forwarded-proto": "javascript"}, "http://a/api/v1"),
    ],
)
def test_the_address_is_the_one_that_the_browser_used(
    headers: dict[str, str], address: str
) -> None:
    """Also behind a proxy; what is no host is passed over."""
    assert public_address(headers, "http") == address


def test_a_prefix_is_part_of_the_address() -> None:
    """Where a proxy serves the page below a path."""
    headers = {"host": "a"}
    assert public_address(headers, "https", "/proxy/7860/") == "https://a/proxy/7860/api/v1"
    assert public_address(headers, "https", "/$(x)") == "https://a/api/v1"
