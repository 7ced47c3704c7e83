"""What a cycle did, in metrics and one line of the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from motley_operator.apply import CONFLICT, DONE, FAILED
from motley_operator.decision import Decision
from motley_operator.domain.actions import CreatePod, CycleReport, DeletePod
from motley_operator.metrics import Metrics
from motley_planner.domain.demand import RlDemand
from motley_planner.domain.snapshot import Snapshot

logger = logging.getLogger(__name__)


def tell(
    metrics: Metrics, done: CycleReport, decision: Decision, causes: Mapping[str, int], why: str
) -> None:
    """Count what a cycle decided and did, and log it; `causes` woke it, `why` is its verdict."""
    metrics.planned(decision.plan, stages_of(decision.translation.snapshot))
    metrics.translated(decision.translation)
    metrics.fell_short(decision.plan, decision.translation)
    metrics.replanned(decision.replans)
    for outcome in done.outcomes:
        if outcome.result == DONE and isinstance(outcome.action, CreatePod | DeletePod):
            metrics.moved.labels(type(outcome.action).__name__).inc()
        if outcome.result in (FAILED, CONFLICT):
            name = type(outcome.action).__name__
            logger.warning("%s %s: %s", name, outcome.result, outcome.message)
    counts = Counter(type(outcome.action).__name__ for outcome in done.outcomes)
    logger.info(
        "cycle: %s; %s",
        _words(causes) or "timer",
        _words(counts) or "nothing to do",
        extra={
            "plan_usd_per_hour": round(decision.plan.price_usd_per_hour, 4),
            "plan_status": str(decision.plan.status),
            "kept": decision.plan.kept,
            "why": why,
            "tiers": _words(Counter(f"{r.tier} {r.reason}" for r in decision.replans)),
            "gather_s": round(done.gather_seconds, 4),
            "decide_s": round(done.plan_seconds, 4),
            "apply_s": round(done.apply_seconds, 4),
        },
    )


def stages_of(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """Names of the stages that each resource asks replicas for, by key."""
    found: dict[str, tuple[str, ...]] = {}
    for demand in snapshot.demands:
        if isinstance(demand, RlDemand):
            found[demand.key] = (demand.rollout.name, "trainer")
        else:
            found[demand.key] = tuple(stage.name for stage in demand.stages)
    return found


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
