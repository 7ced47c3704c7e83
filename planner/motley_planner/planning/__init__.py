"""The front door of the planner: `plan(snapshot) -> Plan`.

    snapshot ─assemble→ FleetTable ─solve_table→ Solution ─slices→ Plan

`assemble` lists the candidates of every resource and turns budgets, quotas and job gangs into rows
of one table; `slices` reads the solution back into one slice for each resource; `refusals` says what
is missing and what would lift it.
"""

from __future__ import annotations

from motley_planner.planning.assembly import forget_others
from motley_planner.planning.front import plan

__all__ = ["forget_others", "plan"]
