"""What may be moved of what runs: as little as serves as much, unless money clearly says otherwise.

First a solve in which everything may move says how much can be served. Then come the rungs of a
ladder, each of which may move more than the one before and only adds around what it holds:

    0. nothing is stopped, if that is enough            (after an edit)
    1. only what somebody edited may be rebuilt         (after a loss: the repair)
    2. the resources that are short may be rebuilt
    3. ... and the jobs that stand behind them in priority
    4. ... and everything that stands behind them

Resources that cool down from their last change are not moved for money: where the free plan would,
one more solve releases everything but them.

(A resource is short where its level of service stays behind the free plan's.)

The first rung that serves as much as the free plan is carried out. The free plan itself is taken
only if services gain clearly by it over every rung, or if it serves as much for
a price lower by `min_improvement`, moving included; a job's pace alone never moves a service. A
steady snapshot (a loss, a restart) asks for service only and leaves money for a better moment. So a
solver that stops early never reshuffles a fleet for its own noise, and the same facts again give
the same plan. The bounds published are the free solve's, which hold for all of them.
"""

from __future__ import annotations

from dataclasses import replace

from motley_planner.domain.demand import Demand, RlDemand
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assembly import Assembly

STILL_SHARE = 0.4  # of the time that the free solve leaves
FREE_SHARE = 0.45  # of the time limit; the rungs are small and share the rest
SERVICE_TOLERANCE = 0.01  # share of a service level that is no reason to move anything more
STEADY_SERVICE = 0.05  # the same when steady: headroom covers it, a reload would cost more
STEADY_PACE = 0.5  # share of their pace that jobs may lose before something moves, when steady
STEADY_GAIN = 0.25  # gain in service for which a steady fleet is rebuilt altogether
UNSERVED_SHARE = 1e-3  # of a resource's rate; above it the resource is short
LEAST_RUNG_S = 0.1  # a solve that the ladder left no time for
ROUNDING = 1e-6
PRICE_LEVEL = "price"


def solve_steadily(
    table: FleetTable, assembly: Assembly, snapshot: Snapshot, *, use_worker: bool
) -> Solution:
    """The solution to carry out; `no_solution` only where no solve found one."""
    if table.previous is None or not table.previous.replicas:
        return solve_table(table, use_worker=use_worker)
    limit_s = table.time_limit_s
    free = solve_table(replace(table, time_limit_s=limit_s * FREE_SHARE), use_worker=use_worker)
    spent_s, best = free.solve_seconds, None
    still: Solution | None = None
    if snapshot.edited:
        rung = _holding(table, assembly, frozenset())
        still = solve_table(
            replace(rung, time_limit_s=max(LEAST_RUNG_S, (limit_s - spent_s) * STILL_SHARE)),
            use_worker=use_worker,
        )
        spent_s += still.solve_seconds
    released: frozenset[str] | None = snapshot.edited
    while released is not None and spent_s < limit_s:
        rung = replace(_holding(table, assembly, released), time_limit_s=limit_s - spent_s)
        held = solve_table(rung, use_worker=use_worker)
        spent_s += held.solve_seconds
        if held.status == "no_solution":
            break
        better = best is None or not serves_as_much(best, held, snapshot, tolerant=False)
        if better and not (best is not None and _loses(held, best, snapshot)):
            best = held
        released = _next_rung(released, held, free, snapshot, assembly)
    if still is not None and _is_enough(still, best, assembly, snapshot):
        best = still
    if still is not None and best is not None and _loses(best, still, snapshot):
        best = still
    chosen = _chosen(best, free, snapshot)
    cooling = (snapshot.cooling - snapshot.edited) & _stopped(chosen, table, assembly)
    for_money = best is not None and _first_short(best, free, snapshot) is None
    if best is not None and chosen is free and for_money and cooling:
        rung = _holding(table, assembly, frozenset(d.key for d in snapshot.demands) - cooling)
        rung = replace(rung, time_limit_s=max(LEAST_RUNG_S, limit_s - spent_s))
        warm = solve_table(rung, use_worker=use_worker)
        spent_s += warm.solve_seconds
        saves = warm.status != "no_solution" and _chosen(best, warm, snapshot) is warm
        chosen = _with_bounds(warm if saves else best, free)
    return replace(chosen, solve_seconds=spent_s)


