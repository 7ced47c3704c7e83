"""Which of two plans serves more, or as much for clearly less: what steadiness judges by.

A level of service is `goodput[rank]`; odd ranks are services, even ones the pace of jobs.
"""

from __future__ import annotations

from motley_planner.domain.demand import Demand, RlDemand
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, Solution

STEADY_SERVICE = 0.10  # share of a service level that is no reason to move more after a loss: it is
# what headroom is for. At other times `min_improvement` is
STEADY_PACE = 0.5  # share of their pace that jobs may lose before something moves, when steady
STEADY_GAIN = 0.25  # gain in service for which a steady fleet is rebuilt altogether
ROUNDING = 1e-6
PRICE_LEVEL = "price"


def serves_as_much(
    one: Solution, other: Solution, snapshot: Snapshot, *, tolerant: bool = True
) -> bool:
    """True if `one` serves at least what `other` does, level by level, within the tolerance."""
    if tolerant:
        return first_short(one, other, snapshot) is None
    values = {level.name: level.value for level in other.levels}
    for level in one.levels:
        value, asked = level.value, values.get(level.name)
        if _rank_of_level(level) is None or value is None or asked is None:
            continue
        if abs(value - asked) > ROUNDING * max(1.0, abs(asked)):
            return value > asked
    return True


def loses(one: Solution, other: Solution, snapshot: Snapshot) -> bool:
    """Whether `one` serves clearly less at a level, and not clearly more at a higher one.

    A search that is cut short may gain a hair at the first level and leave the others empty; a
    clear gain is what priorities are for.
    """
    if one.status == "no_solution" or other.status == "no_solution":
        return one.status == "no_solution" and other.status != "no_solution"
    mine = {level.name: level.value or 0.0 for level in one.levels}
    for level in other.levels:
        rank = _rank_of_level(level)
        if rank is None or level.value is None:
            continue
        gain, slack = mine.get(level.name, 0.0) - level.value, _slack(rank, snapshot)
        if abs(gain) > slack * abs(level.value):
            return gain < 0
    return False


def first_short(one: Solution, other: Solution, snapshot: Snapshot) -> int | None:
    """Rank of the first level at which `one` serves less than `other`, beyond the tolerance."""
    values = {level.name: level.value for level in other.levels}
    for level in one.levels:
        rank, asked = _rank_of_level(level), values.get(level.name)
        if rank is None or level.value is None or asked is None:
            continue
        slack = _slack(rank, snapshot) * max(abs(level.value), abs(asked))
        if abs(level.value - asked) > slack:
            return rank if level.value < asked else None
    return None


def may_catch_up(one: Solution, other: Solution, snapshot: Snapshot) -> bool:
    """Whether no bound says that `one`, which serves less, could not serve as much as `other`."""
    rank = first_short(one, other, snapshot)
    if rank is None:
        return False
    name = f"goodput[{rank}]"
    bounds = {level.name: level.bound for level in one.levels}
    values = {level.name: level.value or 0.0 for level in other.levels}
    bound = bounds.get(name)
    return bound is None or bound >= values[name] * (1.0 - _slack(rank, snapshot))


def serves_clearly_more(
    free: Solution, held: Solution, rank: int, snapshot: Snapshot, *, preempting: bool = False
) -> bool:
    """True where services gain enough to rebuild everything; a job's pace moves no service.

    A free plan that was cut short may serve one level in full and others hardly: it must lose no
    other level of service beyond the slack. One that is `preempting`, no higher one.
    """
    if rank % 2 == 0:
        return False
    gain = STEADY_GAIN if snapshot.steady else snapshot.min_improvement
    mine = {level.name: level.value or 0.0 for level in free.levels}
    theirs = {level.name: level.value or 0.0 for level in held.levels}
    name = f"goodput[{rank}]"
    for level, value in theirs.items():
        other = _rank_of_level(Level(level, None, None, None))
        if other is None or level == name or (preempting and other < rank):
            continue
        if mine.get(level, 0.0) < value - _slack(other, snapshot) * abs(value):
            return False
    return mine[name] > theirs[name] + gain * abs(mine[name])


def saves(held: Solution, free: Solution, snapshot: Snapshot) -> bool:
    """True if the free plan is cheaper by the improvement that moving must bring."""
    price, less = price_of(held), price_of(free)
    if price is None or less is None or snapshot.steady:
        return False
    return less < price - snapshot.min_improvement * abs(price) - 1e-9


def price_of(solution: Solution) -> float | None:
    """USD/h with the price of moving."""
    return next((level.value for level in solution.levels if level.name == PRICE_LEVEL), None)


def slack_of_services(snapshot: Snapshot) -> float:
    """How far service may stay behind before more is moved, as a share."""
    return STEADY_SERVICE if snapshot.steady else snapshot.min_improvement


def rank_of(demand: Demand) -> int:
    """The table's priority of a demand: services before jobs."""
    return 2 * demand.priority + (0 if isinstance(demand, RlDemand) else 1)


def _rank_of_level(level: Level) -> int | None:
    """The table's priority that a level of service is about."""
    name, _, priority = level.name.partition("[")
    return int(priority.rstrip("]")) if name == "goodput" and priority else None


def _slack(rank: int, snapshot: Snapshot) -> float:
    """How far a level may stay behind before more is moved; the pace of jobs may wait longest."""
    if rank % 2:
        return slack_of_services(snapshot)
    return STEADY_PACE if snapshot.steady else snapshot.min_improvement
