"""Every failure in the shape that OpenAI's clients understand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response


@dataclass(eq=False)
class ApiError(Exception):
    """An answer that is an error.

    ``kind`` is OpenAI's ``type``; ``code`` is what programs should look at. The message says what
    to do, and never holds a path or an internal address.
    """

    status: int
    message: str
    code: str
    kind: str = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": error}, ensure_ascii=False).encode()

    def response(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """The body, and the headers as ASGI wants them."""
        body = self.body()
        return body, self.headers_of(body)

    def headers_of(self, body: bytes) -> list[tuple[bytes, bytes]]:
        """Those of an answer with this body, as ASGI wants them."""
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self.headers,
        }
        return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    def as_answer(self) -> Response:
        """For what is not the gateway's own."""
        body = self.body()
        return Response(body, self.status, dict(self.headers), "application/json")

    def as_event(self) -> bytes:
        """The last events of a stream that cannot go on.

        It begins with an empty line, because the stream may have broken off inside an event.
        """
        return b"\n\ndata: " + self.body() + b"\n\ndata: [DONE]\n\n"


def unexpected(error: Exception) -> ApiError:
    return ApiError(500, f"Unexpected {type(error).__name__}.", "internal_error", "server_error")


def not_found(path: str) -> ApiError:
    return ApiError(404, f"There is no {path[:200]} here.", "not_found")


def method_not_allowed(allowed: str) -> ApiError:
    return ApiError(405, f"Use {allowed} here.", "method_not_allowed", headers={"allow": allowed})


def invalid_json(reason: str) -> ApiError:
    return ApiError(400, f"The request is not valid JSON: {reason[:200]}.", "invalid_json")


def unsupported(name: str, complaint: str) -> ApiError:
    """Of a field, or of a place within one."""
    return ApiError(400, f"{name!r} {complaint}.", "unsupported_parameter", param=name)


def unsupported_by_engine(what: str) -> ApiError:
    """Of something that another engine, or another version of this one, could do."""
    return ApiError(
        501,
        f"{what} is not possible with this engine (engine.backend is ray).",
        "not_supported_by_backend",
    )


def wrong(name: str, complaint: str) -> ApiError:
    """The same, where the field is known and its value will not do."""
    return ApiError(400, f"{name!r} {complaint}.", "invalid_parameter", param=name)


def refused(message: str, code: str = "image_not_available", status: int = 400) -> ApiError:
    """Of an image in a request; the message says which and why."""
    return ApiError(status, message, code, param="messages")


def too_large(limit_mb: int) -> ApiError:
    return ApiError(
        413,
        f"The request is larger than {limit_mb} MB; send fewer or smaller images.",
        "request_too_large",
    )


def engine_unavailable(message: str, retry_after: int) -> ApiError:
    return ApiError(
        503,
        f"The model is not ready: {message}. Try again in {retry_after} seconds.",
        "engine_unavailable",
        "service_unavailable_error",
        headers={"retry-after": str(retry_after)},
    )


def overloaded() -> ApiError:
    return ApiError(
        503,
        "Too many requests are being answered. Try again in 5 seconds.",
        "overloaded",
        "service_unavailable_error",
        headers={"retry-after": "5"},
    )


def shutting_down() -> ApiError:
    """Of requests that come while this process stops, and of those that outlast its patience."""
    return ApiError(
        503,
        "The service is being stopped or restarted. Send the request again in 5 seconds.",
        "shutting_down",
        "service_unavailable_error",
        headers={"retry-after": "5"},
    )


def is_lost(error: Any) -> bool:
    """Whether an error of the engine's says that its core has ended: it is told as such."""
    return isinstance(error, dict) and "EngineCore" in str(error.get("message"))


def engine_lost() -> ApiError:
    return ApiError(
        502,
        "The engine ended while it worked on this request. Send it again.",
        "engine_restarted",
        "server_error",
        headers={"retry-after": "5"},
    )


def engine_stalled() -> ApiError:
    return ApiError(
        504,
        "The engine has been silent for too long on this request. Send it again.",
        "upstream_stalled",
        "server_error",
        headers={"retry-after": "5"},
    )
