"""Routing policies of a cascade: thresholds, the quality they give, and the visits they cost.

A stage's answer is returned where its score is at least the stage's threshold; the last stage's
always is. A threshold above every score skips the stage: nobody waits for an answer that is never
returned. Thresholds are quantiles of the scores, so that policies spread evenly over requests.

Which policies are offered is chosen on one fold of the table (certify.py) and their quality is
certified on the other, at the asked confidence for all of them at once. So the plan may pick any
of them, or mix them, and the certificate holds for what it picked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from motley_planner.candidates.calibration import CalibrationTable, read_calibration
from motley_planner.candidates.certify import (
    Floats,
    Indices,
    class_rows,
    folds,
    lower_bounds,
)
from motley_planner.domain.demand import JointQuality, RoutingPolicy
from motley_planner.domain.plan import Refusal

MOST_POLICIES = 40  # tried, before dominated ones go
ACCEPT_ALL = 0.0
ESCALATE_ALL = 1.01  # above every score


def policies_from_table(
    text: str, stages: Sequence[str], confidence: float
) -> tuple[RoutingPolicy, ...]:
    """The useful routing policies that a calibration table (CSV text) supports.

    Raises: SnapshotError naming line and column of the table.
    """
    return _policies_of(text, tuple(stages), confidence)


@lru_cache(maxsize=16)
def _policies_of(
    text: str, stages: tuple[str, ...], confidence: float
) -> tuple[RoutingPolicy, ...]:
    """As policies_from_table; the operator asks for the same table at every cycle."""
    return routing_policies(read_calibration(text, stages), confidence)


def routing_policies(table: CalibrationTable, confidence: float) -> tuple[RoutingPolicy, ...]:
    """Policies on a grid of thresholds, cheapest first, without dominated ones.

    "Never escalate" and "all to the last stage" are always there. A policy is dominated if another
    has at least its quality, on the fold that chooses, and visits no stage more often.
    """
    choosing, certifying = folds(table.rows)
    if len(table.stages) == 1:
        return _certified(table, [()], certifying, confidence)
    grid = list(product(*(_thresholds(table, stage) for stage in table.stages[:-1])))
    ends = [(limit,) * (len(table.stages) - 1) for limit in (ACCEPT_ALL, ESCALATE_ALL)]
    tried = [_trial(table, thresholds, choosing) for thresholds in dict.fromkeys(ends + grid)]
    corners, inner = tried[: len(set(ends))], tried[len(set(ends)) :]
    kept = {t.figures: t for t in inner if not any(_dominates(other, t) for other in tried)}
    known = {corner.figures for corner in corners}
    chosen = [*corners, *(trial for figures, trial in kept.items() if figures not in known)]
    found = _certified(table, [trial.thresholds for trial in chosen], certifying, confidence)
    useful = [p for p in found[len(corners) :] if not any(_beats(other, p) for other in found)]
    return tuple(sorted((*found[: len(corners)], *useful), key=_cost_order))


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


def _thresholds(table: CalibrationTable, stage: str) -> list[float]:
    """Distinct score quantiles of a stage, with both ends; fewer where stages multiply."""
    points = max(3, int(MOST_POLICIES ** (1.0 / (len(table.stages) - 1)))) - 2
    scores = np.asarray(table.scores[stage])
    inner = np.quantile(scores, np.linspace(0.0, 1.0, points), method="higher")
    return [ACCEPT_ALL, *(float(v) for v in np.unique(inner) if v > ACCEPT_ALL), ESCALATE_ALL]


@dataclass(frozen=True, slots=True)
class _Trial:
    """A policy on the fold that chooses."""

    thresholds: tuple[float, ...]
    quality: float
    visits: tuple[float, ...]

    @property
    def figures(self) -> tuple[float, ...]:
        return (self.quality, *self.visits)


def _trial(table: CalibrationTable, thresholds: tuple[float, ...], rows: Indices) -> _Trial:
    quality, reached = replay(table, thresholds)
    return _Trial(thresholds, float(quality[rows].mean()), tuple(reached[:, rows].mean(axis=1)))


def replay(table: CalibrationTable, thresholds: Sequence[float]) -> tuple[Floats, Floats]:
    """The quality of the answer that each question gets, and which stages it visits (0 or 1)."""
    left = np.ones(table.rows, dtype=bool)
    quality: Floats = np.zeros(table.rows)
    visited = []
    for stage, limit in zip(table.stages, (*thresholds, None), strict=True):
        skipped = limit is not None and limit > 1.0
        visited.append(np.zeros(table.rows) if skipped else left.astype(np.float64))
        passed = left if limit is None else left & (np.asarray(table.scores[stage]) >= limit)
        quality[passed] = np.asarray(table.qualities[stage])[passed]
        left = left & ~passed
    return quality, np.stack(visited)


def _certified(
    table: CalibrationTable,
    chosen: Sequence[tuple[float, ...]],
    rows: Indices,
    confidence: float,
) -> tuple[RoutingPolicy, ...]:
    """The chosen policies with bounds on their quality that hold for all of them at once."""
    replayed = [replay(table, thresholds) for thresholds in chosen]
    answers = np.stack([quality for quality, _ in replayed])
    bounds = lower_bounds(answers[:, rows], confidence)
    by_class = {
        name: lower_bounds(answers[:, members], confidence)
        for name, members in class_rows(table, rows).items()
    }
    joint = _joint(table, replayed, rows, confidence)
    found = []
    for i, (thresholds, (quality, visited)) in enumerate(zip(chosen, replayed, strict=True)):
        mean = float(quality.mean())
        found.append(
            RoutingPolicy(
                id="t" + "-".join(f"{limit:.6g}" for limit in thresholds),
                thresholds=dict(zip(table.stages, thresholds, strict=False)),
                quality=min(mean, float(bounds[i])),
                mean_quality=mean,
                visits=dict(zip(table.stages, visited.mean(axis=1).tolist(), strict=True)),
                class_quality={name: float(each[i]) for name, each in by_class.items()},
                joint=joint[i] if joint else None,
            )
        )
    return tuple(found)


def _joint(
    table: CalibrationTable,
    replayed: Sequence[tuple[Floats, Floats]],
    rows: Indices,
    confidence: float,
) -> list[JointQuality]:
    """For each policy, bounds of the whole and of every class that hold at once: a union bound."""
    members = class_rows(table, rows)
    if not members:
        return []
    each = 1.0 - (1.0 - confidence) / (len(members) + 1)
    answers = np.stack([quality for quality, _ in replayed])
    whole = lower_bounds(answers[:, rows], each)
    bounds = {name: lower_bounds(answers[:, own], each) for name, own in members.items()}
    classes = np.asarray(table.classes)
    found = []
    for i, (quality, visited) in enumerate(replayed):
        by_class = {}
        for name, bound in bounds.items():
            visits = visited[:, classes == name].mean(axis=1).tolist()
            by_class[name] = float(bound[i]), dict(zip(table.stages, visits, strict=True))
        found.append(JointQuality(min(float(quality.mean()), float(whole[i])), by_class))
    return found


def _dominates(one: _Trial, other: _Trial) -> bool:
    no_dearer = all(a <= b for a, b in zip(one.visits, other.visits, strict=True))
    return no_dearer and one.quality >= other.quality and one.figures != other.figures


def _beats(one: RoutingPolicy, other: RoutingPolicy) -> bool:
    """Whether one is certified as good and visits no stage more often; of equals, the first."""
    no_dearer = all(one.visits[stage] <= other.visits[stage] for stage in other.visits)
    same = (one.quality, one.visits) == (other.quality, other.visits)
    return one is not other and no_dearer and one.quality >= other.quality and not same


def _cost_order(policy: RoutingPolicy) -> tuple[float, ...]:
    return (*reversed(list(policy.visits.values())), policy.quality)
