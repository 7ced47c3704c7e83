"""Which plan is carried out: the one that holds what runs, or the free one, and with which bounds."""

from __future__ import annotations

from dataclasses import replace

from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, Solution
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.comparing import (
    first_short,
    loses,
    saves,
    serves_as_much,
    serves_clearly_more,
)
from motley_planner.planning.entitling import robs


def choose(
    held: Solution | None, free: Solution, assembly: Assembly, snapshot: Snapshot
) -> Solution:
    if held is None:
        return free
    if free.status == "no_solution":
        return held
    if robs(free, held, assembly, snapshot):
        return with_bounds(held, free)
    rank = first_short(held, free, snapshot)
    if rank is not None:
        return free if serves_clearly_more(free, held, rank, snapshot) else with_bounds(held, free)
    cheaper = serves_as_much(free, held, snapshot, tolerant=False) and saves(held, free, snapshot)
    cheaper = cheaper and not loses(free, held, snapshot)
    return free if cheaper else with_bounds(held, free)


def with_bounds(held: Solution, free: Solution) -> Solution:
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
