"""What a gateway compares its traffic with: a stage's scores and worth under a mixture of policies.

A stage sees the requests that no earlier one kept. So its reference is over the table's rows, each
weighted by the share of requests that brings it there: sum over policies of share x (visited or
not). Equal weights for the first stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.certify import Floats
from motley_planner.candidates.policies import replay
from motley_planner.dispatch.watching import MOST_POINTS, Reference
from motley_planner.domain.demand import RoutingPolicy
from motley_planner.domain.plan import PolicyChoice


@dataclass(slots=True)
class _Seen:
    """Weights of the table's rows at one stage: those that visit it, and those that it keeps."""

    visited: Floats
    kept: Floats


def references(table: CalibrationTable, mixture: Sequence[PolicyChoice]) -> dict[str, Reference]:
    """The reference of each stage before the last that the mixture visits."""
    found = {}
    for i, stage in enumerate(table.stages[:-1]):
        seen = _seen(table, i, mixture)
        if seen.visited.sum() <= 0.0:
            continue
        own, last = (np.asarray(table.qualities[s]) for s in (stage, table.stages[-1]))
        kept = float(seen.kept.sum())
        found[stage] = Reference(
            points=_distribution(np.asarray(table.scores[stage]), seen.visited),
            rows=_effective(seen.visited),
            accepted=_effective(seen.kept),
            quality=_share(seen.kept @ own, kept),
            agreement=_share(seen.kept @ (own * last), kept),
        )
    return found


def relief_policies(
    offered: Sequence[RoutingPolicy], mixture: Sequence[PolicyChoice]
) -> tuple[RoutingPolicy, ...]:
    """Certified policies that accept whatever one of the plan's accepts, and more: best first.

    Their bounds hold together with those of the plan's, so a mixture of all of them is certified.
    """

    def relieves(policy: RoutingPolicy, chosen: PolicyChoice) -> bool:
        pairs = [(policy.thresholds[s], limit) for s, limit in chosen.thresholds.items()]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    kept = [
        each
        for each in offered
        if not each.request_class and any(relieves(each, chosen) for chosen in mixture)
    ]
    return tuple(sorted(kept, key=lambda each: -each.quality))


def certified(
    offered: Sequence[RoutingPolicy], mixture: Sequence[PolicyChoice]
) -> Mapping[str, float] | None:
    """Certified quality of the mixture's policies by id; None where it is not known of all alike."""
    known = {each.id: each.quality for each in offered if not each.request_class}
    if any(each.classes or each.id not in known for each in mixture):
        return None
    return {each.id: known[each.id] for each in mixture}


def _seen(table: CalibrationTable, at: int, mixture: Sequence[PolicyChoice]) -> _Seen:
    seen = _Seen(np.zeros(table.rows), np.zeros(table.rows))
    scores = np.asarray(table.scores[table.stages[at]])
    for policy in mixture:
        limits = [policy.thresholds[stage] for stage in table.stages[:-1]]
        _, visits = replay(table, limits)
        rows = policy.share * visits[at]
        if policy.classes:
            rows = rows * np.isin(np.asarray(table.classes), policy.classes)
        seen.visited += rows
        seen.kept += rows * (scores >= limits[at])
    return seen


def _distribution(scores: Floats, weights: Floats) -> tuple[tuple[float, float], ...]:
    """(score, share of the weight at most there), at every score or at hundredths of the weight."""
    order = np.argsort(scores, kind="stable")
    summed = np.cumsum(weights[order]) / weights.sum()
    values, first = np.unique(scores[order][::-1], return_index=True)
    shares = summed[::-1][first]  # of equal scores the last, which counts them all
    here = np.concatenate(([shares[0] > 0.0], np.diff(shares) > 0.0))
    values, shares = values[here], shares[here]
    if len(values) > MOST_POINTS:
        picked = np.unique(np.searchsorted(shares, np.linspace(0.01, 1.0, MOST_POINTS - 1) - 1e-9))
        values, shares = values[picked], shares[picked]
    rounded = [float(f"{share:.6g}") for share in shares]
    return tuple(zip((float(v) for v in values), (min(1.0, s) for s in rounded), strict=True))


def _effective(weights: Floats) -> int:
    """How many equal rows would say as much: (sum w)^2 / sum w^2."""
    squares = float((weights**2).sum())
    return round(float(weights.sum()) ** 2 / squares) if squares > 0.0 else 0


def _share(part: float, whole: float) -> float:
    return min(1.0, float(part) / whole) if whole > 0.0 else 0.0
