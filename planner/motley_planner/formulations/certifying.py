"""Certificates of a plan: the prices of the checker's relaxation at its optimum, level by level."""

from __future__ import annotations

import numpy as np

from motley_planner.checker.certificates import SCALE, held, weak_dual, whole_scale
from motley_planner.checker.relaxation import Relaxation, relax
from motley_planner.domain.certificate import Certificate
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.proving import Found, Proving, find_blocks
from motley_planner.solver import Job, Level, solve
from motley_planner.solver.clock import CLOCK

NEGLIGIBLE = 1e-12  # of the largest price


def certify(
    table: FleetTable, solution: Solution, time_limit_s: float, *, use_worker: bool = True
) -> tuple[Certificate, ...]:
    """A certificate for each level that one is found for in time.

    The bounds are the linear relaxation's: those that branching proved are closer, and have no
    certificate. Levels about scenarios have none, as the relaxation leaves scenarios out. Of an
    infeasible table it is the proof that the largest scale is below 1.
    """
    if solution.status == "no_solution":
        return ()
    if solution.status == "infeasible":
        relaxed = relax(whole_scale(table))
        scale = find_prices(relaxed, SCALE, find_blocks(relaxed), time_limit_s, use_worker)
        return (scale,) if scale is not None and scale.bound < 1.0 else ()
    deadline, found = CLOCK.now() + time_limit_s, list[Certificate]()
    whole = relax(table)
    blocks = find_blocks(whole)
    for level in solution.levels:
        left = deadline - CLOCK.now()
        if left <= 0.0:
            break
        relaxed = held(whole, solution.levels, level.name)
        if level.name in relaxed.levels and level.value is not None:
            one = find_prices(relaxed, level.name, blocks, left, use_worker)
            found += [one] if one is not None else []
    return tuple(found)


def find_prices(
    relaxed: Relaxation, level: str, blocks: Found, time_limit_s: float, use_worker: bool
) -> Certificate | None:
    """The prices of a level's limits at the optimum of a relaxation; None where none are found."""
    proving = Proving(relaxed, level, blocks)
    levels = (Level(level, proving.cost, proving.constant),)
    job = Job(
        proving.milp,
        levels,
        blocks=proving.blocks,
        time_limit_s=time_limit_s,
        relaxation_only=True,
    )
    duals = solve(job, use_worker=use_worker).duals
    if duals is None:
        return None
    found = proving.prices(duals)
    largest = max(map(abs, found.values()), default=0.0)
    prices = {name: price for name, price in found.items() if abs(price) > NEGLIGIBLE * largest}
    bound = weak_dual(relaxed, level, prices)
    if not np.isfinite(bound):
        return None
    return Certificate(level, -bound if level == "price" else bound, prices)
