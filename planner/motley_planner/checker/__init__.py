"""Checks any plan against its table, without a solver.

`check(table, solution)` gives every complaint in words; an empty tuple means that the plan is one
the table allows and that its figures are what they say. It shares no code with the formulations.
"""

from motley_planner.checker.front import check

__all__ = ["check"]
