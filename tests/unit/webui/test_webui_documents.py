"""Which bodies are a request, and what it costs to find out."""

from __future__ import annotations

import json
import time

import pytest

from webui.gateway.documents import LOOKED_AT_BYTES, MAX_STRUCTURE, parsed
from webui.gateway.errors import ApiError


def refusal(body: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        parsed(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert len(caught.value.body()) < 4096
    return caught.value.message


@pytest.mark.fault(9, "400 that names a key given twice")
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "one", "model": "two"}',
        b'{"model": "one", "n": 1, "\\u006dodel": "one"}',
        b'{"messages": [{"role": "user", "content": {"model": 1, "model": 1}}]}',
        b'{"store": [{"a": {"b": [1, {"model": {}, "x": 0, "model": {}}]}}]}',
    ],
)
def test_a_key_given_twice_is_named(body: bytes) -> None:
    """At any depth, also where the values are the same: others would take the first."""
    assert '"model"' in refusal(body)


def test_a_key_may_be_used_in_many_objects() -> None:
    """And a text may look like keys."""
    text = '{"a": 1, "a": 2}'
    document = {"messages": [{"role": "user", "content": text}, {"role": "user", "content": "x"}]}
    assert parsed(json.dumps(document).encode()) == document


@pytest.mark.fault(9, "400 that names a key given twice")
def test_a_very_long_key_makes_a_short_message() -> None:
    """Also when it is given twice."""
    key = b'"' + b"k" * 100_000 + b'"'
    refusal(b"{" + key + b": 1, " + key + b": 2}")


@pytest.mark.fault(9, "400 for structure without end, before it is parsed")
@pytest.mark.parametrize(
    "piece", [b"[],", b"{},", b"0,", b'"",', b"[[[[[[[[[],", b'{"a":{"b":[]}},']
)
def test_too_much_structure_is_refused_before_it_is_parsed(piece: bytes) -> None:
    """64 MB, as a request may have: parsed, they would hold up everybody for seconds."""
    body = b'{"store": [' + piece * (64_000_000 // len(piece)) + b"0]}"
    began = time.thread_time()
    assert f"more than {MAX_STRUCTURE:,} commas and brackets" in refusal(body)
    assert time.thread_time() - began < 0.5


def test_large_texts_and_images_are_no_structure() -> None:
    """Twenty megabytes of base64, and a text with as many commas as a context has tokens."""
    text = "Zürich, " * 65_536
    document = {"image": "QUJD" * 5_000_000, "text": text, "tokens": [7] * 65_536}
    body = json.dumps(document).encode()
    assert len(body) > LOOKED_AT_BYTES
    assert parsed(body) == document
