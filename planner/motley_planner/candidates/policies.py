"""Routing policies of a cascade: thresholds, the quality they give, and the visits they cost.

A stage's answer is returned where its score is at least the stage's threshold; the last stage's
always is. Thresholds are quantiles of the scores, so that policies spread evenly over requests.

The quality of a policy is Wilson's score bound, one-sided, with the sample variance in the place
of p (1 - p): close to the normal bound for many rows, and below 1 where every answer was right.
It holds for one policy chosen beforehand; choosing the best of many on the same table makes it
somewhat optimistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from motley_planner.candidates.calibration import CalibrationTable, read_calibration
from motley_planner.domain.demand import RoutingPolicy
from motley_planner.domain.plan import Refusal

MOST_POLICIES = 40  # tried, before dominated ones go
ACCEPT_ALL = 0.0
ESCALATE_ALL = 1.01  # above every score

Floats = NDArray[np.float64]


def policies_from_table(
    text: str, stages: Sequence[str], confidence: float
) -> tuple[RoutingPolicy, ...]:
    """The useful routing policies that a calibration table (CSV text) supports.

    Raises: SnapshotError naming line and column of the table.
    """
    return routing_policies(read_calibration(text, stages), confidence)


def routing_policies(table: CalibrationTable, confidence: float) -> tuple[RoutingPolicy, ...]:
    """Policies on a grid of thresholds, cheapest first, without dominated ones.

    "Never escalate" and "all to the last stage" are always there. A policy is dominated if another
    has at least its quality and visits no stage more often.
    """
    if len(table.stages) == 1:
        return (_evaluate(table, (), confidence),)
    grid = list(product(*(_thresholds(table, stage) for stage in table.stages[:-1])))
    ends = [(limit,) * (len(table.stages) - 1) for limit in (ACCEPT_ALL, ESCALATE_ALL)]
    found = [_evaluate(table, thresholds, confidence) for thresholds in dict.fromkeys(ends + grid)]
    corners, inner = found[: len(set(ends))], found[len(set(ends)) :]
    kept = {_figures(p): p for p in inner if not any(_dominates(q, p) for q in found)}
    distinct = [*corners, *(p for f, p in kept.items() if f not in {_figures(c) for c in corners})]
    return tuple(sorted(distinct, key=_cost_order))


def quality_refusal(policies: Sequence[RoutingPolicy], floor: float) -> Refusal | None:
    """Why no policy reaches the quality floor; None if one does."""
    if not policies:
        return None
    best = max(policies, key=lambda policy: policy.quality)
    if best.quality >= floor:
        return None
    reachable = int(best.quality * 1000) / 10  # rounded down, so that the stated floor is reached
    message = (
        f"no routing policy reaches a mean quality of {floor:.1%}: the best has "
        f"{best.mean_quality:.1%} on the calibration table, {reachable:.1f}% at the asked confidence"
    )
    lift = (
        f"spec.quality.floor {floor:.1%} -> {reachable:.1f}%, more calibration rows, "
        "or a better last stage"
    )
    return Refusal("QualityUnreachable", "spec.quality.floor", message, lift)


def lower_bound(mean: float, variance: float, rows: int, confidence: float) -> float:
    """Lower confidence bound of a mean of values in 0..1 (Wilson 1927, with the sample variance)."""
    z = NormalDist().inv_cdf(min(max(confidence, 0.5), 1.0 - 1e-12))
    spread = z * sqrt(variance / rows + z * z / (4.0 * rows * rows))
    return max(0.0, (mean + z * z / (2.0 * rows) - spread) / (1.0 + z * z / rows))


def _thresholds(table: CalibrationTable, stage: str) -> list[float]:
    """Distinct score quantiles of a stage, with both ends; fewer where stages multiply."""
    points = max(3, int(MOST_POLICIES ** (1.0 / (len(table.stages) - 1)))) - 2
    scores = np.asarray(table.scores[stage])
    inner = np.quantile(scores, np.linspace(0.0, 1.0, points), method="higher")
    return [ACCEPT_ALL, *(float(v) for v in np.unique(inner) if v > ACCEPT_ALL), ESCALATE_ALL]


def _evaluate(
    table: CalibrationTable, thresholds: Sequence[float], confidence: float
) -> RoutingPolicy:
    rows = table.rows
    reached = np.ones(rows, dtype=bool)
    quality: Floats = np.zeros(rows)
    visits: dict[str, float] = {}
    for stage, limit in zip(table.stages, (*thresholds, None), strict=True):
        visits[stage] = float(reached.mean())
        answers = np.asarray(table.qualities[stage])
        passed = reached if limit is None else reached & (np.asarray(table.scores[stage]) >= limit)
        quality[passed] = answers[passed]
        reached = reached & ~passed
    mean = float(quality.mean())
    return RoutingPolicy(
        id="t" + "-".join(f"{limit:.6g}" for limit in thresholds),
        thresholds=dict(zip(table.stages, thresholds, strict=False)),
        quality=min(mean, lower_bound(mean, float(quality.var(ddof=1)), rows, confidence)),
        mean_quality=mean,
        visits=visits,
    )


def _dominates(one: RoutingPolicy, other: RoutingPolicy) -> bool:
    no_dearer = all(one.visits[stage] <= other.visits[stage] for stage in other.visits)
    return no_dearer and one.quality >= other.quality and _figures(one) != _figures(other)


def _figures(policy: RoutingPolicy) -> tuple[float, ...]:
    return (policy.quality, *policy.visits.values())


def _cost_order(policy: RoutingPolicy) -> tuple[float, ...]:
    return (*reversed(list(policy.visits.values())), policy.quality)
