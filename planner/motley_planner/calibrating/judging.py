"""Whether to cascade at all, and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.calibrating.deferral import Deferral, deferral_of
from motley_planner.calibrating.thresholds import Choice, Rule, choose, policy_of
from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.policies import ESCALATE_ALL


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is Worthwhile, or why not to cascade; `choice` is what keeps the floor, if anything.

    NoGain: the last stage does not gain on what is deferred. FloorUnreachable: not even all to it
    is sure to keep the floor. WeakSuffices: a smaller stage alone keeps it. BlindScore: the score does not tell
    what to defer. NotCheaper: as dear as the last stage alone.
    """

    reason: str
    message: str
    choice: Choice | None
    deferrals: tuple[Deferral, ...]

    @property
    def cascades(self) -> bool:
        """Whether cascading is worth it."""
        return self.reason == "Worthwhile"


def judge(table: CalibrationTable, rule: Rule) -> Verdict:
    """The verdict on a cascade. The first reason that applies is given."""
    choice = choose(table, rule)
    limits = choice.limits if choice else {}
    deferrals = tuple(
        deferral_of(table, stage, limits.get(stage), rule.confidence) for stage in table.stages[:-1]
    )
    # A blind or useless stage is skipped; the cascade is refused if none is left.
    used = [each for each in deferrals if limits.get(each.stage, ESCALATE_ALL) < ESCALATE_ALL]
    if not any(each.gain_low > 0.0 for each in used or deferrals):
        return _refused("NoGain", _no_gain(table, used or deferrals), choice, deferrals)
    if choice is None:
        return _refused("FloorUnreachable", _unreachable(table, rule), None, deferrals)
    asked = [stage for stage, share in choice.visits.items() if share > 0.0]
    if len(asked) == 1 and asked[0] != table.stages[-1]:
        message = f"{asked[0]} alone is at least {choice.quality_low:.1%} good: serve it as a pool"
        return _refused("WeakSuffices", message, choice, deferrals)
    if not any(each.sorting_low > 0.0 for each in used or deferrals):
        return _refused("BlindScore", _blind(table, used or deferrals), choice, deferrals)
    dearer = _not_cheaper(table, rule, choice)
    if dearer is not None or not used:
        message = dearer or f"only {table.stages[-1]} alone keeps the floor: serve it as a pool"
        return _refused("NotCheaper", message, choice, deferrals)
    message = (
        f"{choice.escalation:.1%} go to {table.stages[-1]}; quality {choice.quality:.1%}, at least "
        f"{choice.quality_low:.1%} with {rule.confidence:.0%} confidence"
    )
    return Verdict("Worthwhile", message, choice, deferrals)


def _refused(
    reason: str, message: str, choice: Choice | None, deferrals: tuple[Deferral, ...]
) -> Verdict:
    return Verdict(reason, message, choice, deferrals)


def _unreachable(table: CalibrationTable, rule: Rule) -> str:
    last = table.stages[-1]
    alone = policy_of(table, (ESCALATE_ALL,) * (len(table.stages) - 1), rule)
    return (
        f"{last} alone is {alone.quality:.1%} good, at least {alone.quality_low:.1%} with "
        f"{rule.confidence:.0%} confidence, and the floor is {rule.floor:.1%}: lower the floor, "
        f"take more questions than {table.rows:,}, or a better last stage"
    )


def _no_gain(table: CalibrationTable, deferrals: Sequence[Deferral]) -> str:
    last = table.stages[-1]
    parts = []
    for each in deferrals:
        own = float(np.mean(table.qualities[each.stage]))
        parts.append(
            f"on the {each.deferred:.0%} that {each.stage} ({own:.1%} good overall) defers, {last} "
            f"gains {100 * each.gain:+.1f} points, at least {100 * each.gain_low:+.1f}"
        )
    return "; ".join(parts) + ": deferring is worthless, serve one of them as a pool"


def _blind(table: CalibrationTable, deferrals: Sequence[Deferral]) -> str:
    last = table.stages[-1]
    parts = [
        f"{last} gains {100 * each.gain:+.1f} points on what {each.stage} defers and "
        f"{100 * each.gain_kept:+.1f} on what it keeps"
        + ("" if each.auroc is None else f" (AUROC {each.auroc:.2f})")
        for each in deferrals
    ]
    lift = "the score does not tell what to defer: split traffic before the stages, or use another"
    return "; ".join(parts) + f": {lift} estimator"


def _not_cheaper(table: CalibrationTable, rule: Rule, choice: Choice) -> str | None:
    if rule.prices is None or choice.usd_per_question is None:
        return None
    last = table.stages[-1]
    alone = rule.prices[last]
    if choice.usd_per_question < alone:
        return None
    return (
        f"the cascade costs ${choice.usd_per_question:.4g} a question and {last} alone "
        f"${alone:.4g}: serve it as a pool"
    )
