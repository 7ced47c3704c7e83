"""Maximizes a list of levels in order, anytime: every step reports what it found at once.

Each level is searched (search.py); the value reached is then held as a row for the levels below.
At the end the integers are fixed and the levels are solved again as LPs, for clean rates.
"""

from __future__ import annotations

import numpy as np

from motley_planner.solver import highs
from motley_planner.solver.blocks import Structured, without_blocks
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.fills import Fills
from motley_planner.solver.job import Emit, Job, JobStatus, Report
from motley_planner.solver.level import search_level
from motley_planner.solver.milp import Floats, Level, Milp
from motley_planner.solver.refine import refine
from motley_planner.solver.relaxing import Limits, rounded
from motley_planner.solver.search import BETTER, Search
from motley_planner.solver.sifting import sift

POLISH_SLACK = 2e-9
FEASIBLE = 1e-6  # violation of a start's worst row
LEVEL_SHARE = 0.6  # of the time left, for a level that others follow
POLISH_SECONDS = 0.15  # beyond the deadline, still before the kill
LEVEL_SLACK = 1e-8  # well above the feasibility tolerance, or HiGHS prunes points on the edge


def solve_job(job: Job, emit: Emit) -> None:
    """Runs the levels and reports points, bounds and the end."""
    deadline = CLOCK.now() + job.time_limit_s
    if job.relaxation_only:
        _relax_first(job, emit, deadline)
        return
    state = _State(job, emit, deadline)
    if job.rates_only:
        state.take_start()
    else:
        for number, level in enumerate(job.levels):
            if not state.run_level(number, level):
                return
    state.polish()
    emit(Report(len(job.levels) - 1, status="solved" if state.x is not None else "none"))


def _relax_first(job: Job, emit: Emit, deadline: float) -> None:
    """The first level without integrality; duals of a program in blocks are of its shared rows."""
    if job.blocks is not None:
        found = sift(Structured(job.milp, job.blocks), job.levels[0].cost, deadline)
        if found.x is not None:
            emit(Report(0, x=found.x, bound=found.bound, duals=found.duals))
        emit(Report(0, status="solved" if found.x is not None else "none"))
        return
    run = highs.solve_lp(job.milp, job.levels[0].cost, deadline, strategy=highs.CHOOSE)
    if run.x is not None:
        emit(Report(0, x=run.x, bound=run.bound, duals=run.row_duals))
    ended: JobStatus = "solved" if run.x is not None else "none"
    emit(Report(0, status=ended))


class _State:
    """The incumbent and the rows that hold what earlier levels reached."""

    def __init__(self, job: Job, emit: Emit, deadline: float) -> None:
        self.job, self.emit, self.deadline = job, emit, deadline
        blocks = without_blocks() if job.blocks is None else job.blocks
        self.program = Structured(job.milp, blocks)
        self.relaxed = None if job.relaxed is None else Structured(job.relaxed, blocks)
        self.x: Floats | None = None
        self.fills: Fills | None = None

    def run_level(self, number: int, level: Level) -> bool:
        """Solves one level; False where the job ends here (infeasible, unbounded, no time)."""
        if self.x is None:
            self.take_start()
        starts = tuple(s for s in self.job.starts if self.program.milp.violation(s) <= FEASIBLE)
        now = CLOCK.now()
        last = number == len(self.job.levels) - 1
        deadline = now + (self.deadline - now) * (1.0 if last else LEVEL_SHARE)

        def report(x: Floats | None, bound: float | None, duals: Floats | None) -> None:
            self.emit(Report(number, x=x, bound=bound, duals=duals))

        limits = Limits(deadline, self.job.relative_gap, self.job.patience_s)
        search = Search(self.program, self.relaxed, level, limits, report)
        search_level(search, self.x, self.fills, starts, refine)
        self.x = search.x
        if self.x is None:
            ended = search.status in ("infeasible", "unbounded")
            self.emit(Report(number, status=search.status if ended else "none"))  # type: ignore[arg-type]
            return False
        if search.status == "unbounded":
            self.emit(Report(number, status="unbounded"))
            return False
        if search.relaxation is not None and search.relaxation.fills is not None:
            self.fills = search.relaxation.fills
        self._hold(level)
        return True

    def _hold(self, level: Level) -> None:
        assert self.x is not None
        self.program = self.program.with_milp(_held(self.program.milp, level, self.x))
        if self.relaxed is not None:
            self.relaxed = self.relaxed.with_milp(_held(self.relaxed.milp, level, self.x))

    def take_start(self) -> None:
        """The best start over all levels in order, once the rates of each are worked out.

        Starts come with rates that greed found: what runs would look as if it served less than it
        does, and a search that is cut short would leave it for something worse.
        """
        best = None
        for start in self.job.starts:
            if self.program.milp.violation(start) > FEASIBLE:
                continue
            point = self._with_best_rates(start)
            if best is None or self.job.values_of(point) > self.job.values_of(best):
                best = point
                self.emit(Report(0, x=best))
        self.x = best

    def polish(self) -> None:
        """Fixes the integers and solves the levels once more as LPs."""
        if self.x is not None:
            self.x = self._with_best_rates(self.x)
            self.emit(Report(len(self.job.levels) - 1, x=self.x))

    def _with_best_rates(self, x: Floats) -> Floats:
        """The point's integers, and for everything else the best of the levels in order."""
        program = Structured(self.job.milp, self.program.blocks)
        part = program.restrict(x[program.blocks.count] > 0.5)
        integer = part.milp.integer
        whole = np.round(part.take(x))
        lower = np.where(integer, whole, part.milp.col_lower)
        upper = np.where(integer, whole, part.milp.col_upper)
        fixed = part.milp.with_bounds(lower, upper)
        for level in self.job.levels:
            mine = Level(level.name, part.take(level.cost), level.constant)
            if not mine.cost[~integer].any():
                continue
            run = highs.solve_lp(fixed, mine.cost, self.deadline + POLISH_SECONDS)
            if run.x is None or run.value is None:
                break
            x = rounded(self.job.milp, part.expand(run.x))
            fixed = _held(fixed, mine, run.x, POLISH_SLACK)
        return x


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
