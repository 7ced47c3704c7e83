from __future__ import annotations

from prometheus_client import generate_latest

from motley_operator.metrics import Metrics
from motley_operator.testing import plan_of, replica, slice_of


def count(metrics: Metrics) -> float:
    """Plans that were counted."""
    for line in generate_latest(metrics.registry).decode().splitlines():
        if line.startswith("motley_solve_seconds_count "):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_a_plan_that_is_held_is_counted_once() -> None:
    metrics = Metrics()
    plan = plan_of(slice_of("ServingPool/team-a/chat", [replica()]))
    for _ in range(3):
        metrics.planned(plan)
    assert count(metrics) == 1.0
    metrics.planned(plan_of(slice_of("ServingPool/team-a/chat", [replica()])))
    assert count(metrics) == 2.0
