"""A plan and its bound held against enumeration, for tests of every kind of tiny table."""

from __future__ import annotations

import math

from motley_planner.checker import check
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.oracle import Unbounded, best_value

TOLERANCE = 1e-6


def compare(table: FleetTable) -> str:
    """What enumeration and the program agreed on, in a word.

    Raises: AssertionError where they do not agree, or the checker refuses the plan.
    """
    try:
        solution = solve_table(table, use_worker=False)
    except SnapshotError as error:
        if "unbounded" not in str(error):
            return "no demand"
        assert _is_unbounded(table), "said to be unbounded, and enumeration finds a best plan"
        return "unbounded"
    assert check(table, solution) == ()
    best = best_value(table)
    if best is None:
        assert solution.status == "infeasible"
        return "infeasible"
    found = [-(lv.value or 0.0) if lv.name == "price" else lv.value for lv in solution.levels]
    assert solution.status == "optimal"
    assert len(found) == len(best), (found, best)
    for mine, theirs in zip(found, best, strict=True):
        assert mine is not None, found
        near = math.isclose(mine, theirs, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        assert near, (found, best)
    return table.objective


def _is_unbounded(table: FleetTable) -> bool:
    try:
        best_value(table)
    except Unbounded:
        return True
    return False
