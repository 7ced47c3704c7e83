"""Quality against dollars: what single models, fixed thresholds and calibrated cascades reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from motley_planner.calibrating.thresholds import Choice, Rule, choose, path, policy_of
from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.certify import lower_bound
from motley_planner.candidates.policies import ESCALATE_ALL

STATIC = tuple(step / 20 for step in range(1, 20))  # what people write down without calibration


@dataclass(frozen=True, slots=True)
class Frontier:
    """Points of (dollars a question, quality): curve of the cascade, single models, fixed ones."""

    curve: tuple[Choice, ...]
    singles: Mapping[str, tuple[float, float]]
    static: Mapping[float, Choice]


def frontier(table: CalibrationTable, rule: Rule) -> Frontier:
    """All of it, replayed on the table. `rule.prices` are needed."""
    assert rule.prices is not None
    prices, earlier = rule.prices, table.stages[:-1]
    curve = [policy_of(table, limits, rule) for limits in path(table, earlier)]
    return Frontier(
        curve=_cheapest(curve),
        singles={
            stage: (prices[stage], sum(table.qualities[stage]) / table.rows)
            for stage in table.stages
        },
        static={limit: policy_of(table, (limit,) * len(earlier), rule) for limit in STATIC},
    )


@dataclass(frozen=True, slots=True)
class AtFloor:
    """Dollars a question of the cheapest way of each kind that keeps a floor; None where none does.

    All are judged by their lower bounds at the rule's confidence.
    """

    floor: float
    cascade: float | None
    single: float | None
    static: float | None
    escalation: float | None


def at_floors(table: CalibrationTable, rule: Rule, floors: Sequence[float]) -> tuple[AtFloor, ...]:
    """The comparison at several floors."""
    made = frontier(table, rule)
    found = []
    for floor in floors:
        choice = choose(table, replace(rule, floor=floor))
        single = [usd for usd, low in _bounded(table, rule) if low >= floor]
        static = [_usd(each) for each in made.static.values() if each.quality_low >= floor]
        found.append(
            AtFloor(
                floor=floor,
                cascade=None if choice is None else _usd(choice),
                single=min(single, default=None),
                static=min(static, default=None),
                escalation=None if choice is None else choice.escalation,
            )
        )
    return tuple(found)


def _bounded(table: CalibrationTable, rule: Rule) -> list[tuple[float, float]]:
    """Dollars and the lower bound of quality of each stage alone."""
    assert rule.prices is not None
    found = []
    for stage in table.stages:
        quality = np.asarray(table.qualities[stage])
        mean, variance = float(quality.mean()), float(quality.var(ddof=1))
        low = lower_bound(mean, variance, len(quality), rule.confidence)
        found.append((rule.prices[stage], low))
    return found


def _usd(choice: Choice) -> float:
    assert choice.usd_per_question is not None
    return choice.usd_per_question


def _cheapest(curve: Sequence[Choice]) -> tuple[Choice, ...]:
    """Points that no cheaper point is as good as, cheapest first; without "all to the last"."""
    kept: list[Choice] = []
    for each in sorted(curve, key=_usd):
        skips = all(limit >= ESCALATE_ALL for limit in each.thresholds.values())
        if not skips and (not kept or each.quality > kept[-1].quality):
            kept.append(each)
    return tuple(kept)
