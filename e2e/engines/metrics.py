"""What an engine counts, under the names that vLLM gives its series."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Buckets of vLLM 0.33, seconds and tokens.
_TTFT_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_TPOT_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
_E2E_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 120.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class EngineMetrics:
    """The series of one engine process."""

    def __init__(self, model: str, parallel: int) -> None:
        self._registry, self._parallel = CollectorRegistry(), parallel
        self._labels = {"model_name": model}
        self.in_flight = 0
        gauge = self._gauge("vllm:num_requests_running", "Requests being computed.")
        gauge.set_function(lambda: min(self.in_flight, self._parallel))
        gauge = self._gauge("vllm:num_requests_waiting", "Requests waiting for a slot.")
        gauge.set_function(lambda: max(0, self.in_flight - self._parallel))
        self._prompt = self._counter("vllm:prompt_tokens", "Prompt tokens computed.")
        self._output = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._success = Counter(
            "vllm:request_success",
            "Requests answered.",
            ("model_name", "finished_reason"),
            registry=self._registry,
        )
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", _TTFT_S)
        self._tpot = self._histogram("vllm:request_time_per_output_token_seconds", _TPOT_S)
        self._e2e = self._histogram("vllm:e2e_request_latency_seconds", _E2E_S)
        self._prompt_length = self._histogram("vllm:request_prompt_tokens", _TOKENS)
        self._output_length = self._histogram("vllm:request_generation_tokens", _TOKENS)

    def text(self) -> str:
        """All series in the text format."""
        return generate_latest(self._registry).decode()

    @contextmanager
    def request(self, is_work: bool) -> Iterator[RequestWatch]:
        """Watches one request from its arrival to its end, however it ends."""
        self.in_flight += is_work
        try:
            yield RequestWatch(self)
        finally:
            self.in_flight -= is_work

    def finished(self, watch: RequestWatch, told: dict[str, Any]) -> None:
        """Counts a request that was answered; `told` is its answer with usage and timings."""
        usage, timings = told.get("usage") or {}, told.get("timings") or {}
        prompt = int(usage.get("prompt_tokens") or timings.get("prompt_n") or 0)
        output = int(usage.get("completion_tokens") or timings.get("predicted_n") or 0)
        now = time.monotonic()
        per_token_s = float(timings.get("predicted_per_token_ms") or 0.0) / 1e3
        # A whole answer has one chunk: its first token was there before the others were made.
        first_s = watch.first_chunk_at - watch.began_at
        if watch.chunks <= 2:
            first_s = max(0.0, now - watch.began_at - per_token_s * max(0, output - 1))
        reasons = [c.get("finish_reason") for c in told.get("choices") or () if c]
        self._prompt.inc(prompt)
        self._output.inc(output)
        self._success.labels(**self._labels, finished_reason=next(iter(reasons), None) or "").inc()
        self._ttft.observe(first_s)
        self._e2e.observe(now - watch.began_at)
        self._prompt_length.observe(prompt)
        self._output_length.observe(output)
        if output > 1:
            self._tpot.observe(per_token_s)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model_name",), registry=self._registry).labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model_name",), registry=self._registry).labels(**self._labels)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        what = name.partition(":")[2].replace("_", " ")
        return Histogram(
            name, f"Of a request: {what}.", ("model_name",), buckets=buckets,
            registry=self._registry,
        ).labels(**self._labels)  # fmt: skip


@dataclass(slots=True)
class RequestWatch:
    """When a request came, and when its answer began."""

    metrics: EngineMetrics
    began_at: float = field(default_factory=time.monotonic)
    first_chunk_at: float = 0.0
    chunks: int = 0

    def chunk(self) -> None:
        """Bytes of the answer came."""
        if not self.chunks:
            self.first_chunk_at = time.monotonic()
        self.chunks += 1

    def done(self, told: dict[str, Any]) -> None:
        """The answer is whole."""
        self.metrics.finished(self, told)
