"""Dives: groups of blocks are made whole one after the other, with the linear program as a guide.

Where many groups each ask for whole replicas of their own, HiGHS finds their combinations slowly.
In a dive the groups before are fixed and those behind are not whole. At the duals of this linear
program a replica has a price, which is what it takes of the rows that groups share, and a worth,
which is what its best use gives to the group's own rows; so what a group's counts lack when they
are rounded down is covered by a small knapsack (covers.py). Some of these covers are tried in the
linear program, and the best one is fixed. Groups without any are left to an integer program at
the end.

Groups go in the order of the price of their replicas, as small ones fit into what is left; those
that cost a dive the most go earlier in the next. A level that is one scale for all is asked for a
little less than its relaxation promises, and for the least price at that: else the first groups
would serve more than the last let count. The scale asked for follows what dives reach.

Source: relax-and-fix, Pochet and Wolsey, Production Planning by Mixed Integer Programming (2006);
priorities from the last failure, Joslin and Clements, JAIR 10 (1999) 353.
"""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np

from motley_planner.solver import highs
from motley_planner.solver.benders import is_least_of_many
from motley_planner.solver.blocks import Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.covers import whole_counts
from motley_planner.solver.milp import Bools, Floats
from motley_planner.solver.search import Search

MANY_GROUPS = 12
WIDTHS = (10, 20, 40)  # blocks of each group, the best by profit, from dive to dive
DEAR = 10.0  # the scale's worth in a dive, as a multiple of what it takes at the relaxation's duals
SHORT, MOST_SHORT = (
    0.003,
    0.8,
)  # of the scale: what the first dive asks less, and of the gap at most
LESS, MORE = 0.6, 1.2  # of that after a dive that reached the scale, and after another
BLAME, SOONER = 0.1, 3.0  # a group with so much of a dive's loss counts as so much dearer
NOISE = 0.1  # of a price in an order, relative
LEFT_BLOCKS, LEFT_SECONDS, LEFT_GAP = 30, 0.15, 1e-5
IDLE = 25  # dives without a gain after which no more are made


def can_dive(search: Search) -> bool:
    """Whether there are many groups, and nothing but their counts is whole."""
    program = search.program
    many = len(np.unique(program.blocks.group)) >= MANY_GROUPS
    plain = search.relaxed is None and not program.milp.integer[program.core].any()
    return many and plain and search.relaxation is not None


def dive_often(search: Search, deadline: float) -> None:
    """Dives, each in the light of those before, until the deadline; better points are offered."""
    orders, turn, idle = _Orders(search), 0, 0
    while CLOCK.now() < deadline and not search.done() and idle < IDLE:
        before = search.value
        chosen = search.best(WIDTHS[turn % len(WIDTHS)], by_group=True)
        dive = _Dive(search, chosen, orders.prices, orders.scale_asked())
        point = dive.run(orders.next(first=turn == 0), deadline)
        if point is not None:
            search.complete(point)
        orders.learn(dive.lost)
        turn, idle = turn + 1, 0 if search.value > before else idle + 1


class _Orders:
    """What dives learn from each other: the order of the groups, and the scale to ask for."""

    def __init__(self, search: Search) -> None:
        self.search = search
        program, blocks, found = search.program, search.program.blocks, search.relaxation
        assert found is not None and found.duals is not None and found.x is not None
        shared = np.where(program.shared, found.duals, 0.0)
        reduced = program.reduced_costs(search.level.cost, shared)[blocks.count]
        self.prices = np.maximum(0.0, -reduced)
        used = found.x[blocks.count]
        self.number = np.bincount(blocks.group, weights=used)
        spent = np.bincount(blocks.group, weights=self.prices * used)
        self.first = spent / np.maximum(self.number, 1e-9)
        self.dear = self.first.copy()
        self.scale = scale_of(search)
        self.most = np.inf if self.scale is None else float(found.x[self.scale])
        self.short, self.asked = SHORT, np.inf

    def scale_asked(self) -> float:
        """The highest scale that a dive is to reach; no limit where the level has none."""
        if self.scale is not None:
            self.short = min(self.short, MOST_SHORT * self.search.gap)
            self.asked = self.most * (1.0 - self.short)
        return self.asked

    def next(self, *, first: bool) -> list[int]:
        """The groups that serve anything in the relaxation."""
        noise = self.search.random.normal(0.0, 0.0 if first else NOISE, len(self.dear))
        order = np.argsort(-self.dear * np.exp(noise), kind="stable").tolist()
        return [group for group in order if self.number[group] > 0]

    def learn(self, lost: dict[int, float]) -> None:
        """Takes what each group cost the last dive, inf where it had no cover."""
        whole = sum(loss for loss in lost.values() if np.isfinite(loss))
        for place, (group, loss) in enumerate(lost.items()):
            if loss > BLAME * whole:  # what the first group loses it loses not for coming late
                self.dear[group] = self.dear[group] * SOONER if place else self.first[group]
        if self.scale is not None:
            x = self.search.x
            reached = x is not None and x[self.scale] >= self.asked * (1 - 1e-6)
            self.short *= LESS if reached else MORE


