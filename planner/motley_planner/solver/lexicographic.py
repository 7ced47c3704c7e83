"""Maximizes a list of levels in order, anytime: every step reports what it found at once.

For each level: LP relaxation (bound, duals) -> on large programs a MIP on the columns the LP
prices best, in a box around the LP point -> MIP on everything that can still be better -> a short
try to close the last gap. The value reached is then held as a row for the levels below.
At the end the integers are fixed and the levels are solved again as LPs, for clean rates.
"""

from __future__ import annotations

import time

import numpy as np

from motley_planner.solver import highs
from motley_planner.solver.job import Emit, Job, Report
from motley_planner.solver.milp import Floats, Level, Milp

LARGE_INTEGERS = 300  # above this the LP-guided restriction comes before the full MIP
POLISH_SLACK = 2e-9
BETTER = 1e-9  # less is rounding, and no reason to leave what runs
BOX_SHARE = 0.35  # of the time left, for the restricted MIP
TIGHT_GAP = 1e-9
TIGHT_SECONDS = 0.3  # what closing the last gap may cost
LEVEL_SHARE = 0.6  # of the time left, for a level that others follow
POLISH_SECONDS = 0.15  # beyond the deadline, still before the kill
LEVEL_SLACK = 1e-8  # well above the feasibility tolerance, or HiGHS prunes points on the edge


def solve_job(job: Job, emit: Emit) -> None:
    """Runs the levels and reports points, bounds and the end."""
    deadline = time.monotonic() + job.time_limit_s
    state = _State(job, emit, deadline)
    for number, level in enumerate(job.levels):
        if not state.run_level(number, level):
            return
    state.polish()
    emit(Report(len(job.levels) - 1, status="solved" if state.x is not None else "none"))


class _State:
    """The incumbent and the rows that hold what earlier levels reached."""

    def __init__(self, job: Job, emit: Emit, deadline: float) -> None:
        self.job, self.emit = job, emit
        self.deadline = self.final_deadline = deadline
        self.milp, self.relaxed = job.milp, job.relaxed
        self.x: Floats | None = None
        self.value = -np.inf
        self.lp: highs.Run | None = None

    def run_level(self, number: int, level: Level) -> bool:
        """Solves one level; False where the job ends here (infeasible, unbounded, no time)."""
        left = self.final_deadline - time.monotonic()
        last = number == len(self.job.levels) - 1
        self.deadline = time.monotonic() + left * (1.0 if last else LEVEL_SHARE)
        self._take_start(level)
        proved = self._is_highest(number, level)
        if not proved:
            best_bound = self._relax(number, level)
            if best_bound is None:
                return False
            if self.job.milp.integer.any():
                self._round(number, level)
            proved = self._search(number, level, best_bound)
        if self.x is None:
            status = "infeasible" if proved and self.relaxed is None else "none"
            self.emit(Report(number, status=status))  # type: ignore[arg-type]
            return False
        self.milp = _held(self.milp, level, self.x)
        if self.relaxed is not None:
            self.relaxed = _held(self.relaxed, level, self.x)
        return True

    def _is_highest(self, number: int, level: Level) -> bool:
        """Whether the incumbent is as good as variable bounds alone allow: no LP is needed then."""
        best = np.where(level.cost > 0, self.milp.col_upper, self.milp.col_lower)
        (counted,) = np.nonzero(level.cost)
        highest = float(level.cost[counted] @ best[counted]) + level.constant
        if self.x is None or not np.isfinite(highest):
            return False
        if highest - self.value > BETTER * max(1.0, abs(highest)):
            return False
        self.emit(Report(number, bound=highest))
        return True

    def _take_start(self, level: Level) -> None:
        if self.x is not None:
            self.value = level.value_of(self.x)
            return
        for start in self.job.starts:
            value = level.value_of(start)
            if self.milp.violation(start) <= 1e-6 and value > self.value:
                self.x, self.value = start, value
        if self.x is not None:
            self.emit(Report(0, x=self.x))

    def _complete(self, number: int, level: Level, point: Floats) -> None:
        """Offers the best point with the integers of `point`, if there is one."""
        whole = np.where(self.milp.integer, np.round(point), 0.0)
        lower = np.where(self.milp.integer, whole, self.milp.col_lower)
        upper = np.where(self.milp.integer, whole, self.milp.col_upper)
        if (lower > self.milp.col_upper).any() or (upper < self.milp.col_lower).any():
            return
        run = highs.solve_lp(self.milp.with_bounds(lower, upper), level.cost, self.deadline)
        if run.x is not None:
            self._offer(number, level, run.x)

    def _round(self, number: int, level: Level) -> None:
        """First points on a new level: the incumbent with better rates, the LP rounded."""
        if self.x is not None:
            self._complete(number, level, self.x)
        if self.lp is not None and self.lp.x is not None:
            for shift in (1e-6, 0.5, 1.0 - 1e-6):
                self._complete(number, level, np.floor(self.lp.x + shift))

    def _relax(self, number: int, level: Level) -> float | None:
        self.lp = None
        lp = highs.solve_lp(self.relaxed or self.milp, level.cost, self.deadline)
        if lp.status in ("infeasible", "unbounded"):
            if self.x is not None and lp.status == "infeasible":
                return np.inf  # within tolerances only: the incumbent shows otherwise
            self.emit(Report(number, status=lp.status))  # type: ignore[arg-type]
            return None
        if lp.bound is None:
            return np.inf
        self.emit(Report(number, bound=lp.bound + level.constant, duals=lp.row_duals))
        self.lp = lp
        return lp.bound + level.constant

    def _search(self, number: int, level: Level, bound: float) -> bool:
        """Improves the incumbent; True where the full MIP was searched to its end."""
        if self._gap(level, bound) <= TIGHT_GAP:
            return True
        if int(self.milp.integer.sum()) > LARGE_INTEGERS and self.lp is not None:
            share = (self.deadline - time.monotonic()) * BOX_SHARE
            box = _box(self.milp, self.lp, self.x)
            self._mip(number, level, box, time.monotonic() + share, self.job.relative_gap)
        if self._gap(level, bound) <= self.job.relative_gap:
            return True
        run = self._mip(number, level, self.milp, self.deadline, self.job.relative_gap / 2)
        bound = self._tighten(number, level, run, bound)
        if self.x is not None and TIGHT_GAP < self._gap(level, bound):
            limit = min(self.deadline, time.monotonic() + TIGHT_SECONDS)
            again = self._mip(number, level, self.milp, limit, TIGHT_GAP)
            self._tighten(number, level, again, bound)
        return run.status in ("optimal", "infeasible")

    def _tighten(self, number: int, level: Level, run: highs.Run, bound: float) -> float:
        if run.bound is None or self.relaxed is not None:
            return bound
        found = run.bound + level.constant
        self.emit(Report(number, bound=max(found, self.value)))
        return min(bound, max(found, self.value))

    def _gap(self, level: Level, bound: float) -> float:
        if self.x is None:
            return np.inf
        return max(0.0, bound - self.value) / max(1e-9, abs(self.value))

    def _mip(self, number: int, level: Level, milp: Milp, deadline: float, gap: float) -> highs.Run:
        def on_point(x: Floats, value: float) -> None:
            self._offer(number, level, x)

        limits = highs.MipLimits(min(deadline, self.deadline), gap)
        run = highs.solve_mip(milp, level.cost, limits, on_point)
        if run.x is not None:
            self._offer(number, level, run.x)
        return run

    def _offer(self, number: int, level: Level, x: Floats) -> None:
        value = level.value_of(x)
        if self.x is None or value > self.value + BETTER * max(1.0, abs(self.value)):
            self.x, self.value = _rounded(self.milp, x), value
            self.emit(Report(number, x=self.x))

    def polish(self) -> None:
        """Fixes the integers and solves the levels once more as LPs."""
        if self.x is None:
            return
        whole = np.round(self.x)
        integer = self.job.milp.integer
        lower = np.where(integer, whole, self.job.milp.col_lower)
        upper = np.where(integer, whole, self.job.milp.col_upper)
        fixed = self.job.milp.with_bounds(lower, upper)
        for number, level in enumerate(self.job.levels):
            if not level.cost[~integer].any():
                continue
            run = highs.solve_lp(fixed, level.cost, self.final_deadline + POLISH_SECONDS)
            if run.x is None or run.value is None:
                return
            self.x = run.x
            self.emit(Report(number, x=_rounded(self.job.milp, run.x)))
            fixed = _held(fixed, level, run.x, POLISH_SLACK)


