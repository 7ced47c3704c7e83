"""HiGHS behind one function, for all but those that keep an LP warm and ask it again.

Facts that shaped it (highspy 1.15): `threads` is kept from the first solve of a process, so it is 1
everywhere; `time_limit` is wall time and is kept; callback interrupts are not polled during root
work, so a hard stop is a process kill (worker.py); `primal_solution_status == 2` is the test for
"has a point"; a start given by setSolution made it prove wrong optima after presolve (1.15.1, found
by enumeration), so none is given and the caller keeps the better point; the default `mip_rel_gap` of 1e-4 stops early, so gaps are always set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np

from motley_planner.solver.clock import CLOCK
from motley_planner.solver.milp import Floats, Milp

_HAS_POINT = 2
_COLWISE = 1
_MAXIMIZE = -1
CHOOSE, DUAL = 0, 1  # simplex_strategy
FEASIBILITY_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Run:
    """What one HiGHS run gave; `bound` is an upper bound on the maximum."""

    status: str  # optimal | infeasible | unbounded | limit | error
    x: Floats | None = None
    value: float | None = None
    bound: float | None = None
    row_duals: Floats | None = None
    reduced_costs: Floats | None = None


@dataclass(frozen=True, slots=True)
class MipLimits:
    """When a MIP run may stop."""

    deadline: float
    relative_gap: float
    target: float = np.inf  # a value that is good enough
    unwanted: Callable[[], bool] | None = None  # says, when asked now and then, that it may end


def solve_lp(milp: Milp, cost: Floats, deadline: float, strategy: int = DUAL) -> Run:
    """The linear relaxation's optimum with duals, by dual simplex or as HiGHS chooses."""
    if not milp.num_cols:
        return _without_variables(milp)
    highs = load(milp, cost, relax=True)
    highs.setOptionValue("simplex_strategy", strategy)
    if not set_time(highs, deadline):
        return Run("limit")
    highs.run()
    if highs.getModelStatus() == highspy.HighsModelStatus.kUnboundedOrInfeasible:
        highs.setOptionValue("presolve", "off")
        set_time(highs, deadline)
        highs.run()
    status = status_of(highs)
    if status != "optimal":
        return Run(status)
    solution, value = highs.getSolution(), highs.getInfo().objective_function_value
    x = _point(solution.col_value)
    if x is None:
        return Run("error")
    return Run(
        status,
        x,
        value,
        value,
        np.asarray(solution.row_dual),
        np.asarray(solution.col_dual),
    )


def solve_mip(
    milp: Milp,
    cost: Floats,
    limits: MipLimits,
    on_point: Callable[[Floats, float], None] | None = None,
) -> Run:
    """The best integer point found before the deadline, and a bound on all of them.

    `on_point` sees each better point and its value as soon as it is found.
    """
    if not milp.num_cols:
        return _without_variables(milp)
    highs = load(milp, cost, relax=False)
    if not set_time(highs, limits.deadline):
        return Run("limit")
    highs.setOptionValue("mip_rel_gap", limits.relative_gap)
    highs.setOptionValue("mip_abs_gap", 1e-10)
    if np.isfinite(limits.target):
        highs.setOptionValue("objective_target", limits.target)
    if on_point is not None:
        _subscribe(highs, on_point)
    if limits.unwanted is not None:
        _ask(highs, limits.unwanted)
    highs.run()
    info = highs.getInfo()
    status = status_of(highs)
    bound = float(info.mip_dual_bound)
    has_point = info.primal_solution_status == _HAS_POINT
    x = _point(highs.getSolution().col_value) if has_point else None
    return Run(
        status,
        x,
        float(info.objective_function_value) if x is not None else None,
        bound if np.isfinite(bound) and status in ("optimal", "limit") else None,
    )


def _without_variables(milp: Milp) -> Run:
    if milp.violation(np.zeros(0)) > FEASIBILITY_TOLERANCE:
        return Run("infeasible")
    return Run("optimal", np.zeros(0), 0.0, 0.0, np.zeros(milp.num_rows), np.zeros(0))


def _point(values: Any) -> Floats | None:
    """A copy of the values; None where HiGHS gives numbers that are none."""
    x = np.array(values, dtype=np.float64)
    return x if np.isfinite(x).all() else None


def _subscribe(highs: Any, on_point: Callable[[Floats, float], None]) -> None:
    def improved(event: Any) -> None:
        point = _point(event.data_out.mip_solution)
        if point is not None:
            on_point(point, float(event.data_out.objective_function_value))

    highs.cbMipImprovingSolution += improved


def _ask(highs: Any, unwanted: Callable[[], bool]) -> None:
    def asked(event: Any) -> None:
        if unwanted():
            event.interrupt()

    highs.cbMipInterrupt += asked


def load(milp: Milp, cost: Floats, *, relax: bool) -> Any:
    """A HiGHS instance with the program, to be maximized."""
    highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (
        ("output_flag", False),
        ("threads", 1),
        ("random_seed", 0),
        ("primal_feasibility_tolerance", FEASIBILITY_TOLERANCE),
        ("mip_feasibility_tolerance", 1e-7),
    ):
        highs.setOptionValue(option, value)
    integrality = np.zeros(milp.num_cols, np.int32) if relax else milp.integer.astype(np.int32)
    highs.passModel(
        milp.num_cols,
        milp.num_rows,
        len(milp.value),
        _COLWISE,
        _MAXIMIZE,
        0.0,
        np.ascontiguousarray(cost, dtype=np.float64),
        milp.col_lower,
        milp.col_upper,
        milp.row_lower,
        milp.row_upper,
        milp.start,
        milp.index,
        milp.value,
        integrality,
    )
    return highs


def set_time(highs: Any, deadline: float) -> bool:
    """Sets the time limit; False where none is left."""
    left = deadline - CLOCK.now()
    if left <= 0:
        return False
    highs.setOptionValue("time_limit", CLOCK.wall_s(left) + float(highs.getRunTime()))
    return True


def status_of(highs: Any) -> str:
    """The last run's end: optimal | infeasible | unbounded | limit | error."""
    status = highs.getModelStatus()
    known = highspy.HighsModelStatus
    return {
        known.kOptimal: "optimal",
        known.kModelEmpty: "optimal",
        known.kInfeasible: "infeasible",
        known.kUnbounded: "unbounded",
        known.kUnboundedOrInfeasible: "unbounded",
        known.kTimeLimit: "limit",
        known.kInterrupt: "limit",
        known.kSolutionLimit: "limit",
        known.kObjectiveTarget: "limit",
    }.get(status, "error")
