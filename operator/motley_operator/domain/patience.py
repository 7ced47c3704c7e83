"""When a plan that the time limit cut short is sought again, and when what is found is better.

A solver that was starved (a busy machine, a process that starts slowly) leaves a plan that is valid and
clearly worse than need be, and nothing would ask for another until something changes. So the same is asked
again while nothing else happens: what might be moved then may be moved now, in twice the
time, up to `most_s`, `TRIES` times at most. A search that ends before its time is the last. One that
something waits for is called off and not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from motley_planner.domain.plan import Plan, Slice
from motley_planner.domain.snapshot import Snapshot

TRIES = 3
SHOWN_S = 30.0  # after a proposal is first shown nothing begins that could replace it
UNPROVED_GAP = 1e-3  # of service: below it nobody is served more by a longer search
SERVED = 1e-3  # share of a rate that tells two plans apart


@dataclass(frozen=True, slots=True)
class Asked:
    """How a plan was asked for; times in seconds."""

    at: float  # Unix time of its beginning
    limit_s: float
    most_s: float  # that any try may take
    steady: bool
    edited: frozenset[str]
    still: frozenset[str]
    least_gain: float  # share of a price that moving must save
    ran: frozenset[str] = (
        frozenset()
    )  # resources with replicas then; a first plan leaves nothing old
    tries: int = 0  # so far, after the first
    owed: frozenset[str] = frozenset()  # edited before, and left as they are by what was asked here

    @property
    def due_at(self) -> float:
        """Unix time before which it is not asked again: as long after the search as it took."""
        return self.at + 2.0 * self.limit_s

    def again(self, now: float) -> Asked:
        """The same and what is owed, with twice the time."""
        limit_s = max(self.limit_s, min(2.0 * self.limit_s, self.most_s))
        edited, owed = self.edited | self.owed, frozenset[str]()
        again = replace(self, at=now, limit_s=limit_s, tries=self.tries + 1)
        return replace(again, edited=edited, owed=owed)


def how_asked(snapshot: Snapshot, now: float, most_s: float) -> Asked:
    """How the plan of a snapshot is asked for."""
    return Asked(
        at=now,
        limit_s=snapshot.time_limit_s,
        most_s=most_s,
        steady=snapshot.steady,
        edited=snapshot.edited,
        still=snapshot.still,
        least_gain=snapshot.min_improvement,
        ran=frozenset(unit.key for unit in snapshot.running),
    )


def falls_short(part: Slice) -> bool:
    """True where a resource gets less than it asked for."""
    missing = part.requests_per_second - part.served_requests_per_second
    return bool(part.refusals) or missing > 1e-6 * max(1.0, part.requests_per_second)


def may_serve_more(plan: Plan) -> bool:
    """Whether somebody gets less than was asked, and no bound says that it must be so."""
    gaps = (math.inf if lv.gap is None else lv.gap for lv in plan.levels if _is_service(lv.name))
    return max(gaps, default=0.0) > UNPROVED_GAP and any(falls_short(p) for p in plan.slices)


def price_gap(plan: Plan) -> float:
    """Share of its price that a plan may cost too much; infinite where nothing is proved of it."""
    known = (lv.gap for lv in plan.levels if lv.name == "price")
    return max((math.inf if gap is None else gap for gap in known), default=0.0)


def wants_time(plan: Plan, asked: Asked) -> bool:
    """Whether a longer search may find what may also be carried out."""
    if plan.status != "feasible" or asked.tries >= TRIES:
        return False
    if asked.owed:
        return True
    if not plan.cut_short:
        return False
    money_counts = bool(asked.edited) or not asked.steady
    return may_serve_more(plan) or (money_counts and price_gap(plan) > asked.least_gain)


def is_better(found: Plan, plan: Plan, asked: Asked) -> bool:
    """Whether what a longer search found replaces the plan in force.

    It serves nobody less, and somebody more or all for less. Where it was cut short as well it stops only
    replicas of what was edited, and each stop has to save what a move must.
    """
    if found.status == "no_solution":
        return False
    before = {part.key: part for part in plan.slices}
    pairs = [(part, before[part.key]) for part in found.slices if part.key in before]
    if any(_served(new) < _served(old) * (1.0 - SERVED) for new, old in pairs):
        return False
    stopped = {move.key for move in found.moves if move.action == "stop"}
    if found.cut_short and not stopped <= asked.edited:
        return False
    if any(_served(new) > _served(old) * (1.0 + SERVED) for new, old in pairs):
        return True
    worth = sum(old.price_usd_per_hour for _, old in pairs if old.key in stopped)
    saved = plan.price_usd_per_hour - found.price_usd_per_hour
    return saved > 1e-9 + asked.least_gain * worth


def is_better_proposal(found: Slice, shown: Slice, least_gain: float) -> bool:
    """Whether a longer search found what is worth another hash to whoever is about to approve.

    It serves more, or as much for a price lower by `least_gain`.
    """
    if abs(_served(found) - _served(shown)) > SERVED * _served(shown):
        return _served(found) > _served(shown)
    saved = shown.price_usd_per_hour - found.price_usd_per_hour
    return saved > 1e-9 + least_gain * shown.price_usd_per_hour


def _served(part: Slice) -> float:
    return part.served_requests_per_second


def _is_service(level: str) -> bool:
    return level.startswith("goodput")
