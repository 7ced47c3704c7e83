"""The relaxation of a block program on the few columns that its duals ask for.

A column of the relaxation is a block with one use of its time, a *fill*: since in a relaxation
y = the sum of its fills, counts and private rows vanish and only shared rows are left. Each round
solves the program warm by primal simplex, prices every block at the new duals (one sparse
product and a knapsack a block, blocks.py) and adds the best fills; when none has a profit the
optimum is that of the whole relaxation. A block over its limit gets a row then.

Where the first fills cannot satisfy the rows, artificial columns are driven out first (phase 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from motley_planner.solver.blocks import Structured
from motley_planner.solver.fills import Fills, best_fills, first_fills, no_fills
from motley_planner.solver.growing_lp import GrowingLp
from motley_planner.solver.milp import Floats, Ints

PROFIT = 1e-9  # of the value; less is rounding
MAX_ROUNDS = 200
STALL = 5  # rounds without gain after which a tiny profit is rounding


@dataclass(slots=True)
class Relaxation:
    """`bound` >= cost . x of every point; `profit` <= 0 is what one more replica would add.

    `duals` are of all rows (private ones 0, but for limits that bind).
    """

    status: str
    bound: float = np.inf
    x: Floats | None = None
    profit: Floats | None = None
    duals: Floats | None = None
    fills: Fills | None = None


@dataclass(slots=True)
class _Columns:
    """What the growing program's columns stand for."""

    block: list[Ints] = field(default_factory=list)
    fills: list[Fills] = field(default_factory=list)
    position: list[Ints] = field(default_factory=list)


def sift(
    structured: Structured, cost: Floats, deadline: float, warm: Fills | None = None
) -> Relaxation:
    """The relaxation's optimum, or a bound where time ran out."""
    return _Sifter(structured, cost).run(deadline, warm)


