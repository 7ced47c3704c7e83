"""Benders decomposition of a level over its counts: how a re-plan finds a good plan at once.

With every integer z fixed a level is a linear program, a fraction of a millisecond when solved warm,
and it falls into *sides* that each have an optimum concave in z (sides.py). Their slopes at one point
bound them at every other; the *master* is an integer program of the counts, the rows of integers
alone, and these bounds. Some rounds at the master's own relaxation, where z need not be whole, bring
it to the optimum of the level's relaxation. From then on it promises of counts what their linear program
keeps, and it is a tenth of the whole program.

The master is searched in neighbourhoods of the incumbent: the counts that touch a few of its rows
are chosen anew, and any other may stay or go back to what ran before, as good plans lie far
apart and each is close to that. Where neighbourhoods find no more, the master gets its turn as a whole.

Source: Benders, Numerische Mathematik 4 (1962) 238; a cut for each side as in Birge and Louveaux,
European Journal of Operational Research 34 (1988) 384; optimality cuts alone. Counts for which the
linear program is infeasible end the decomposition.
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
from motley_planner.solver.sides import Sides

MASTER_GAP = 5e-4
KEPT = 0.5  # of what a point promises to be better; where it keeps less, the master begins anew
AGREES = 1e-6  # relative; a point judged so close to its bound adds nothing
RELAXED = 1e-4  # relative; where the master's relaxation is this close to what it promises
MOST_ROUNDS = 60
IDLE = 25  # neighbourhoods without a gain, after which the whole master is searched
WHOLE_SECONDS, WHOLE_SHARE = 0.5, 0.3  # what it gets then: of the time left, and at least
SECONDS = 0.06  # of a neighbourhood
SHARE, LEAST_SHARE, MOST_SHARE = 0.1, 0.05, 0.5  # of the rows that a neighbourhood frees
WIDER, NARROWER, QUICK = 1.05, 0.85, 0.4  # a share grows where it was solved in a part of its time
WIDE_ROW = 0.34  # of the counts; a row that touches more is no neighbourhood


def is_least_of_many(milp: Milp, level: Level) -> bool:
    """Whether a level is one scale that everything must reach, beside what counts cost."""
    return int(np.count_nonzero(level.cost[~milp.integer])) == 1


def decompose(search: Search, chosen: Bools, deadline: float, *, near: bool = True) -> int:
    """Improves the incumbent with counts of the chosen blocks and the core; its points are offered.

    With `near` in neighbourhoods first. Returns how many counts were judged.
    """
    if search.x is None:
        return 0
    counts = _Counts(search, chosen)
    if counts.judge(counts.of(search.x)) is not None and counts.relax(deadline):
        _search(search, counts, deadline, near)
    return counts.judged


def _search(search: Search, counts: _Counts, deadline: float, near: bool) -> None:
    around = _Neighbourhoods(counts)
    for _ in range(MOST_ROUNDS):
        idle = 0 if near and around.exist else IDLE
        while idle < IDLE:
            if CLOCK.now() >= deadline or search.done() or not counts.solvable:
                return
            idle = 0 if around.search_one(deadline) else idle + 1
        now = CLOCK.now()
        until = min(deadline, now + max(WHOLE_SECONDS, WHOLE_SHARE * (deadline - now)))
        if now >= deadline or search.done() or not counts.propose(until):
            return


class _Counts:
    """The integers of a part, their master, and the linear programs that judge them."""

    def __init__(self, search: Search, chosen: Bools) -> None:
        self.search = search
        self.part = search.program.restrict(chosen)
        milp, cost = self.part.milp, self.part.take(search.level.cost)
        self.sides = Sides(milp, cost)
        self.whole = self.sides.whole
        self._lp: Any = highs.load(milp, cost, relax=True)
        self._lp.setOptionValue("presolve", "off")
        self._lp.setOptionValue("simplex_strategy", highs.DUAL)
        scale = self.sides.scale
        worth = np.ones(self.sides.number) if scale is None else cost[[scale]]
        self.cost = np.append(cost[self.whole], worth)
        self.rows = self._rows_of_counts(milp)
        self.master = self._with_bounded(milp)
        self.solvable, self.news, self.misled = True, False, False
        self.judged = 0

    def _rows_of_counts(self, milp: Milp) -> Milp:
        """The counts with the rows that touch nothing else."""
        mixed = np.zeros(milp.num_rows, dtype=np.bool_)
        owner = np.repeat(np.arange(milp.num_cols), np.diff(milp.start))
        mixed[milp.index[~milp.integer[owner]]] = True
        return Part(milp, self.whole, np.flatnonzero(~mixed).astype(np.int32)).milp

    def _with_bounded(self, milp: Milp) -> Milp:
        """The master: the counts, and behind them the scale or what each side gives."""
        scale, master = self.sides.scale, self.rows
        if scale is not None:
            return master.with_column(milp.col_lower[scale], milp.col_upper[scale])
        for _ in range(self.sides.number):
            master = master.with_column(-np.inf, np.inf)
        return master

    def of(self, point: Floats) -> Floats:
        """The integers of a point of the whole program."""
        return np.asarray(np.round(self.part.take(point)[self.whole]))

    def relax(self, deadline: float) -> bool:
        """Bounds at the optima of the master's relaxation, until it keeps its promises."""
        for _ in range(MOST_ROUNDS):
            run = highs.solve_lp(self.master, self.cost, deadline)
            if run.x is None or run.value is None:
                return False
            found = self.bound(run.x[: len(self.whole)])
            if found is None:
                return False
            if found >= run.value - RELAXED * abs(run.value):
                break
        return True

    def bound(self, counts: Floats) -> float | None:
        """The level at these counts, whole or not, where its sides agree; adds their bounds."""
        found = self.sides.reach(counts, self.search.limits.deadline)
        if found is None:
            self.solvable = False
            return None
        reached, slopes = found
        number, joined = len(counts), self.sides.scale is not None
        for side in np.flatnonzero(self.sides.bounding).tolist():
            row = np.zeros(self.master.num_cols)
            row[:number] = -slopes[side]
            row[number if joined else number + side] = 1.0
            most = float(reached[side] - slopes[side] @ counts)
            self.master = self.master.with_row(row, -np.inf, most)
        rates = self.cost[-1] * reached[self.sides.bounding].min() if joined else reached.sum()
        return float(self.cost[:number] @ counts) + float(rates)

    def judge(self, counts: Floats) -> float | None:
        """The level at the best rates for these counts; adds bounds. None where there is none."""
        search, value = self.search, self.bound(counts)
        self.judged += 1
        if value is None or value <= search.value - search.level.constant:
            return value
        self._lp.changeColsBounds(len(self.whole), self.whole, counts, counts)
        if not highs.set_time(self._lp, search.limits.deadline):
            return None
        self._lp.run()
        if self._lp.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            self.solvable = False
            return None
        search.offer(self.part.expand(np.asarray(self._lp.getSolution().col_value)))
        return value

    def propose(self, deadline: float, master: Milp | None = None) -> bool:
        """Judges what the master, or a part of it, makes of the bounds; False where it has nothing better."""
        self.news = self.misled = False
        limits = highs.MipLimits(deadline, MASTER_GAP, unwanted=self._ends)
        run = highs.solve_mip(master or self.master, self.cost, limits, self._see)
        if run.x is not None and run.value is not None:
            self._see(run.x, run.value)
        return self.solvable and (self.news or run.status == "limit")

    def _ends(self) -> bool:
        """Whether the master needs new bounds, or nothing more is expected of the search."""
        return self.misled or self.search.done()

    def _see(self, x: Floats, promised: float) -> None:
        """Judges a point of the master that promises to be better than the incumbent."""
        search = self.search
        value = search.value - search.level.constant
        little = AGREES * max(1e-9, abs(value))
        if not self.solvable or promised <= value + little:
            return
        found = self.judge(np.round(x[: len(self.whole)]))
        if found is not None and found < promised - little:
            self.news = True
            self.misled |= found < value + KEPT * (promised - value)