def _is_enough(
    still: Solution, best: Solution | None, assembly: Assembly, snapshot: Snapshot
) -> bool:
    """Whether a plan that stops nothing, not even of what was edited, is as good as the rung's.

    It is, if it serves as much and stopping would not save `min_improvement` of the price of what
    was edited.
    """
    if still.status == "no_solution":
        return False
    if best is None or not serves_as_much(still, best, snapshot, tolerant=False):
        return best is None
    candidates = assembly.candidates
    cost = sum(
        r.count * candidates[r.column].price_usd_per_hour
        for r in still.replicas
        if candidates[r.column].key in snapshot.edited
    )
    price, less = _price(still), _price(best)
    return price is None or less is None or less >= price - snapshot.min_improvement * cost - 1e-9


def _loses(one: Solution, other: Solution, snapshot: Snapshot) -> bool:
    """Whether `one` serves clearly less at any level, whatever it gains at a higher one.

    A search that is cut short may gain a hair at the first level and leave the others empty.
    """
    if one.status == "no_solution" or other.status == "no_solution":
        return one.status == "no_solution" and other.status != "no_solution"
    mine = {level.name: level.value or 0.0 for level in one.levels}
    for level in other.levels:
        rank = _rank_of_level(level)
        if rank is None or level.value is None:
            continue
        if mine.get(level.name, 0.0) < level.value - _slack(rank, snapshot) * abs(level.value):
            return True
    return False


def _stopped(solution: Solution, table: FleetTable, assembly: Assembly) -> frozenset[str]:
    """Resources of which the solution stops a replica."""
    assert table.previous is not None
    kept = {placed.kept for placed in solution.placement}
    stopped = (replica for replica in table.previous.replicas if replica.id not in kept)
    return frozenset(assembly.candidates[replica.column].key for replica in stopped)


def _chosen(held: Solution | None, free: Solution, snapshot: Snapshot) -> Solution:
    if held is None:
        return free
    if free.status == "no_solution":
        return held
    rank = _first_short(held, free, snapshot)
    if rank is not None:
        return (
            free if _serves_clearly_more(free, held, rank, snapshot) else _with_bounds(held, free)
        )
    cheaper = serves_as_much(free, held, snapshot, tolerant=False) and _saves(held, free, snapshot)
    cheaper = cheaper and not _loses(free, held, snapshot)
    return free if cheaper else _with_bounds(held, free)


def _next_rung(
    released: frozenset[str],
    held: Solution,
    free: Solution,
    snapshot: Snapshot,
    assembly: Assembly,
) -> frozenset[str] | None:
    """What may be moved next; None where nothing more would help."""
    rank = _first_short(held, free, snapshot)
    if rank is None:
        return None
    short = {d.key for d in _short(snapshot, assembly, held) if _rank(d) == rank}
    behind = [demand for demand in snapshot.demands if _rank(demand) < rank]
    jobs = {demand.key for demand in behind if isinstance(demand, RlDemand)}
    for more in (short, jobs, {demand.key for demand in behind}):
        if more - released:
            return released | more
    return None


def _first_short(one: Solution, other: Solution, snapshot: Snapshot) -> int | None:
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


def _serves_clearly_more(free: Solution, held: Solution, rank: int, snapshot: Snapshot) -> bool:
    """True where services gain enough to rebuild everything; a job's pace moves no service.

    A free plan that was cut short may serve one level in full and others hardly: it must lose no
    other level of service beyond the slack.
    """
    if rank % 2 == 0:
        return False
    gain = STEADY_GAIN if snapshot.steady else snapshot.min_improvement
    mine = {level.name: level.value or 0.0 for level in free.levels}
    theirs = {level.name: level.value or 0.0 for level in held.levels}
    name = f"goodput[{rank}]"
    for level, value in theirs.items():
        other = _rank_of_level(Level(level, None, None, None))
        if other is None or level == name:
            continue
        if mine.get(level, 0.0) < value - _slack(other, snapshot) * abs(value):
            return False
    return mine[name] > theirs[name] + gain * abs(mine[name])