class _Dive:
    """One dive over the chosen blocks; `lost` is what each group took off the program's value."""

    def __init__(self, search: Search, chosen: Bools, prices: Floats, asked: float) -> None:
        self.search = search
        self.part, program = search.program.only(chosen)
        self.level_cost = self.part.take(search.level.cost)
        self.cost, milp = self.level_cost.copy(), program.milp
        scale = scale_of(search)
        if scale is not None:
            at, upper = self.part.columns == scale, milp.col_upper.copy()
            upper[at] = np.minimum(upper[at], asked)
            self.cost[at] *= DEAR
            self.cost[program.blocks.count] -= prices[chosen]
            program = program.with_milp(milp.with_bounds(milp.col_lower, upper))
        self.program = program
        self.asks = self._rows_of_rates(program)
        self.lp: Any = highs.load(program.milp, self.cost, relax=True)
        self.lp.setOptionValue("presolve", "off")
        self.lp.setOptionValue("simplex_strategy", highs.DUAL)
        self.value, self.x, self.duals = -np.inf, np.zeros(0), np.zeros(0)
        self.counts = np.zeros(program.blocks.number)
        self.lost: dict[int, float] = {}

    @staticmethod
    def _rows_of_rates(program: Structured) -> Bools:
        """Shared rows that rates of blocks touch."""
        rated, asks = np.zeros((2, max(program.milp.num_cols, program.milp.num_rows)), dtype=bool)
        rated[program.blocks.rate] = True
        asks[program.milp.index[rated[program.column_of_entry]]] = True
        return np.asarray(asks[: program.milp.num_rows] & program.shared)

    def run(self, order: list[int], deadline: float) -> Floats | None:
        """A point of the whole program that may be better; None where the dive ends before."""
        if not self._solve():
            return None
        self._read()
        left = []
        for group in order:
            if CLOCK.now() >= deadline or not self._promises():
                return None
            before = self.value
            fixed = self._fix(group)
            self.lost[group] = before - self.value if fixed else np.inf
            if not fixed:
                left.append(group)
        left = [group for group in left if not self._fix(group)]
        return self._finish(left) if self._promises() else None

    def _promises(self) -> bool:
        """Whether the level is still above the incumbent's."""
        level = self.search.level
        return float(self.level_cost @ self.x) + level.constant > self.search.value

    def _solve(self) -> bool:
        if not highs.set_time(self.lp, self.search.limits.deadline):
            return False
        self.lp.run()
        return bool(self.lp.getModelStatus() == highspy.HighsModelStatus.kOptimal)

    def _read(self) -> None:
        solution = self.lp.getSolution()
        self.value = float(self.lp.getInfo().objective_function_value)
        self.x, self.duals = np.asarray(solution.col_value), np.asarray(solution.row_dual)

    def _fix(self, group: int) -> bool:
        """Fixes a group at the cover that costs the linear program least; False where none fits."""
        (mine,) = np.nonzero(self.program.blocks.group == group)
        columns, milp = self.program.blocks.count[mine], self.program.milp
        price, worth = self._price_and_worth()
        price, worth, at = price[mine], worth[mine], self.x[columns]
        before, spent = self.value, float(worth @ at)
        best: Floats | None = None
        for counts in whole_counts(price, worth, at):
            if (counts > milp.col_upper[columns]).any():
                continue
            if best is not None and before - (float(price @ counts) - spent) <= self.value:
                break  # even by its price alone it costs more
            self.lp.changeColsBounds(len(columns), columns, counts, counts)
            if not self._solve():
                continue
            if best is None or self.lp.getInfo().objective_function_value > self.value:
                best = counts
                self._read()
        if best is None:
            lower, upper = milp.col_lower[columns], milp.col_upper[columns]
            self.lp.changeColsBounds(len(columns), columns, lower, upper)
            return False
        self.lp.changeColsBounds(len(columns), columns, best, best)
        self.counts[mine] = best
        return True

    def _price_and_worth(self) -> tuple[Floats, Floats]:
        program = self.program
        taken = np.where(program.shared & ~self.asks, self.duals, 0.0)
        price = -program.reduced_costs(self.cost, taken)[program.blocks.count]
        asked = np.where(self.asks, self.duals, 0.0)
        worth, _ = program.best_fills(program.reduced_costs(np.zeros(len(self.cost)), asked))
        return np.maximum(0.0, price), worth

    def _finish(self, left: list[int]) -> Floats | None:
        """The fixed counts, and those of the groups left by an integer program of their own."""
        search, blocks = self.search, self.search.program.blocks
        fixed = np.zeros(search.program.milp.num_cols)
        fixed[self.part.columns[self.program.blocks.count]] = self.counts
        if not left:
            return fixed
        mine = np.isin(blocks.group, left)
        chosen = search.best(LEFT_BLOCKS, by_group=True) & mine
        part = search.program.restrict(chosen | (fixed[blocks.count] > 0.5))
        free = np.zeros(len(fixed), dtype=np.bool_)
        free[blocks.count[mine]] = True
        whole, at = part.milp.integer & ~free[part.columns], part.take(fixed)
        milp = part.milp.with_bounds(
            np.where(whole, at, part.milp.col_lower), np.where(whole, at, part.milp.col_upper)
        )
        until = min(search.limits.deadline, CLOCK.now() + LEFT_SECONDS)
        run = highs.solve_mip(milp, part.take(search.level.cost), highs.MipLimits(until, LEFT_GAP))
        return None if run.x is None else part.expand(run.x)


def scale_of(search: Search) -> int | None:
    """The variable of a level that is one scale for all; None for other levels."""
    milp, cost = search.program.milp, search.level.cost
    if not is_least_of_many(milp, search.level):
        return None
    return int(np.flatnonzero((cost != 0) & ~milp.integer)[0])
