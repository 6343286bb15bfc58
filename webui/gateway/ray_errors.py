"""Ray's errors in the words and the shape that vLLM's have."""

from __future__ import annotations

import re
from typing import Any

_KINDS = {404: "NotFoundError"}
# "Message: ... (Request ID: ...), Internal exception: ..., original exception: ...".
_WRAPPED = re.compile(
    r"Message: (?P<message>.*?) \(Request ID: [^)]*\), Internal exception: .*", re.DOTALL
)


def as_vllm_says(answer: dict[str, Any], status: int) -> dict[str, Any]:
    """An error of Ray's without its wrapping; any other answer as it is."""
    if isinstance(detail := answer.get("detail"), str):
        kind = _KINDS.get(status, "BadRequestError")
        return {"error": {"message": detail, "type": kind, "param": None, "code": status}}
    error = answer.get("error")
    if not isinstance(error, dict):
        return answer
    # Ray repeats what the caller has sent.
    param = error.get("param") if "Invalid request format" not in str(error) else None
    found = _WRAPPED.fullmatch(str(error.get("message")))
    if found is None or "EngineCore" in found[0]:  # known by this word
        return {**answer, "error": {**error, "param": param}}
    told = {**error, "message": found["message"], "param": param}
    return {"error": told | ({"type": "BadRequestError"} if status == 400 else {})}
