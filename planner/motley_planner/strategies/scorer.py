"""Scores replica counts: the best rates, policies and flows for them, by LPs of the formulation.

Everything here is about the table as if nothing ran (views.from_scratch); finish.py puts the
counts that a strategy settles on beside what runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.program import Index, formulate, has_demand
from motley_planner.solver.highs import MipLimits, Run, solve_lp, solve_mip
from motley_planner.solver.milp import Floats, Level, Milp
from motley_planner.strategies.stock import Stock
from motley_planner.strategies.views import Counts, from_scratch, is_better, with_policies

HOLD_SLACK = 1e-9
SEARCH_SHARE = 0.8  # of the time limit; the rest is for finishing
HUGE_SCALE = 1e5  # a scale above it means that nothing limits max_min


@dataclass(frozen=True, slots=True)
class Scored:
    """Counts with the values of all levels (more is better) and the point that reaches them."""

    counts: Counts
    values: tuple[float, ...]
    x: Floats


class Scorer:
    """The formulation of a bare table, with replica counts to be filled in."""

    def __init__(self, table: FleetTable, *, settle: bool = True) -> None:
        """`settle`: one-hot cascades get one policy at once, which LPs cannot choose."""
        if table.objective == "max_min" and not has_demand(table):
            raise SnapshotError(
                "objective", "max_min needs a class or cascade with a positive rate"
            )
        self.deadline = time.monotonic() + SEARCH_SHARE * table.time_limit_s
        self.table = from_scratch(table)
        if settle:
            self.table = _settle_policies(self.table, self.deadline)
        self.milp, self.index = formulate(self.table)
        self.stock = Stock(self.table)
        self.new = np.array(self.index.packing.new, dtype=np.int64)
        self.buys_nodes = any(v is not None for v in self.index.packing.open_used)
        self.integral = self.buys_nodes or any(c.pool_steps for c in self.table.columns)
        self.scored: dict[Counts, Scored | None] = {}

    @property
    def out_of_time(self) -> bool:
        """Whether the search must come to its end."""
        return time.monotonic() >= self.deadline

    @property
    def nothing(self) -> Counts:
        """No replicas at all."""
        return (0,) * len(self.table.columns)

    def score(self, counts: Counts) -> Scored | None:
        """The best these counts can do; None where they don't fit or cannot serve (min_cost)."""
        if counts not in self.scored:
            self.scored[counts] = self._score(counts) if self.stock.fits(counts) else None
        return self.scored[counts]

    def best_of(self, best: Scored | None, counts: Counts) -> Scored | None:
        """The better of a scored plan and new counts."""
        found = self.score(counts)
        if found is None:
            return best
        return found if best is None or is_better(found.values, best.values) else best

    def _score(self, counts: Counts) -> Scored | None:
        lower, upper = self.milp.col_lower.copy(), self.milp.col_upper.copy()
        lower[self.new] = upper[self.new] = counts
        fixed = self.milp.with_bounds(lower, upper)
        deadline = max(self.deadline, time.monotonic() + 0.05)
        point = maximize(fixed, self.index.levels, deadline, integral=self.integral)
        if point is None:
            return None
        return Scored(counts, tuple(lv.value_of(point) for lv in self.index.levels), point)

    def relaxed(self) -> Run:
        """The LP relaxation's best first level.

        Raises: SnapshotError where max_min has no largest scale.
        """
        level = next(lv for lv in self.index.levels if lv.name != "minimums")
        run = solve_lp(self.milp, level.cost, self.deadline)
        scale = self.index.demand.scale
        endless = run.x is not None and scale is not None and run.x[scale] > HUGE_SCALE
        if run.status == "unbounded" or endless:
            raise SnapshotError(
                "objective",
                "max_min is unbounded: nothing limits it; give nodes a count or a budget",
            )
        return run


def maximize(
    milp: Milp, levels: Sequence[Level], deadline: float, *, integral: bool = False
) -> Floats | None:
    """The lexicographic maximum of a program over levels; None where there is no point."""
    point: Floats | None = None
    for number, level in enumerate(levels):
        loose = milp.col_lower < milp.col_upper
        if point is not None and not level.cost[loose].any():
            continue
        if integral:
            run = solve_mip(milp, level.cost, MipLimits(deadline, 1e-9))
        else:
            run = solve_lp(milp, level.cost, deadline)
        if run.x is None:
            return point
        point = run.x
        if number + 1 < len(levels):
            milp = hold(milp, level, point)
    return point


def hold(milp: Milp, level: Level, point: Floats) -> Milp:
    """The program with a level kept at what a point reaches."""
    reached = float(level.cost @ point)
    return milp.with_row(level.cost, reached - HOLD_SLACK * max(1.0, abs(reached)), np.inf)


def _settle_policies(table: FleetTable, deadline: float) -> FleetTable:
    """One policy for each one-hot cascade: the one that the relaxation uses most."""
    open_choice = [c for c in table.cascades if not c.mixture and len(c.policies) > 1]
    if not open_choice:
        return table
    milp, index = formulate(table)
    point = maximize(milp, index.levels, deadline)
    chosen: dict[str, str] = {}
    for cascade in open_choice:
        good = [p for p in cascade.policies if p.quality >= cascade.quality_floor]
        if good:
            share = _shares(index, point, cascade.name)
            best = max(good, key=lambda p: (share.get(p.id, 0.0), -sum(p.load.values())))
            chosen[cascade.name] = best.id
    return with_policies(table, chosen)


def _shares(index: Index, point: Floats | None, cascade: str) -> dict[str, float]:
    if point is None:
        return {}
    return {
        policy: round(float(point[v]), 9)
        for (name, policy), v in index.demand.shares.items()
        if name == cascade
    }
