from __future__ import annotations

from prometheus_client import generate_latest

from motley_operator.domain.actions import CycleReport
from motley_operator.metrics import Metrics
from motley_operator.telling import tell
from motley_operator.testing import job, plan_of, pool, replica, slice_of
from motley_operator.testing.operated import Operated


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


def test_a_longer_search_that_is_due_is_shown() -> None:
    metrics = Metrics()
    for again_at, shown in ((None, "0.0"), (5.5, "5.5"), (None, "0.0")):
        metrics.searching(again_at)
        text = generate_latest(metrics.registry).decode()
        assert f"\nmotley_plan_search_due_timestamp_seconds {shown}\n" in text


def desired(metrics: Metrics) -> dict[tuple[str, str], float]:
    """motley_desired_replicas by resource and stage."""
    return {
        (sample.labels["name"], sample.labels["stage"]): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "motley_desired_replicas"
    }


def test_a_stage_that_gets_no_replicas_wants_zero_and_is_not_absent() -> None:
    operated = Operated(nodes=1)
    nowhere = {"nodeSelector": {"there-is": "none"}}
    operated.world.add(pool())
    operated.world.add(pool("nowhere", placement=nowhere))
    operated.world.add(job("train", placement=nowhere))
    metrics = Metrics()
    decision = operated.cycle()
    tell(metrics, CycleReport("id", 0.0, 0.0, 0.0, 0.0, ()), decision, {}, "FirstPlan")
    found = desired(metrics)
    assert found.pop(("chat", "main")) > 0
    assert found == {("nowhere", "main"): 0, ("train", "rollout"): 0, ("train", "trainer"): 0}


def gauges(metrics: Metrics) -> list[tuple[str, dict[str, str], float]]:
    """Every sample of every gauge."""
    return [
        (sample.name, sample.labels, sample.value)
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if metric.type == "gauge"
    ]


def test_one_that_leads_no_more_shows_no_plan_and_the_same_plan_again_once_it_leads() -> None:
    operated, metrics = Operated(nodes=1), Metrics()
    operated.world.add(pool())
    decision = operated.cycle()
    report = CycleReport("id", 0.0, 0.0, 0.0, 0.0, ())
    tell(metrics, report, decision, {}, "FirstPlan")
    metrics.searching(99.0)
    shown = desired(metrics)
    assert shown[("chat", "main")] > 0
    metrics.stood_down()
    assert [each for each in gauges(metrics) if not each[0].endswith("_created")] == gauges(
        Metrics()
    )
    assert count(metrics) == 1.0
    tell(metrics, report, decision, {}, "Elected")
    assert desired(metrics) == shown