def _slack(rank: int, snapshot: Snapshot) -> float:
    """How far a level may stay behind before more is moved; the pace of jobs may wait longest."""
    if rank % 2:
        return STEADY_SERVICE if snapshot.steady else SERVICE_TOLERANCE
    return STEADY_PACE if snapshot.steady else snapshot.min_improvement


def _rank_of_level(level: Level) -> int | None:
    """The table's priority that a level of service is about."""
    name, _, priority = level.name.partition("[")
    return int(priority.rstrip("]")) if name == "goodput" and priority else None


def _rank(demand: Demand) -> int:
    """The table's priority of a demand: services before jobs."""
    return 2 * demand.priority + (0 if isinstance(demand, RlDemand) else 1)


def _short(snapshot: Snapshot, assembly: Assembly, solution: Solution) -> tuple[Demand, ...]:
    """Resources that the solution does not serve in full."""
    unserved = solution.unserved or {}
    missing: dict[str, float] = {demand.key: 0.0 for demand in snapshot.demands}
    for name, rate in unserved.items():
        for demand in snapshot.demands:
            if name == demand.key or name.startswith(f"{demand.key}/"):
                asked = assembly.asked(demand)
                missing[demand.key] += rate / asked if asked else 0.0
    return tuple(d for d in snapshot.demands if missing[d.key] > UNSERVED_SHARE)


def _holding(table: FleetTable, assembly: Assembly, released: frozenset[str]) -> FleetTable:
    """The table in which what runs goes on where it runs, but for the released resources."""
    assert table.previous is not None
    held = frozenset(
        replica.id
        for replica in table.previous.replicas
        if assembly.candidates[replica.column].key not in released
    )
    return replace(table, held_replicas=held)


def serves_as_much(
    one: Solution, other: Solution, snapshot: Snapshot, *, tolerant: bool = True
) -> bool:
    """True if `one` serves at least what `other` does, level by level, within the tolerance."""
    if tolerant:
        return _first_short(one, other, snapshot) is None
    values = {level.name: level.value for level in other.levels}
    for level in one.levels:
        value, asked = level.value, values.get(level.name)
        if _rank_of_level(level) is None or value is None or asked is None:
            continue
        if abs(value - asked) > ROUNDING * max(1.0, abs(asked)):
            return value > asked
    return True


def _saves(held: Solution, free: Solution, snapshot: Snapshot) -> bool:
    """True if the free plan is cheaper by the improvement that moving must bring."""
    price, less = _price(held), _price(free)
    if price is None or less is None or snapshot.steady:
        return False
    return less < price - snapshot.min_improvement * abs(price) - 1e-9


def _price(solution: Solution) -> float | None:
    """USD/h with the price of moving."""
    return next((level.value for level in solution.levels if level.name == PRICE_LEVEL), None)


def _with_bounds(held: Solution, free: Solution) -> Solution:
    """The held plan beside the bounds of the problem in which everything may move."""
    bounds = {level.name: level.bound for level in free.levels}
    levels = tuple(
        _bounded(level, bounds.get(level.name)) for level in held.levels if level.name in bounds
    )
    whole = bool(levels) and all(level.gap is not None and level.gap <= 1e-3 for level in levels)
    first = levels[0] if levels else None
    return replace(
        held,
        status="optimal" if whole else "feasible",
        levels=levels,
        objective=first.value if first else held.objective,
        bound=first.bound if first else held.bound,
        gap=first.gap if first else held.gap,
    )


def _bounded(level: Level, bound: float | None) -> Level:
    if bound is None or level.value is None:
        return Level(level.name, level.value, None, None)
    gap = abs(bound - level.value) / max(1e-9, abs(level.value))
    return Level(level.name, level.value, bound, gap)
