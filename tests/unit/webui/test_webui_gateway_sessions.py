"""webui.gateway.sessions and engine_metrics: what several engines need of the gateway."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from webui.gateway.engine_metrics import joined
from webui.gateway.sessions import session_of

QUESTION = {"role": "user", "content": "What is this?"}


def talk(*more: dict[str, Any], first: dict[str, Any] = QUESTION) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "Be brief."}, first, *more]}


def picture(uuid: str, **more: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": None, "uuid": uuid, **more}
    return {"role": "user", "content": [{"type": "text", "text": "?"}, part]}


def test_later_turns_belong_to_the_conversation() -> None:
    later = talk({"role": "assistant", "content": "A cat."}, {"role": "user", "content": "Sure?"})
    assert session_of("a", b"", talk()) == session_of("a", b"", later)


def test_another_beginning_caller_or_name_is_another_conversation() -> None:
    found = {
        session_of("a", b"", talk()),
        session_of("b", b"", talk()),
        session_of("a", b"", talk(first={"role": "user", "content": "What is that?"})),
        session_of("a", b"", talk(first=picture("1"))),
        session_of("a", b"", talk(first=picture("2"))),
        session_of("a", b"mine", talk()),
        session_of("b", b"mine", talk()),
        session_of("a", b"", {"prompt": "Once"}),
        session_of("a", b"", {"prompt": "Twice"}),
    }
    assert len(found) == 9
    assert all(name.isalnum() for name in found)


def test_a_picture_is_the_same_with_its_bytes_or_without() -> None:
    sent = picture("1", image_url={"url": "data:image/png;base64,AAAA"})
    assert session_of("a", b"", talk(first=picture("1"))) == session_of("a", b"", talk(first=sent))


def test_the_clients_own_name_counts_alone() -> None:
    other = talk(first={"role": "user", "content": "What is that?"})
    assert session_of("a", b"mine", talk()) == session_of("a", b"mine", other)


def test_whatever_a_request_looks_like_it_has_a_name() -> None:
    for messages in (None, "x", [1], [{}], [{"content": [1, {}]}], [{"content": {"a": 1}}]):
        assert session_of("a", b"", {"messages": messages})
    assert session_of("\ud800", b"\xff\r\n", {"messages": [{"content": "\ud800"}]}).isalnum()


ENGINE = b"""# HELP vllm:running Requests
# TYPE vllm:running gauge
vllm:running{engine="0",model="a b"} 2.0
# HELP vllm:ttft_seconds Time
# TYPE vllm:ttft_seconds histogram
vllm:ttft_seconds_bucket{le="+Inf"} 3.0
vllm:ttft_seconds_count 3.0
vllm:ttft_seconds_sum 1.5
"""


def test_figures_of_several_engines_are_one_text_that_can_be_parsed() -> None:
    families = {
        family.name: family
        for family in text_string_to_metric_families(
            joined({"vllm-0": ENGINE, "gpu1/vllm-0": ENGINE}).decode()
        )
    }
    assert {"vllm:running", "vllm:ttft_seconds"} == families.keys()
    labels = [sample.labels for sample in families["vllm:running"].samples]
    other = {"engine": "0", "model": "a b"}
    assert [{"replica": "vllm-0", **other}, {"replica": "gpu1/vllm-0", **other}] == labels
    assert len(families["vllm:ttft_seconds"].samples) == 6


def test_what_is_no_figure_is_left_out() -> None:
    assert joined({"a": b"<html>\n\n{}\n"}) == b""
