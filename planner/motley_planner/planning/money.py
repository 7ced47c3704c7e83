"""What may move for money alone: not what cools down, and few replicas at a time.

Resources that cool down from their last change, or ask for more than what would be saved, are not
moved for money: where the free plan would, one more solve releases everything but them. Nor is one that would
hardly become cheaper itself, if as much is saved without it: the plan that holds what runs may be dear for another
reason, such as a search in a hurry for what is new.

Nor are more replicas stopped for money within one cooldown of the whole fleet than a quarter, where the
snapshot says how many were: of a free plan that stops more, the moves that save most come first, and the
rest waits (`more_to_save`; the caller asks again). What a person asks or approves has no such bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.choosing import choose, with_bounds
from motley_planner.planning.comparing import loses, price_of, serves_as_much
from motley_planner.planning.entitling import robs
from motley_planner.planning.survivors import (
    edited_units,
    every_key,
    holding_but,
    most_saved,
    stopped_keys,
    stops,
)

LEAST_SOLVE_S = 0.1  # where the time is up


def for_money(
    table: FleetTable,
    assembly: Assembly,
    snapshot: Snapshot,
    plans: tuple[Solution, Solution],
    use_worker: bool,
) -> tuple[Solution, float]:
    """What of the free plan is carried out, which serves as much for less; and the seconds it took.

    Not of resources that cool down. Where it stops more than may be stopped at once, a step towards it:
    the moves that save most, each as much as its share of all stops must.
    """
    best, free = plans
    stopped = stopped_keys(free, table, assembly)
    cooling = (snapshot.cooling & stopped) | _reluctant(stopped, best, free, snapshot)
    idle = _hardly_cheaper(stopped, plans, table, assembly, snapshot)
    goal, spent_s = None, 0.0
    for held in dict.fromkeys((cooling | idle, cooling)):
        rung = holding_but(table, assembly, every_key(snapshot) - (held - snapshot.edited))
        goal = free
        if held - snapshot.edited:
            timed = replace(rung, time_limit_s=max(LEAST_SOLVE_S, table.time_limit_s - spent_s))
            goal = solve_table(timed, use_worker=use_worker)
            spent_s += goal.solve_seconds
        found = goal.status != "no_solution"
        if goal is free or (found and choose(best, goal, assembly, snapshot) is goal):
            break
        goal = None
    if goal is None:
        return with_bounds(best, free), spent_s
    wanted, at_once = stops(goal, table, assembly, snapshot), most_saved(table)
    if snapshot.moved_lately is None:
        at_once = wanted
    most = max(0, at_once - (snapshot.moved_lately or 0))
    if wanted <= most:
        return _saving(goal, free, table, assembly, snapshot), spent_s
    if most == 0:
        return replace(with_bounds(best, free), more_to_save=True), spent_s
    timed = replace(
        rung,
        most_stopped=len(edited_units(table, assembly, snapshot)) + most,
        start=best.placement,
        time_limit_s=max(LEAST_SOLVE_S, table.time_limit_s - spent_s),
    )
    step = solve_table(timed, use_worker=use_worker)
    spent_s += step.solve_seconds
    moved = stops(step, table, assembly, snapshot)
    if moved <= most and _is_step(best, step, moved / wanted, assembly, snapshot):
        step = _saving(step, free, table, assembly, snapshot)
        return replace(step, more_to_save=True), spent_s
    # Later, where more may be stopped, a larger step may pay; or one that leaves alone what was edited now.
    later = most < at_once or moved > most
    return replace(with_bounds(best, free), more_to_save=later), spent_s


def _is_step(
    best: Solution, step: Solution, share: float, assembly: Assembly, snapshot: Snapshot
) -> bool:
    """Whether a step serves as much as what is held and saves its share of the least improvement."""
    price, less = price_of(best), price_of(step)
    if price is None or less is None or loses(step, best, snapshot):
        return False
    if less >= price - share * snapshot.min_improvement * abs(price) - 1e-9:
        return False
    serves = serves_as_much(step, best, snapshot, tolerant=False)
    return serves and not robs(step, best, assembly, snapshot)


def _saving(
    plan: Solution,
    free: Solution,
    table: FleetTable,
    assembly: Assembly,
    snapshot: Snapshot,
) -> Solution:
    """The plan with the free one's bounds, and with what it stops for money."""
    keys = stopped_keys(plan, table, assembly) - snapshot.edited
    told = plan if plan is free else with_bounds(plan, free)
    return replace(told, saving=keys)


def _hardly_cheaper(
    stopped: frozenset[str],
    plans: tuple[Solution, Solution],
    table: FleetTable,
    assembly: Assembly,
    snapshot: Snapshot,
) -> frozenset[str]:
    """Resources whose own replicas cost hardly less in the second plan; none where nodes are billed."""
    each = {column.id: column.price_usd_per_hour for column in table.columns}
    before, after = (_prices(plan, each, assembly) for plan in plans)
    least = 1.0 - snapshot.min_improvement
    return frozenset(key for key in stopped if after[key] > least * before[key] > 0.0)


def _prices(
    plan: Solution, each: Mapping[str, float], assembly: Assembly
) -> defaultdict[str, float]:
    """USD/h of the replicas that each resource has in a plan, by what a column's cost."""
    prices: defaultdict[str, float] = defaultdict(float)
    for placed in plan.placement:
        prices[assembly.candidates[placed.column].key] += each[placed.column]
    return prices


def _reluctant(
    stopped: frozenset[str], held: Solution | None, free: Solution, snapshot: Snapshot
) -> frozenset[str]:
    """Resources that move only for more than the free plan saves."""
    before, after = (price_of(held) if held is not None else None), price_of(free)
    if not before or after is None:
        return frozenset()
    saved = 1.0 - after / before
    return frozenset(key for key in stopped if snapshot.improvements.get(key, 0.0) > saved)