def _held(milp: Milp, level: Level, x: Floats, slack: float = LEVEL_SLACK) -> Milp:
    """The program with a level kept at what `x` reaches.

    Where the level is as high as its variables' upper bounds allow, those at their bound are held
    there: a slack on the sum could hide a whole class whose demand is tiny beside the others'.
    """
    (counted,) = np.nonzero(level.cost)
    upper = milp.col_upper[counted]
    if (level.cost[counted] > 0).all() and np.isfinite(upper).all():
        missing = upper - x[counted]
        if float(level.cost[counted] @ missing) <= BETTER:
            lower = milp.col_lower.copy()
            full = counted[missing <= BETTER]
            lower[full] = milp.col_upper[full]
            return milp.with_bounds(lower, milp.col_upper)
    reached = float(level.cost @ x)
    return milp.with_row(level.cost, reached - slack * max(1.0, abs(reached)), np.inf)


def _rounded(milp: Milp, x: Floats) -> Floats:
    return np.where(milp.integer, np.round(x), x)


def _box(milp: Milp, lp: highs.Run, start: Floats | None) -> Milp:
    """Integers within [floor - 1, ceil + 2] of the LP point; those the LP leaves at 0 stay there."""
    assert lp.x is not None
    used = milp.integer & (lp.x > 1e-7)
    lower = np.where(used, np.maximum(milp.col_lower, np.floor(lp.x) - 1), milp.col_lower)
    top = np.where(used, np.ceil(lp.x - 1e-9) + 2, np.maximum(milp.col_lower, 0.0))
    if start is not None:
        lower, top = np.minimum(lower, start), np.maximum(top, start)
    upper = np.where(milp.integer, np.minimum(milp.col_upper, top), milp.col_upper)
    return milp.with_bounds(np.where(milp.integer, lower, milp.col_lower), upper)
