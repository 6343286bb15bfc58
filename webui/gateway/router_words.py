"""What a router before several engines answers in its own words, which are nobody's to read."""

from __future__ import annotations

import re

from webui.gateway.engine_client import EngineAnswer
from webui.gateway.errors import ApiError, engine_lost, too_large, wrong

PLAIN_TEXT = b"text/plain"
TOO_LARGE = 413
NO_ENGINE = 503
ROUTER_MB = 2000

# As in: Failed to deserialize the JSON body into the target type: temperature: invalid type: ...
_FIELD = re.compile(rb"target type: ([A-Za-z0-9_.\[\]]{1,80}): ")
# An engine that fails in plain text has answered, and would fail again.
_NO_ANSWER = re.compile(
    rb"(?:Transparent proxy request|Request) failed: |Failed to (?:get|read) response"
)
_MISSING = re.compile(rb"missing field `([A-Za-z0-9_]{1,80})`")


class NoAnswerError(Exception):
    """The router got no answer from the engine that it chose."""


def is_the_routers(response: EngineAnswer) -> bool:
    """Whether it is hardly an engine's word: that would be JSON, or a stream."""
    return response.status >= 400 and response.content_type == PLAIN_TEXT


async def told_by(response: EngineAnswer, unavailable: ApiError) -> ApiError:
    """What a client is told instead.

    Raises:
        NoAnswerError: asking again makes sense.
        EngineGoneError: even this answer broke off.
        TimeoutError: nothing came for too long.
    """
    text = await response.read()
    if response.status == NO_ENGINE:
        return unavailable
    if _NO_ANSWER.match(text):
        raise NoAnswerError
    if response.status == TOO_LARGE:
        return too_large(ROUTER_MB)
    if found := _FIELD.search(text):
        return wrong(found[1].decode(), "has a type that it cannot have")
    if found := _MISSING.search(text):
        return wrong(found[1].decode(), "is missing")
    return engine_lost()
