"""Latency targets: which percentile of what, and how far a percentile lies above the mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from motley_planner.domain.demand import Slo


@dataclass(frozen=True, slots=True)
class Target:
    """One latency target: "tpot" at 0.95 must be at most 0.06 s."""

    what: str  # ttft | tpot | e2e
    percentile: str  # as written: "p95"
    quantile: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class Miss:
    """A target that does not hold, with the value predicted instead."""

    target: Target
    class_name: str
    value_s: float


def targets_of(slo: Slo) -> tuple[Target, ...]:
    """The targets of a resource, in a fixed order."""
    tables = (("ttft", slo.ttft_s), ("tpot", slo.tpot_s), ("e2e", slo.e2e_s))
    return tuple(
        Target(what, name, quantile_of(name), limit)
        for what, table in tables
        for name, limit in sorted(table.items())
    )


@lru_cache
def quantile_of(percentile: str) -> float:
    """0.95 for "p95"; 0.999 for "p99.9" or "p999"; 0 (the mean) for "mean"."""
    digits = percentile.removeprefix("p").replace(".", "")
    return float("0." + digits) if digits.isdigit() else 0.0


def tpot_ratio(ratios: Mapping[str, float], quantile: float) -> float:
    """TPOT at a quantile over its mean: the smallest listed percentile that covers it."""
    listed = sorted((quantile_of(name), ratio) for name, ratio in ratios.items())
    if quantile <= 0.0:
        return 1.0
    return float(next((ratio for q, ratio in listed if q >= quantile - 1e-9), listed[-1][1]))
