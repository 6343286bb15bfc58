"""webui.chat.vitals and the charts of the status tab."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import pytest

from webui.chat.status_view import HEIGHT, charts
from webui.chat.view import banner, progress
from webui.chat.vitals import KEPT, Monitor, Vitals, read_metrics
from webui.engine_status import Cause, EngineStatus

# As the gateway and vLLM 0.32 write them.
TEXT = b"""# TYPE step3vl_requests_running gauge
step3vl_requests_running 5.0
step3vl_requests_total{key="-",path="/models",status="200"} 9.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} b"} 3.0
vllm:num_requests_waiting{engine="0",model_name="a} b"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="a} b"} 0.25
vllm:generation_tokens_total{engine="0",model_name="a} b"} 100.0
vllm:generation_tokens_total{engine="1",model_name="a} b"} 20.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0"} 1.5e0
vllm:time_to_first_token_seconds_count{engine="0"} 4.0
"""


class Service:
    """An engine whose figures can be set, and a clock."""

    def __init__(self) -> None:
        self.text: bytes | None = TEXT
        self.now = 100.0
        self.asked = 0

    async def fetch(self) -> bytes | None:
        self.asked += 1
        return self.text

    def says(self, tokens: float, first_s: float, firsts: float) -> None:
        self.text = (
            "step3vl_requests_running 5.0\n"
            f"vllm:generation_tokens_total {tokens}\n"
            f"vllm:time_to_first_token_seconds_sum {first_s}\n"
            f"vllm:time_to_first_token_seconds_count {firsts}\n"
        ).encode()

    def monitor(self) -> Monitor:
        return Monitor(self.fetch, lambda: None, lambda: self.now)


def last(monitor: Monitor) -> Vitals:
    return asyncio.run(monitor.look())[-1]


def test_figures_are_summed_up_over_engines() -> None:
    """And nothing is taken that only begins like them."""
    assert read_metrics(TEXT) == {
        "answering": 5.0,
        "running": 3.0,
        "waiting": 2.0,
        "kv_used": 0.25,
        "tokens": 120.0,
        "first_s": 1.5,
        "firsts": 4.0,
    }
    assert read_metrics(b"<html>no metrics</html>") == {}


def test_rates_are_since_the_look_before() -> None:
    """So there are none at first, nor after a restart, which begins to count anew."""
    service = Service()
    monitor = service.monitor()
    service.says(100, 10, 10)
    assert last(monitor) == Vitals(answering=5.0)
    service.now += 4
    service.says(180, 12, 14)
    found = last(monitor)
    assert (found.tokens_per_s, found.first_token_s) == (20.0, 0.5)
    service.now += 4
    service.says(180, 12, 14)
    found = last(monitor)
    assert (found.tokens_per_s, found.first_token_s) == (0.0, None)
    service.now += 4
    service.says(3, 1, 1)
    found = last(monitor)
    assert (found.tokens_per_s, found.first_token_s) == (None, None)


def test_many_who_look_cost_one_look() -> None:
    """Also at the same time."""
    service = Service()
    monitor = service.monitor()

    async def look_together() -> list[Sequence[Vitals]]:
        return await asyncio.gather(*(monitor.look() for _ in range(20)))

    found = asyncio.run(look_together())
    assert service.asked == 1
    assert all(len(points) == 1 for points in found)
    service.now += 1
    last(monitor)
    assert service.asked == 1


def test_an_engine_that_is_not_there_is_a_gap() -> None:
    """In the charts, not an error; the last minutes alone are kept."""
    service = Service()
    monitor = service.monitor()
    for place in range(KEPT + 10):
        service.now += 2
        service.text = None if place == KEPT else TEXT
        last(monitor)
    points = asyncio.run(monitor.look())
    assert len(points) == KEPT
    assert [point.running for point in points].count(None) == 1
    assert charts(points, "en").count("<polyline") == 5 * 2


def test_charts_show_what_is_known() -> None:
    """In the reader's language; without a card nothing is said of one."""
    points = [Vitals(1.0, running=3.0, first_token_s=0.5), Vitals(4.0, kv_used=0.5)]
    shown = charts(points, "zh")
    assert 'aria-label="首个 token: 0.50 s"' in shown
    assert 'aria-label="本网关的请求: 4"' in shown
    assert 'aria-label="KV 缓存: 50%"' in shown
    assert 'aria-label="引擎处理中: –"' in shown
    assert "显存" not in shown
    assert 'aria-label="GPU memory: 90%"' in charts([Vitals(0.0, gpu_used=0.9)], "en")


@pytest.mark.parametrize("value", [0.0, 0.5, 1e9, 1.0])
def test_a_line_stays_in_its_field(value: float) -> None:
    """However large a figure is."""
    shown = charts([Vitals(value, value, value, value, value, value)] * 3, "en")
    heights = [float(y) for y in re.findall(r",([0-9.]+)", shown)]
    assert heights
    assert all(0 <= y <= HEIGHT for y in heights)


def status(phase: str, shards: tuple[int, int] | None = None) -> EngineStatus:
    return EngineStatus(ready=False, phase=phase, message="<phase>", seconds=3, shards=shards)


def test_a_start_only_moves_on() -> None:
    """Through its phases, and through the weights."""
    steps = [
        status("waiting"),
        status("starting"),
        status("loading"),
        status("loading", (0, 4)),
        status("loading", (2, 4)),
        status("loading", (4, 4)),
        status("warming up"),
        status("opening the port"),
    ]
    shares = [progress(step) for step in steps]
    assert None not in shares
    assert shares == sorted(shares, key=lambda share: share or 0)
    assert progress(status("loading", (0, 0))) == progress(status("loading"))
    assert [progress(status(phase)) for phase in ("down", "failed", "stopped", "x")] == [None] * 4


def test_the_banner_says_how_far_and_what_to_do() -> None:
    """Whatever the engine's words are, they are no HTML."""
    shown = banner(status("loading", (1, 2)), "one", "en")
    assert '<progress value="0.45" aria-label="&lt;phase&gt;">' in shown
    failed = EngineStatus(
        ready=False, phase="failed", message="m", cause=Cause("c", "m", "lower <it>")
    )
    assert "What to do: lower &lt;it&gt;" in banner(failed, "one", "en")
    assert "<progress" not in banner(failed, "one", "en")
