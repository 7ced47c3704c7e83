"""Whether to move what runs: only for more service, or for a price that is clearly lower.

Two solves of one table. The first holds every running replica and may only add: it is small, and
after the loss of a node it is the repair. The second may move anything. Its plan is taken if it
serves more, or if it is cheaper by `min_improvement` of the held plan's price, moving included.
Otherwise the held plan stands, with the second solve's bounds, which hold for both.

So a solver that stops early never reshuffles a fleet for its own noise: the same facts again give
the same plan.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, Solution
from motley_planner.domain.table import FleetTable, SideRow
from motley_planner.formulations.fleet import solve_table

HELD_SHARE = 0.4  # of the time limit; held programs are small
SERVICE_TOLERANCE = 1e-3  # of a service level: less is no reason to move anything
PRICE_LEVEL = "price"


def solve_steadily(table: FleetTable, snapshot: Snapshot, *, use_worker: bool) -> Solution:
    """The solution to carry out; `no_solution` only where neither solve found one."""
    if table.previous is None or not table.previous.replicas:
        return solve_table(table, use_worker=use_worker)
    limit = table.time_limit_s
    held = solve_table(_holding(table, limit * HELD_SHARE), use_worker=use_worker)
    left_s = max(limit - held.solve_seconds, limit * (1.0 - HELD_SHARE))
    free = solve_table(replace(table, time_limit_s=left_s), use_worker=use_worker)
    if held.status == "no_solution":
        return free
    if free.status != "no_solution" and is_worth_moving(held, free, snapshot.min_improvement):
        return free
    return _with_bounds(held, free)


def _holding(table: FleetTable, time_limit_s: float) -> FleetTable:
    """The table with as many replicas of each column as now, at least."""
    assert table.previous is not None
    running = Counter(replica.column for replica in table.previous.replicas)
    rows = [
        SideRow(f"hold|{column}", {column: 1.0}, at_least=float(count))
        for column, count in running.items()
    ]
    return replace(table, side_rows=(*table.side_rows, *rows), time_limit_s=time_limit_s)


def is_worth_moving(held: Solution, free: Solution, min_improvement: float) -> bool:
    """True if the free plan serves more, or serves as much for clearly less money."""
    new = {level.name: level.value for level in free.levels}
    for level in held.levels:
        value, other = level.value, new.get(level.name)
        if value is None or other is None or not level.name.startswith(("goodput", PRICE_LEVEL)):
            continue
        if level.name == PRICE_LEVEL:
            return other < value - min_improvement * abs(value) - 1e-9
        if abs(other - value) > SERVICE_TOLERANCE * max(1.0, abs(value)):
            return other > value
    return False


def _with_bounds(held: Solution, free: Solution) -> Solution:
    """The held plan beside the bounds of the problem in which everything may move."""
    bounds = {level.name: level.bound for level in free.levels}
    levels = tuple(
        _bounded(level, bounds.get(level.name))
        for level in held.levels
        if level.name in bounds or level.name != "minimums"
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
        solve_seconds=held.solve_seconds + free.solve_seconds,
    )


def _bounded(level: Level, bound: float | None) -> Level:
    if bound is None or level.value is None:
        return Level(level.name, level.value, None, None)
    gap = abs(bound - level.value) / max(1e-9, abs(level.value))
    return Level(level.name, level.value, bound, gap)
