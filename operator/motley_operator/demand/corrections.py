"""The correction in force, given what was and what was measured: noise changes nothing (pure).

Where there is none yet, an interval without 1 sets one on its way; one with 1 in it is kept as 1. A
correction on its way follows what is measured until it is there. One at rest moves again only when
a new interval lies apart from the one that it rests on. Each by `BAND` at least and by `MOST_MOVE`
at most, no sooner than a window after the last move, and never beyond the bounds. So as long as all
intervals hold one speed there is a last move. What is in force comes from the status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from motley_operator.api.fleetstatus import LEAST_FACTOR, MOST_FACTOR, Correction
from motley_operator.demand.learning import Estimate, Judged
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.measurements import Learned, LearnedKey

BAND = 0.05  # relative change of a step time that is worth a plan
MOST_MOVE = 1.25  # factor by which a correction moves in a window at most
DIGITS = 3  # what is written is what is planned with


@dataclass(frozen=True, slots=True)
class Learning:
    """Corrections in force, by configuration, and what became of each one's measurement."""

    corrections: tuple[Correction, ...] = ()
    judged: Mapping[LearnedKey, Judged] = field(default_factory=dict)
    applied: bool = False

    def taught(self, catalog: Catalog) -> Catalog:
        """The catalog with the corrections, where they are to be planned with.

        Those that the catalog has already (a person gave them) go before.
        """
        if not self.applied or not self.corrections:
            return catalog
        own = {key_of(one): learned_of(one) for one in self.corrections}
        return replace(catalog, learned={**own, **catalog.learned})


def settled(
    key: LearnedKey, before: Correction | None, seen: Estimate | None, now: float, window_s: float
) -> Correction | None:
    """The correction from now on; `before` itself wherever there is no reason to change it.

    Five parameters: what it is of, what was, what is seen, and the two times.
    """
    if seen is None or (before is not None and now - _since(before) < window_s):
        return before
    target = bounded(seen.value)
    value = 1.0 if before is None else before.value
    moves = _away(value, target) >= BAND
    if before is None:
        moves = moves and not seen.low <= 1.0 <= seen.high
    elif is_at_rest(before) and not (moves and _is_apart(before, seen)):
        return before
    if moves:
        value = _towards(value, target)
    return Correction(
        model=key.model,
        gpu=key.gpu,
        tensor_parallel=key.tensor_parallel,
        precision=key.precision,
        engine=key.engine,
        value=bounded(round(value, DIGITS)),
        measured=_figure(round(seen.value, DIGITS)),
        low=_figure(math.floor(seen.low * 10**DIGITS) / 10**DIGITS),
        high=_figure(math.ceil(seen.high * 10**DIGITS) / 10**DIGITS),
        samples=seen.samples,
        since=datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def is_at_rest(one: Correction) -> bool:
    """Whether the value is where the measurement that it follows would have it, or need not go."""
    kept = one.value == 1.0 and one.low <= 1.0 <= one.high
    return kept or _away(one.value, bounded(one.measured)) < BAND


def bounded(factor: float) -> float:
    """The factor between the bounds."""
    return min(MOST_FACTOR, max(LEAST_FACTOR, factor))


def key_of(one: Correction) -> LearnedKey:
    """What a correction is of."""
    return LearnedKey(one.model, one.gpu, one.tensor_parallel, one.precision, one.engine)


def learned_of(one: Correction) -> Learned:
    """The correction in the planner's words."""
    return Learned(key_of(one), one.value, one.low, one.high, one.samples, one.since)


def _figure(factor: float) -> float:
    """A measured factor as the status takes it."""
    return min(1e6, max(10.0**-DIGITS, factor))


def _is_apart(before: Correction, seen: Estimate) -> bool:
    return seen.low > before.high or seen.high < before.low


def _away(value: float, target: float) -> float:
    """Relative distance of two factors."""
    return max(value, target) / min(value, target) - 1.0


def _towards(value: float, target: float) -> float:
    """The next of the fewest equal moves that lead to the target."""
    distance = math.log(target / value)
    moves = math.ceil(abs(distance) / math.log(MOST_MOVE) - 1e-9)
    return value * math.exp(distance / max(1, moves))


def _since(before: Correction) -> float:
    try:
        return datetime.fromisoformat(before.since).timestamp()
    except ValueError:
        return 0.0
