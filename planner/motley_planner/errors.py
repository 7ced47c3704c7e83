"""Every exception the planner can raise.

    MotleyError
    ├─ CalledOff          whoever asked for a plan does not want it any more
    └─ PlannerError
       ├─ CatalogError    a data file is wrong: file, field, rule
       ├─ SnapshotError   the input contradicts itself; a table or a snapshot that cannot be
       └─ SolverError     no incumbent: carries HiGHS status, limits, problem size

Infeasible demand is not an exception: a plan lists what it could not serve as shortfalls.
"""

from __future__ import annotations


class MotleyError(Exception):
    """The root of every error that Motley raises on purpose."""


class CalledOff(MotleyError):
    """The plan is not wanted any more; no fault of anybody, so no PlannerError."""


class PlannerError(MotleyError):
    """Something the planner cannot go on with."""


class CatalogError(PlannerError):
    """A catalog data file breaks a rule."""

    def __init__(self, file: str, field: str, rule: str) -> None:
        super().__init__(f"{file}: {field}: {rule}")
        self.file, self.field, self.rule = file, field, rule


class SnapshotError(PlannerError):
    """An input that contradicts itself; `entry` names the place, `rule` the fix."""

    def __init__(self, entry: str, rule: str) -> None:
        super().__init__(f"{entry}: {rule}")
        self.entry, self.rule = entry, rule


class SolverError(PlannerError):
    """The solver had no plan in time."""

    def __init__(self, solver_status: str, time_limit_s: float, columns: int, rows: int) -> None:
        super().__init__(
            f"no plan within {time_limit_s:g} s (solver status {solver_status}, "
            f"{columns} columns, {rows} rows); raise the time limit"
        )
        self.solver_status, self.time_limit_s = solver_status, time_limit_s
        self.columns, self.rows = columns, rows
