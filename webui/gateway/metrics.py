"""Figures of the gateway's own, for Prometheus, in one place with the engine's."""

from __future__ import annotations

from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from webui.gateway.exchange import Exchange

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


Labelled = TypeVar("Labelled", Counter, Histogram)


class Metrics:
    """Counts exchanges when they are over."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[Any, ...], Any] = {}
        self._requests = self._counter("requests", "Answers", "path", "status", "key")
        self._refusals = self._counter("refusals", "Answers that are errors", "code")
        self._tokens = self._counter("tokens", "As the engine counts them", "kind", "key")
        self._images = self._counter("images", "Images in requests that were answered")
        self._bytes = self._counter("request_bytes", "Bodies of requests, images included")
        self._cache = self._counter("cache_lookups", "Lookups of kept answers", "result")
        self._seconds = self._histogram("request_seconds", "From headers to the end", "path")
        self._first = self._histogram("first_byte_seconds", "From headers to headers", "path")
        self.running = 0
        """Requests that are being answered."""
        gauge = Gauge("step3vl_requests_running", "Being answered", registry=self.registry)
        gauge.set_function(self.answering)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"step3vl_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"step3vl_{name}", text, labels, buckets=SECONDS, registry=self.registry)

    def note(self, exchange: Exchange) -> None:
        path, key = exchange.path or "other", exchange.key
        self._of(self._requests, path, str(exchange.status), key).inc()
        if exchange.code:
            self._of(self._refusals, exchange.code).inc()
        if exchange.prompt_tokens:
            self._of(self._tokens, "prompt", key).inc(exchange.prompt_tokens)
            self._of(self._tokens, "completion", key).inc(exchange.completion_tokens)
        if exchange.images:
            self._images.inc(exchange.images)
        self._bytes.inc(exchange.bytes_in)
        if exchange.cache:
            self._of(self._cache, exchange.cache).inc()
        self._of(self._seconds, path).observe(exchange.seconds)
        self._of(self._first, path).observe(exchange.first_byte_s)

    def _of(self, metric: Labelled, *labels: str) -> Labelled:
        """``metric.labels(*labels)``, which takes a lock and checks the names every time."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def answering(self) -> float:
        """How many requests are being answered."""
        return self.running

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)
