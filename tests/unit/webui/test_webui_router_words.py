"""webui.gateway.router_words: what becomes of a router's own words."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from webui.gateway.engine_client import EngineAnswer
from webui.gateway.errors import ApiError, engine_unavailable
from webui.gateway.router_words import NoAnswerError, told_by

UNAVAILABLE = engine_unavailable("loading", 5)


class Answer:
    """As much of one as is read."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self._text = text.encode()

    async def read(self) -> bytes:
        return self._text


def told(status: int, text: str) -> ApiError:
    answer = cast(EngineAnswer, Answer(status, text))
    return asyncio.run(told_by(answer, UNAVAILABLE))


@pytest.mark.parametrize(
    "text",
    [
        "Request failed: error sending request for url (http://127.0.0.1:8001/v1/completions)",
        "Transparent proxy request failed: error sending request",
        "Failed to get response body: error decoding response body",
    ],
)
def test_an_engine_that_has_died_is_no_answer(text: str) -> None:
    """So another one may be asked."""
    with pytest.raises(NoAnswerError):
        told(500, text)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_an_engine_that_fails_in_plain_text_has_answered(status: int) -> None:
    """As Starlette does where nobody caught the error: it would fail again."""
    assert told(status, "Internal Server Error").code == "engine_restarted"


def test_without_an_engine_it_is_told_why() -> None:
    assert told(503, "No workers are currently available") is UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "param"),
    [
        (
            "Failed to deserialize the JSON body into the target type: temperature: invalid type:"
            ' string "hot", expected f32 at line 1 column 90',
            "temperature",
        ),
        (
            "Failed to deserialize the JSON body into the target type: messages[0].role: unknown"
            " variant",
            "messages[0].role",
        ),
        ("... the target type: missing field `prompt` at line 1 column 14", "prompt"),
    ],
)
def test_what_it_cannot_read_names_the_field(text: str, param: str) -> None:
    error = told(422, text)
    assert (error.status, error.code) == (400, "invalid_parameter")
    assert repr(param) in error.message
    assert "deserialize" not in error.message


def test_too_much_is_told_as_such() -> None:
    assert told(413, "length limit exceeded").status == 413
