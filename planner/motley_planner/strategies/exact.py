"""The exact planner under its strategy name."""

from __future__ import annotations

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table


def solve(table: FleetTable) -> Solution:
    """The best plan found by the one MILP, with bound and gap."""
    return solve_table(table)
