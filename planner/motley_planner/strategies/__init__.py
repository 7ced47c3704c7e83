"""Every published scheduler as a named strategy on the same fleet table as the exact planner."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.strategies.listing import STRATEGIES, StrategyInfo

__all__ = ["STRATEGIES", "StrategyInfo", "run"]


def run(name: str, table: FleetTable) -> Solution:
    """The plan that a named strategy makes for a table within the table's time limit.

    Only `exact` proves bounds; other plans are `feasible`, or `no_solution` where the strategy
    found none (which proves nothing about the table).

    Raises: SnapshotError for an unknown name, a table the strategy does not apply to (it names what
    is missing), or a table that contradicts itself.
    """
    info = next((s for s in STRATEGIES if s.name == name), None)
    if info is None:
        known = ", ".join(s.name for s in STRATEGIES)
        raise SnapshotError("strategy", f"unknown strategy {name!r}; use one of {known}")
    from motley_planner.formulations.normalizing import in_proportion, restored  # numpy with it

    started = time.monotonic()
    module = import_module(f"motley_planner.strategies.{info.module}")
    solved = table if name == "exact" else in_proportion(table)  # exact does it by itself
    solution: Solution = restored(module.solve(solved), table, solved)
    return replace(solution, solve_seconds=time.monotonic() - started)
