"""webui.gateway.ray_errors: Ray's errors, as Ray 2.60 sends them with vLLM 0.32, said as vLLM's."""

from __future__ import annotations

from typing import Any

import pytest

from webui.gateway.errors import is_lost
from webui.gateway.ray_errors import as_vllm_says

WRAPPING = (
    " (Request ID: ac5b2797), Internal exception:"
    " ray.llm._internal.serve.core.configs.openai_api_models.OpenAIHTTPException (Request ID:"
    " ac5b2797), original exception: "
)


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": 400} | more}


def test_words_come_without_their_wrapping() -> None:
    told = "temperature must be (at least) 0,\ngot -5.0"
    wrapped = error(f"Message: {told}{WRAPPING}", type="OpenAIHTTPException")
    assert as_vllm_says(wrapped, 400) == error(told, type="BadRequestError")


def test_another_status_keeps_its_kind() -> None:
    answer = as_vllm_says(error(f"Message: Timeout{WRAPPING}", type="T", code=408), 408)
    assert answer == error("Timeout", type="T", code=408)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "NotFoundError"), (400, "BadRequestError"), (422, "BadRequestError")]
)
def test_what_has_no_shape_gets_one(status: int, kind: str) -> None:
    answer = as_vllm_says({"detail": "no such model"}, status)
    assert answer == error("no such model", type=kind, code=status)


def test_what_the_caller_sent_is_not_repeated() -> None:
    refused = error("Invalid request format: Field required at ('body', 'prompt')", param={"a": 1})
    assert as_vllm_says(refused, 400)["error"]["param"] is None


@pytest.mark.parametrize(
    "answer",
    [error("max_tokens is too large", param="max_tokens"), {"detail": [1]}, {"error": "text"}, {}],
)
def test_vllms_own_words_stay_as_they_are(answer: dict[str, Any]) -> None:
    assert as_vllm_says(answer, 400) == answer


def test_an_engine_that_was_lost_is_still_known_by_its_words() -> None:
    words = "Message: Internal Server Error (Request ID: 1), Internal exception: x, original"
    answer = as_vllm_says(error(f"{words} exception: EngineCore encountered an issue"), 500)
    assert is_lost(answer["error"])
