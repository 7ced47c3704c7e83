"""Benders decomposition of a level over its counts: how a re-plan finds a good plan at once.

With every integer z fixed a level is a linear program, a fraction of a millisecond when solved warm.
Its optimum f(z) is concave in z, so the duals d at one point bound it at every other:

    f(z') <= f(z) + d (z' - z)

The *master* is an integer program of the counts and the rows of integers alone that maximizes the
least of the bounds so far. It proposes counts, their linear program judges them and adds a bound.
Where a max_min fleet may change little (a few survivors stop, a few replicas start) three to ten bounds are
enough, roughly one for each model that can become the slowest, and the master has a third of the
variables of the whole program: it is past its root node before that one has a good point.

Source: Benders, Numerische Mathematik 4 (1962) 238; here optimality cuts alone. A point at which the
linear program is infeasible ends the decomposition.
"""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np

from motley_planner.solver import highs
from motley_planner.solver.blocks import Part
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.milp import Bools, Floats, Level, Milp
from motley_planner.solver.search import Search

MOST_COUNTS = 600  # integers of a master; beyond, bounds of single points say too little
MASTER_GAP = 5e-4
KEPT = 0.5  # of what a point promises to be better; where it keeps less, the master begins anew
AGREES = 1e-6  # relative; a point judged so close to its bound adds nothing
MOST_ROUNDS = 60


def is_least_of_many(milp: Milp, level: Level) -> bool:
    """Whether a level is one scale that everything must reach, beside what counts cost.

    Sums over many demands need a bound for each way of sharing the fleet, which is too many: of
    goodput and prices the decomposition found nothing that the whole program did not.
    """
    return int(np.count_nonzero(level.cost[~milp.integer])) == 1


def decompose(search: Search, chosen: Bools, deadline: float, known: list[Floats]) -> None:
    """Improves the incumbent with counts of the chosen blocks and the core; its points are offered.

    `known` are points that were judged before; what is judged here is added to them.
    """
    if search.x is None:
        return
    counts = _Counts(search, chosen)
    if len(counts.whole) > MOST_COUNTS:
        return
    for point in [search.x, *known]:
        if counts.judge(counts.of(point)) is None:
            return
    for _ in range(MOST_ROUNDS):
        if CLOCK.now() >= deadline or search.done() or not counts.propose(deadline):
            break
    known[:] = counts.judged


class _Counts:
    """The integers of a part, their master, and the linear program that judges them."""

    def __init__(self, search: Search, chosen: Bools) -> None:
        self.search = search
        self.judged: list[Floats] = []
        self.part = search.program.restrict(chosen)
        milp = self.part.milp
        self.whole = np.flatnonzero(milp.integer).astype(np.int32)
        self.lp: Any = highs.load(milp, self.part.take(search.level.cost), relax=True)
        self.lp.setOptionValue("presolve", "off")
        self.lp.setOptionValue("simplex_strategy", highs.DUAL)
        self.master = self._rows_of_counts(milp)
        self.solvable, self.news, self.misled = True, False, False

    def _rows_of_counts(self, milp: Milp) -> Milp:
        """The counts with the rows that touch nothing else, and one variable for the level."""
        mixed = np.zeros(milp.num_rows, dtype=np.bool_)
        owner = np.repeat(np.arange(milp.num_cols), np.diff(milp.start))
        mixed[milp.index[~milp.integer[owner]]] = True
        counts = Part(milp, self.whole, np.flatnonzero(~mixed).astype(np.int32)).milp
        return counts.with_column(-np.inf, self.search.bound - self.search.level.constant)

    def of(self, point: Floats) -> Floats:
        """The integers of a point of the whole program."""
        return np.asarray(np.round(self.part.take(point)[self.whole]))

    def judge(self, counts: Floats) -> float | None:
        """The level at the best rates for these counts; adds a bound. None where there is none."""
        search = self.search
        self.lp.changeColsBounds(len(self.whole), self.whole, counts, counts)
        if not highs.set_time(self.lp, search.limits.deadline):
            return None
        self.lp.run()
        if self.lp.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            self.solvable = False
            return None
        solution = self.lp.getSolution()
        value = float(self.lp.getInfo().objective_function_value)
        duals = np.asarray(solution.col_dual)[self.whole]
        row = np.append(-duals, 1.0)
        self.master = self.master.with_row(row, -np.inf, value - float(duals @ counts))
        point = self.part.expand(np.asarray(solution.col_value))
        self.judged.append(point)
        search.offer(point)
        return value

    def propose(self, deadline: float) -> bool:
        """Judges what the master makes of the bounds; False where nothing better is left in it."""
        cost = np.zeros(self.master.num_cols)
        cost[-1] = 1.0
        self.news = self.misled = False
        limits = highs.MipLimits(deadline, MASTER_GAP, unwanted=self._ends)
        run = highs.solve_mip(self.master, cost, limits, self._see)
        if run.x is not None:
            self._see(run.x, float(run.x[-1]))
        return self.solvable and (self.news or run.status == "limit")

    def _ends(self) -> bool:
        """Whether the master needs a new bound, or nothing more is expected of the search."""
        return self.misled or self.search.done()

    def _see(self, x: Floats, promised: float) -> None:
        """Judges a point of the master that promises to be better than the incumbent."""
        search = self.search
        value = search.value - search.level.constant
        little = AGREES * max(1e-9, abs(value))
        if not self.solvable or promised <= value + little:
            return
        found = self.judge(np.round(x[:-1]))
        if found is not None and found < promised - little:
            self.news = True
            self.misled |= found < value + KEPT * (promised - value)
