"""What Prometheus showed, as plain figures; read by `facts`, judged by `demand`.

Counts come in equal steps, oldest first. A step is None where nothing was scraped: that is no
zero, and only `demand` decides what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Steps = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Targets:
    """What Prometheus scrapes of one component of a resource."""

    seen: int = 0  # targets it knows
    up: int = 0  # of which the last scrape worked
    oldest_s: float = 0.0  # age of the oldest of their newest samples
    alive: Steps = ()  # targets that showed their presence gauge, by step


@dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative histogram over the window: counts of values <= each bound, the last is inf."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    total: float = 0.0  # sum of all values


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was read of one resource; `main` figures are those of its first stage."""

    gateways: Targets = Targets()
    engines: Targets = Targets()
    arrived: Mapping[str, Steps] = field(default_factory=dict)  # requests at gateways, by class
    finished: Steps = ()  # requests at engines
    prompt: Histogram = Histogram()
    output: Histogram = Histogram()
    running: float | None = None  # requests in batches now
    waiting: float | None = None  # requests in engines' queues now
    kv_usage: float | None = None  # 0..1, of the fullest engine
    ttft_p95_s: float | None = None
    tpot_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class EngineSteps:
    """What the engines of one column did, step by step, summed over its replicas."""

    alive: Steps = ()  # targets that showed their presence gauge
    up: Steps = ()  # targets of which no scrape failed
    requests: Steps = ()  # finished
    prompt: Steps = ()  # tokens of the finished requests
    output: Steps = ()
    tpot_total_s: Steps = ()  # sum and number of what the engine's TPOT histogram counted
    tpot_count: Steps = ()
    ttft_total_s: Steps = ()
    ttft_count: Steps = ()
    running: Steps = ()  # requests in batches, mean of the step
    kv_usage: Steps = ()  # 0..1, the fullest engine at its fullest


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at Prometheus; `error` says why there is nothing else in it."""

    at: float  # Unix seconds
    step_s: float = 0.0
    measurements: Mapping[str, Measurement] = field(default_factory=dict)  # by resource key
    error: str = ""
    columns: Mapping[str, Mapping[str, EngineSteps]] = field(default_factory=dict)  # by key, column