class _Neighbourhoods:
    """Parts of a master around the incumbent, drawn by chance."""

    def __init__(self, counts: _Counts) -> None:
        self.counts, milp = counts, counts.rows
        home = counts.search.home
        assert counts.search.x is not None
        self.home = counts.of(counts.search.x if home is None else home)
        self.owner = np.repeat(np.arange(milp.num_cols), np.diff(milp.start))
        touched = np.bincount(milp.index, minlength=milp.num_rows)
        (self.rows,) = np.nonzero((touched > 0) & (touched <= WIDE_ROW * milp.num_cols))
        self.exist = len(self.rows) > 1
        self.share = SHARE

    def search_one(self, deadline: float) -> bool:
        """Searches one neighbourhood; whether it gained anything."""
        search, begin = self.counts.search, CLOCK.now()
        before = search.value
        until = min(deadline, begin + SECONDS)
        open_ = self.counts.propose(until, self._bounded(self._free()))
        gained = search.value > before
        if CLOCK.now() >= begin + 0.95 * SECONDS:
            self.share = max(LEAST_SHARE, self.share * NARROWER)
        elif not gained and not open_ and CLOCK.now() < begin + QUICK * SECONDS:
            self.share = min(MOST_SHARE, self.share * WIDER)
        return gained

    def _free(self) -> Bools:
        """Counts that touch any of some rows."""
        milp, random = self.counts.rows, self.counts.search.random
        chosen = np.zeros(milp.num_rows, dtype=np.bool_)
        chosen[self.rows[random.random(len(self.rows)) < self.share]] = True
        free = np.zeros(milp.num_cols, dtype=np.bool_)
        free[self.owner[chosen[milp.index]]] = True
        return free

    def _bounded(self, free: Bools) -> Milp:
        """The master in which other counts are the incumbent's or those of home, and which must be better."""
        counts, search = self.counts, self.counts.search
        master, at = counts.master, counts.of(search.x)  # type: ignore[arg-type]
        lower, upper, number = master.col_lower.copy(), master.col_upper.copy(), len(at)
        low, high = np.minimum(at, self.home), np.maximum(at, self.home)
        lower[:number] = np.where(free, lower[:number], np.maximum(lower[:number], low))
        upper[:number] = np.where(free, upper[:number], np.minimum(upper[:number], high))
        value = search.value - search.level.constant
        value += AGREES * max(1e-9, abs(value))
        if counts.sides.scale is None:
            return master.with_bounds(lower, upper).with_row(counts.cost, value, np.inf)
        cost = counts.cost[:number]
        most = np.maximum(cost * lower[:number], cost * upper[:number])
        lower[-1] = max(lower[-1], (value - float(most[cost != 0].sum())) / counts.cost[-1])
        return master.with_bounds(lower, upper)
