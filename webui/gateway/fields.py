"""Which fields of a request are passed on, and within which limits.

The engine knows more: fields that run templates of the caller's, load code, unpickle tensors or
name other people's cache entries. So what is not on a list here is refused, by name. Every field
that OpenAI's client can send is on one of the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from webui.gateway.errors import unsupported, wrong

MAX_MESSAGES = 1000
MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 16_384
MAX_SCHEMA_DEPTH = 32


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# OpenAI's and vLLM's, for both routes.
SAMPLING = _names(
    """
    model frequency_penalty logit_bias logprobs max_tokens n presence_penalty response_format seed
    stop stream stream_options temperature top_p top_k min_p repetition_penalty stop_token_ids
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
    spaces_between_special_tokens bad_words structured_outputs truncate_prompt_tokens
    add_special_tokens return_token_ids thinking_token_budget
    """
)


@dataclass(frozen=True)
class Fields:
    """``used`` ones reach the engine, ``ours`` are understood here, ``ignored`` ones are taken and
    have no effect."""

    used: frozenset[str]
    ours: frozenset[str]
    ignored: frozenset[str]

    @cached_property
    def known(self) -> frozenset[str]:
        return self.used | self.ours | self.ignored


FIELDS: Mapping[str, Fields] = {
    "/chat/completions": Fields(
        SAMPLING
        | _names(
            """
            messages top_logprobs tools tool_choice parallel_tool_calls include_reasoning
            add_generation_prompt continue_final_message
            """
        ),
        _names("thinking reasoning_effort max_completion_tokens"),
        _names(
            """
            audio function_call functions metadata modalities moderation prediction
            prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
            service_tier store user verbosity web_search_options
            """
        ),
    ),
    "/tokenize": Fields(
        _names(
            """
            model prompt messages tools add_generation_prompt continue_final_message
            add_special_tokens return_token_strs
            """
        ),
        frozenset(),
        frozenset(),
    ),
    "/completions": Fields(
        SAMPLING | {"prompt", "suffix", "echo"}, frozenset(), frozenset({"best_of", "user"})
    ),
}


def check_fields(path: str, document: dict[str, Any]) -> bool:
    """Take out what has no effect; whether there was any.

    Raises:
        ApiError: a field is unknown, or beyond its limit.
    """
    fields = FIELDS[path]
    unknown = document.keys() - fields.known
    if unknown:
        name = min(unknown)
        raise unsupported(name[:100], "is not supported here")
    for name in LIMITS.keys() & document.keys():
        value = document[name]
        if value is not None and (complaint := LIMITS[name](value)):
            raise wrong(name, complaint)
    if document.get("echo") and document.get("logprobs") is not None:
        # Scores of the whole vocabulary for each token of the prompt.
        raise wrong("logprobs", "cannot be had together with echo")
    ignored = document.keys() & fields.ignored
    for name in ignored:
        del document[name]
    return bool(ignored)


# A check says what is wrong, or nothing.
Check = Callable[[Any], str | None]


def _number(low: int, high: int) -> Check:
    def check(value: Any) -> str | None:
        # Not a text either: the engine makes a number of "10000".
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if right else f"must be a whole number between {low} and {high}"

    return check


def _items(most: int) -> Check:
    def check(value: Any) -> str | None:
        many = isinstance(value, list | dict) and len(value) > most
        return f"may have at most {most} entries" if many else None

    return check


def _grammar(value: Any) -> str | None:
    """Compiling a large or deep one would hold up everybody's answers."""
    if _depth(value) > MAX_SCHEMA_DEPTH:
        return f"may be at most {MAX_SCHEMA_DEPTH} levels deep"
    if len(orjson.dumps(value)) > MAX_SCHEMA_BYTES:
        return f"may be at most {MAX_SCHEMA_BYTES // 1024} KB"
    return None


def _tools(value: Any) -> str | None:
    """Each tool's parameters can become a grammar too."""
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_TOOLS:
        return f"may have at most {MAX_TOOLS} entries"
    return next((f"{complaint} a tool" for tool in items if (complaint := _grammar(tool))), None)


def _depth(value: Any) -> int:
    levels, below = 0, [value]
    while below:
        levels += 1
        inside = [
            v.values() if isinstance(v, dict) else v for v in below if isinstance(v, dict | list)
        ]
        below = [item for items in inside for item in items]
    return levels


def _object(value: Any) -> str | None:
    return None if isinstance(value, dict) else "must be an object"


def _prompts(value: Any) -> str | None:
    """A list of texts or of lists of tokens is several prompts; one of tokens is a single one."""
    several = isinstance(value, list) and any(isinstance(item, str | list) for item in value)
    return "may have at most 16 prompts" if several and len(value) > 16 else None


LIMITS: Mapping[str, Check] = {
    "n": _number(1, 4),
    "top_logprobs": _number(0, 20),
    "messages": _items(MAX_MESSAGES),
    "tools": _tools,
    "logit_bias": _items(1024),
    "stop": _items(16),
    "stop_token_ids": _items(256),
    "bad_words": _items(128),
    "stream_options": _object,
    "response_format": _grammar,
    "structured_outputs": _grammar,
    "prompt": _prompts,
}
