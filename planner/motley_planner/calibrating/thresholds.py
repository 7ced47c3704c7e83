"""The cheapest thresholds whose quality is at least the floor, with confidence.

A path of policies runs from the safest, all to the last stage, to the cheapest: one threshold for
all stages that take part, over the quantiles of their scores. Along it the hypothesis "this policy
is below the floor" is tested with Wilson's bound; the first that cannot be rejected ends the walk,
and the policy before it is the choice. Because the order is fixed before outcomes are looked at, the
chance that the chosen policy is below the floor is at most 1 - confidence, for any number of
policies, with no price for their number. With more than two stages there is a path for every
set of stages that take part, and the confidence is shared among the paths.

Where scores take few values (votes), a step of the path moves many questions at once. Such a step is
walked in `MIX_PARTS` mixtures of its two policies, by shares of the requests, as the gateway draws
them; a question's worth is then the mean over the draw. The walk's order is as fixed as before.

`population` says that the floor is promised for a finite set of so many questions that the rows are
drawn from: variances shrink by 1 - rows / population. Traffic that goes on is not finite.

Source: Angelopoulos et al. 2021 ("Learn then test", fixed-sequence testing); Wilson 1927.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.certify import Floats, wilson
from motley_planner.candidates.policies import ACCEPT_ALL, ESCALATE_ALL, replay

MOST_STEPS = 400  # of a path; finer quantiles than 0.25 % of the questions promise nothing
MIX_PARTS = 20  # of a step between two policies ...
MIX_FROM = 0.01  # ... that moves more than this share of all visits


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked: a floor (0..1), how sure, dollars a question by stage, finite population."""

    floor: float
    confidence: float = 0.95
    prices: Mapping[str, float] | None = None
    population: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Thresholds by stage, the mean quality on the table and its bound, visits and dollars.

    Where `cheaper` is given, that share of the requests follows its thresholds instead; quality,
    visits and dollars are those of both together.
    """

    thresholds: Mapping[str, float]
    quality: float
    quality_low: float
    visits: Mapping[str, float]
    usd_per_question: float | None
    cheaper: Mapping[str, float] | None = None
    cheaper_share: float = 0.0

    @property
    def limits(self) -> Mapping[str, float]:
        """The lowest threshold of each stage that some requests meet."""
        return self.thresholds if self.cheaper is None else self.cheaper

    @property
    def escalation(self) -> float:
        """Share of questions that the last stage answers."""
        return list(self.visits.values())[-1]


def choose(table: CalibrationTable, rule: Rule) -> Choice | None:
    """The cheapest policy that keeps the floor; None where not even the last stage is sure to."""
    earlier = table.stages[:-1]
    sets = [tuple(s) for n in range(1, len(earlier) + 1) for s in combinations(earlier, n)]
    share = (1.0 - rule.confidence) / max(1, len(sets))
    found = [_walk(table, members, rule, 1.0 - share) for members in sets or [()]]
    kept = [choice for choice in found if choice is not None]
    return min(kept, key=_cost, default=None)


def policy_of(
    table: CalibrationTable,
    thresholds: Sequence[float],
    rule: Rule,
    cheaper: Sequence[float] | None = None,
    share: float = 0.0,
) -> Choice:
    """What a policy does on a table, with the bound for it alone; or two, the second for a share."""
    quality, visited = replay(table, thresholds)
    if cheaper is not None:
        other, also = replay(table, cheaper)
        quality = (1.0 - share) * quality + share * other
        visited = (1.0 - share) * visited + share * also
    visits = dict(zip(table.stages, visited.mean(axis=1).tolist(), strict=True))
    usd = None
    if rule.prices is not None:
        usd = sum(rule.prices[stage] * visit for stage, visit in visits.items())
    return Choice(
        thresholds=dict(zip(table.stages, thresholds, strict=False)),
        quality=float(quality.mean()),
        quality_low=_bound(quality, rule.confidence, rule.population),
        visits=visits,
        usd_per_question=usd,
        cheaper=None if cheaper is None else dict(zip(table.stages, cheaper, strict=False)),
        cheaper_share=share,
    )


def path(table: CalibrationTable, members: Sequence[str]) -> Iterator[tuple[float, ...]]:
    """Thresholds from "all to the last stage" to "none", for the stages that take part."""
    earlier = table.stages[:-1]
    yield (ESCALATE_ALL,) * len(earlier)
    if not members:
        return
    scores = np.unique(np.concatenate([np.asarray(table.scores[stage]) for stage in members]))
    if len(scores) > MOST_STEPS:
        inner = np.concatenate([np.asarray(table.scores[stage]) for stage in members])
        scores = np.unique(np.quantile(inner, np.linspace(0, 1, MOST_STEPS), method="higher"))
    for limit in [*(float(each) for each in scores[::-1]), ACCEPT_ALL]:
        yield tuple(limit if stage in members else ESCALATE_ALL for stage in earlier)


def _walk(
    table: CalibrationTable, members: Sequence[str], rule: Rule, confidence: float
) -> Choice | None:
    last: tuple[float, ...] | None = None
    scores = [np.asarray(table.scores[stage]) for stage in table.stages[:-1]]
    worth = [np.asarray(table.qualities[stage]) for stage in table.stages]
    for thresholds in path(table, members):
        quality = worth[-1]
        for limit, score, own in zip(thresholds[::-1], scores[::-1], worth[-2::-1], strict=True):
            if limit < ESCALATE_ALL:
                quality = np.where(score >= limit, own, quality)
        if _bound(quality, confidence, rule.population) < rule.floor:
            return None if last is None else _mixed(table, last, thresholds, rule, confidence)
        last = thresholds
    return None if last is None else policy_of(table, last, rule)


def _mixed(
    table: CalibrationTable,
    kept: tuple[float, ...],
    failed: tuple[float, ...],
    rule: Rule,
    confidence: float,
) -> Choice:
    """The policy that keeps the floor, with as much of the next one as still keeps it."""
    (safe, before), (risky, after) = replay(table, kept), replay(table, failed)
    if float(np.abs(before - after).mean(axis=1).max()) <= MIX_FROM:
        return policy_of(table, kept, rule)
    share = 0.0
    for part in range(1, MIX_PARTS):
        quality = safe + part / MIX_PARTS * (risky - safe)
        if _bound(quality, confidence, rule.population) < rule.floor:
            break
        share = part / MIX_PARTS
    return policy_of(table, kept, rule, failed, share) if share else policy_of(table, kept, rule)


def _bound(quality: Floats, confidence: float, population: int | None) -> float:
    rows = len(quality)
    left = 1.0 if population is None else 1.0 - rows / population
    mean = float(quality.mean())
    if left <= 0.0:
        return mean
    variance = float(quality.var(ddof=1)) if rows > 1 else 0.25
    z = NormalDist().inv_cdf(min(max(confidence, 0.5), 1.0 - 1e-12))
    # A finite population is as informative as rows / left rows of an endless one.
    return min(mean, wilson(mean, variance, rows, z * float(np.sqrt(left))))


def _cost(choice: Choice) -> tuple[float, ...]:
    if choice.usd_per_question is not None:
        return (choice.usd_per_question,)
    return tuple(reversed(list(choice.visits.values())))