class _Sifter:
    def __init__(self, structured: Structured, cost: Floats) -> None:
        self.s, self.cost = structured, cost
        milp, blocks = structured.milp, structured.blocks
        self.core = structured.restrict(np.zeros(blocks.number, dtype=np.bool_))
        self.new_row = np.full(milp.num_rows, -1, dtype=np.int32)
        self.new_row[self.core.rows] = np.arange(len(self.core.rows), dtype=np.int32)
        self.lp = GrowingLp(self.core.milp, cost[self.core.columns])
        self.columns = _Columns()
        self.limit_row: dict[int, int] = {}
        self.usable = blocks.limit > 0
        self.values: list[float] = []
        self.artificial = np.zeros(0, dtype=np.int32)

    def run(self, deadline: float, warm: Fills | None) -> Relaxation:
        if warm is not None and len(warm.block):
            self._add(warm, self.cost)
        self._add(first_fills(self.s, self.new_row >= 0), self.cost)
        status = self.lp.solve(deadline)
        if status == "infeasible":
            status = self._phase_one(deadline)
        if status != "optimal":
            return Relaxation(status)
        return self._phase_two(deadline)

    def _phase_one(self, deadline: float) -> str:
        """Drives artificial columns to 0; infeasible where they stay."""
        low = np.flatnonzero(np.isfinite(self.core.milp.row_lower))
        high = np.flatnonzero(np.isfinite(self.core.milp.row_upper))
        number = len(low) + len(high)
        self.artificial = np.arange(number, dtype=np.int32) + self.lp.num_cols
        self.lp.add_columns(
            np.zeros(number),
            np.arange(number + 1, dtype=np.int32),
            np.concatenate([low, high]).astype(np.int32),
            np.concatenate([np.ones(len(low)), -np.ones(len(high))]),
        )
        none = np.zeros(len(self.cost))
        costs = np.zeros(self.lp.num_cols)
        costs[self.artificial] = -1.0
        self.lp.set_costs(costs)
        status = self.lp.solve(deadline)
        if status == "optimal":
            status = self._rounds(deadline, none, 1e-9)[0]
        if status != "optimal":
            return status
        if self.lp.value < -1e-7:
            return "infeasible"
        self.lp.fix_at_zero(self.artificial)
        self.lp.set_costs(self._costs())
        return self.lp.solve(deadline)

    def _phase_two(self, deadline: float) -> Relaxation:
        status, profit, over = self._rounds(deadline, self.cost, None)
        if status not in ("optimal", "limit") or profit is None:
            return Relaxation(status)
        return Relaxation(
            status,
            self.lp.value + over,
            self._point(),
            np.where(self.usable, profit, -np.inf),
            self._row_duals(),
            self._all_fills(),
        )

    def _rounds(
        self, deadline: float, cost: Floats, tolerance: float | None
    ) -> tuple[str, Floats | None, float]:
        """Prices and adds until nothing is left; status, profits, and what they add to the bound."""
        limit = self.s.blocks.limit
        profit: Floats | None = None
        over = np.inf
        for _ in range(MAX_ROUNDS):
            profit, units = self._price(cost)
            small = tolerance or PROFIT * max(1.0, abs(self.lp.value))
            better = self.usable & (profit > small)
            over = float((profit[better] * limit[better]).sum()) if better.any() else 0.0
            if better.any() and self._stalls(over):
                return "optimal", profit, over
            if better.any():
                self._add(best_fills(self.s, better, profit, units), cost)
                status = self.lp.solve(deadline)
            else:
                crossed = self._crossed()
                if not len(crossed):
                    return "optimal", profit, over
                for block in crossed:
                    self._limit(int(block))
                status = self.lp.solve(deadline, rows_added=True)
            if status != "optimal":
                return status, profit, over
        return "limit", profit, over

    def _stalls(self, over: float) -> bool:
        """Whether the value has not moved for some rounds and what is left is rounding."""
        self.values.append(self.lp.value)
        same = len(self.values) > STALL and self.values[-1] - self.values[-1 - STALL] <= 0.0
        return same and over <= 1e-7 * max(1.0, abs(self.lp.value))

    def _price(self, cost: Floats) -> tuple[Floats, Floats]:
        reduced = self.s.reduced_costs(cost, self._shared_duals())
        profit, units = self.s.best_fills(reduced)
        for block, row in self.limit_row.items():
            profit[block] -= self.lp.row_duals[row]
        return profit, units

    def _shared_duals(self) -> Floats:
        duals = np.zeros(self.s.milp.num_rows)
        duals[self.core.rows] = self.lp.row_duals[: len(self.core.rows)]
        return duals

    def _row_duals(self) -> Floats:
        duals = self._shared_duals()
        rows, owners = self.s.blocks.private_rows, self.s.blocks.row_block
        for block, row in self.limit_row.items():
            mine = rows[owners == block]
            bounded = mine[self.s.milp.row_upper[mine] > 0]  # max_count, the only such row
            duals[bounded] = self.lp.row_duals[row]
        return duals

    def _add(self, fills: Fills, cost: Floats) -> None:
        blocks, milp, number = self.s.blocks, self.s.milp, len(fills.block)
        if not number:
            return
        owner = np.concatenate(
            [np.arange(number), np.repeat(np.arange(number), np.diff(fills.start))]
        )
        columns = np.concatenate([blocks.count[fills.block], blocks.rate[fills.rate]])
        weight = np.concatenate([np.ones(number), fills.units])
        start, index, value = milp.columns_of(columns)
        sizes = np.diff(start)
        rows, owners = self.new_row[index], np.repeat(owner, sizes)
        entries = value * np.repeat(weight, sizes)
        inside = rows >= 0
        keys, where = np.unique(
            owners[inside] * len(self.core.rows) + rows[inside], return_inverse=True
        )
        summed = np.bincount(where, weights=entries[inside], minlength=len(keys)).astype(np.float64)
        in_limit = [k for k, b in enumerate(fills.block.tolist()) if b in self.limit_row]
        rows_of, owners_of = keys % len(self.core.rows), keys // len(self.core.rows)
        if in_limit:
            rows_of = np.append(rows_of, [self.limit_row[int(fills.block[k])] for k in in_limit])
            owners_of = np.append(owners_of, in_limit)
            summed = np.append(summed, np.ones(len(in_limit)))
            order = np.argsort(owners_of, kind="stable")
            rows_of, owners_of, summed = rows_of[order], owners_of[order], summed[order]
        starts = np.searchsorted(owners_of, np.arange(number + 1)).astype(np.int32)
        costs = np.bincount(owner, weights=cost[columns] * weight, minlength=number).astype(float)
        first = self.lp.num_cols
        self.lp.add_columns(costs, starts, rows_of.astype(np.int32), summed)
        self.columns.fills.append(fills)
        self.columns.position.append(np.arange(first, first + number, dtype=np.int32))

    def _costs(self) -> Floats:
        """The true objective over all columns of the growing program."""
        costs = np.zeros(self.lp.num_cols)
        costs[: len(self.core.columns)] = self.cost[self.core.columns]
        blocks = self.s.blocks
        for fills, position in zip(self.columns.fills, self.columns.position, strict=True):
            owner = np.repeat(np.arange(len(fills.block)), np.diff(fills.start))
            weights = self.cost[blocks.rate[fills.rate]] * fills.units
            of_rates = np.bincount(owner, weights=weights, minlength=len(fills.block))
            costs[position] = self.cost[blocks.count[fills.block]] + of_rates
        return costs

    def _crossed(self) -> Ints:
        """Blocks whose fills add up to more than their limit."""
        counts = self._counts()
        limit = self.s.blocks.limit
        return np.flatnonzero(counts > limit * (1 + 1e-9) + 1e-9).astype(np.int32)

    def _counts(self) -> Floats:
        counts = np.zeros(self.s.blocks.number)
        for fills, position in zip(self.columns.fills, self.columns.position, strict=True):
            np.add.at(counts, fills.block, self.lp.x[position])
        return counts

    def _limit(self, block: int) -> None:
        columns = [
            position[fills.block == block]
            for fills, position in zip(self.columns.fills, self.columns.position, strict=True)
        ]
        found = np.concatenate(columns).astype(np.int32)
        upper = float(self.s.blocks.limit[block])
        self.limit_row[block] = self.lp.add_row(found, np.ones(len(found)), upper)

    def _point(self) -> Floats:
        x = np.zeros(self.s.milp.num_cols)
        x[self.core.columns] = self.lp.x[: len(self.core.columns)]
        blocks = self.s.blocks
        x[blocks.count] = self._counts()
        for fills, position in zip(self.columns.fills, self.columns.position, strict=True):
            used = np.repeat(self.lp.x[position], np.diff(fills.start))
            np.add.at(x, blocks.rate[fills.rate], used * fills.units)
        return x

    def _all_fills(self) -> Fills:
        """Every fill in the program, to begin the next relaxation with."""
        every = self.columns.fills
        if not every:
            return no_fills()
        sizes = np.concatenate([np.diff(f.start) for f in every])
        return Fills(
            np.concatenate([f.block for f in every]),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
            np.concatenate([f.rate for f in every]),
            np.concatenate([f.units for f in every]),
        )
