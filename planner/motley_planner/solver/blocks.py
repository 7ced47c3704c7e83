"""Programs whose columns come in blocks: one replica configuration and its rates each.

A block is an integer count y and rates r that touch each other only in rows of their own:

    sum_k time_k r_k <= y        r_k <= most_k y        sum_k beside_k r_k <= y     y <= limit

`beside` is what a rate takes of a second resource of the replica: its network, or the memory of
KV caches. Everything else (packing, demand, money, flows) is a shared row. So given the duals of the shared
rows, what one replica is worth at best is a small knapsack, and the relaxation of a program with
50,000 blocks is solved on the few that its duals ask for (sifting.py). Variables outside of blocks
are the core; rows that touch the core are shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from motley_planner.solver.milp import Bools, Floats, Ints, Milp

_BISECTIONS = 50


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a program; arrays over rates are ordered by block.

    `group` is a number that blocks of one model share, `limit` the most replicas of a block.
    """

    count: Ints
    rate: Ints
    first: Ints  # rates of block b are rate[first[b] : first[b + 1]]
    time: Floats
    most: Floats
    beside: Floats
    limit: Floats
    group: Ints
    private_rows: Ints
    row_block: Ints  # the block of each private row

    @property
    def number(self) -> int:
        """Blocks."""
        return len(self.count)


@dataclass(frozen=True, slots=True)
class PrivatePrices:
    """Prices of the rows of one block each; `time` and `beside` by block, `most` by rate."""

    time: Floats
    beside: Floats
    most: Floats


@dataclass(frozen=True)
class Structured:
    """A program with its blocks, and what is derived from the two once."""

    milp: Milp
    blocks: Blocks

    @cached_property
    def rate_block(self) -> Ints:
        """The block of each rate."""
        sizes = np.diff(self.blocks.first)
        return np.repeat(np.arange(self.blocks.number), sizes).astype(np.int32)

    @cached_property
    def shared(self) -> Bools:
        """Rows that belong to no block."""
        found = np.ones(self.milp.num_rows, dtype=np.bool_)
        found[self.blocks.private_rows] = False
        return found

    @cached_property
    def core(self) -> Ints:
        """Variables that belong to no block."""
        free = np.ones(self.milp.num_cols, dtype=np.bool_)
        free[self.blocks.count] = False
        free[self.blocks.rate] = False
        return np.flatnonzero(free).astype(np.int32)

    @cached_property
    def column_of_entry(self) -> NDArray[np.int64]:
        """The variable of each entry of the program's matrix."""
        return np.repeat(np.arange(self.milp.num_cols), np.diff(self.milp.start))

    def reduced_costs(self, cost: Floats, duals: Floats) -> Floats:
        """cost - A^T duals for every variable; `duals` of private rows are 0."""
        milp = self.milp
        priced = np.bincount(
            self.column_of_entry, weights=milp.value * duals[milp.index], minlength=milp.num_cols
        )
        return np.asarray(cost - priced)

    def with_milp(self, milp: Milp) -> Structured:
        """The same blocks in a program with more shared rows or other bounds."""
        return Structured(milp, self.blocks)

    def best_fills(self, reduced: Floats) -> tuple[Floats, Floats]:
        """What one replica of each block is worth at these reduced costs, and its rates then."""
        blocks = self.blocks
        worth = reduced[blocks.rate]
        units = _knapsack(worth, blocks, self.rate_block)
        profit = self._profit(worth, units)
        if blocks.beside.any():
            units, profit = self._within_both(worth, units, profit)
        return profit + reduced[blocks.count], units

    def _profit(self, worth: Floats, units: Floats) -> Floats:
        return self._per_block(worth * units)

    def _beside_used(self, units: Floats) -> Floats:
        return self._per_block(self.blocks.beside * units)

    def _per_block(self, weights: Floats) -> Floats:
        found = np.bincount(self.rate_block, weights=weights, minlength=self.blocks.number)
        return found.astype(np.float64)

    def _within_both(self, worth: Floats, units: Floats, profit: Floats) -> tuple[Floats, Floats]:
        """Bisects the price of the second resource; the fill is the mixture of both sides that just fits."""
        blocks, of = self.blocks, self.rate_block
        over = self._beside_used(units) > 1.0 + 1e-12
        if not over.any():
            return units, profit
        low, high = self._beside_prices(worth)
        cheap = _knapsack(worth - low[of] * blocks.beside, blocks, of)
        dear = _knapsack(worth - high[of] * blocks.beside, blocks, of)
        a, b = self._beside_used(cheap), self._beside_used(dear)
        share = np.clip((1.0 - b) / np.maximum(a - b, 1e-30), 0.0, 1.0)[of]
        mixed = np.where(over[of], share * cheap + (1 - share) * dear, units)
        bound = high + self._profit(worth - high[of] * blocks.beside, dear)
        return mixed, np.where(over, bound, profit)

    def _beside_prices(self, worth: Floats) -> tuple[Floats, Floats]:
        """Prices of the second resource just below and just at the one where it suffices."""
        blocks, of = self.blocks, self.rate_block
        low, high = np.zeros(blocks.number), np.zeros(blocks.number)
        with np.errstate(divide="ignore", invalid="ignore"):
            per_unit = np.where(blocks.beside > 0, worth / blocks.beside, 0.0)
        np.maximum.at(high, of, np.maximum(per_unit, 0.0))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            tried = _knapsack(worth - middle[of] * blocks.beside, blocks, of)
            too_much = self._beside_used(tried) > 1.0
            low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
        return low, high

    def private_prices(self, reduced: Floats) -> PrivatePrices:
        """The best prices of the blocks' own rows at these reduced costs: `best_fills`' dual."""
        blocks, of = self.blocks, self.rate_block
        worth = reduced[blocks.rate]
        beside = np.zeros(blocks.number)
        over = self._beside_used(_knapsack(worth, blocks, of)) > 1.0 + 1e-12
        if over.any():
            beside = np.where(over, self._beside_prices(worth)[1], 0.0)
            worth = worth - beside[of] * blocks.beside
        time = _time_prices(worth, blocks, of)
        return PrivatePrices(time, beside, np.maximum(0.0, worth - time[of] * blocks.time))

    def restrict(self, chosen: Bools) -> Part:
        """The program with the core and the chosen blocks alone."""
        blocks, milp = self.blocks, self.milp
        keep = chosen[self.rate_block]
        columns = np.sort(
            np.concatenate([self.core, blocks.count[chosen], blocks.rate[keep]])
        ).astype(np.int32)
        row_kept = self.shared.copy()
        row_kept[blocks.private_rows[chosen[blocks.row_block]]] = True
        return Part(milp, columns, np.flatnonzero(row_kept).astype(np.int32))

    def only(self, mine: Bools) -> tuple[Part, Structured]:
        """The program with the core and these blocks alone, as a part and as blocks of its own."""
        blocks, part = self.blocks, self.restrict(mine)
        column = np.full(self.milp.num_cols, -1, dtype=np.int32)
        column[part.columns] = np.arange(len(part.columns), dtype=np.int32)
        row = np.full(self.milp.num_rows, -1, dtype=np.int32)
        row[part.rows] = np.arange(len(part.rows), dtype=np.int32)
        rates, private = mine[self.rate_block], mine[blocks.row_block]
        sizes = np.diff(blocks.first)[mine]
        kept = Blocks(
            count=column[blocks.count[mine]],
            rate=column[blocks.rate[rates]],
            first=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
            time=blocks.time[rates],
            most=blocks.most[rates],
            beside=blocks.beside[rates],
            limit=blocks.limit[mine],
            group=blocks.group[mine],
            private_rows=row[blocks.private_rows[private]],
            row_block=(np.cumsum(mine) - 1)[blocks.row_block[private]].astype(np.int32),
        )
        return part, Structured(part.milp, kept)


class Part:
    """Some columns and rows of a program; all columns left out are 0."""

    def __init__(self, milp: Milp, columns: Ints, rows: Ints) -> None:
        self.columns, self.rows, self.full = columns, rows, milp.num_cols
        new_row = np.full(milp.num_rows, -1, dtype=np.int32)
        new_row[rows] = np.arange(len(rows), dtype=np.int32)
        start, index, value = milp.columns_of(columns)
        inside = new_row[index] >= 0
        owner = np.repeat(np.arange(len(columns)), np.diff(start))[inside]
        counts = np.bincount(owner, minlength=len(columns))
        self.milp = Milp(
            col_lower=milp.col_lower[columns],
            col_upper=milp.col_upper[columns],
            integer=milp.integer[columns],
            row_lower=milp.row_lower[rows],
            row_upper=milp.row_upper[rows],
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            index=new_row[index[inside]],
            value=value[inside],
        )

    def take(self, full: Floats) -> Floats:
        """The part of a point or cost of the whole program."""
        return full[self.columns]

    def expand(self, x: Floats) -> Floats:
        """A point of the whole program."""
        whole = np.zeros(self.full)
        whole[self.columns] = x
        return whole


def _knapsack(worth: Floats, blocks: Blocks, rate_block: Ints) -> Floats:
    """Units of each rate in the best use of one replica's time, each at most `most`."""
    order, needed, used_before = _by_worth(worth / blocks.time, blocks, rate_block)
    share = np.clip(1.0 - used_before, 0.0, needed)
    units = np.empty(len(worth))
    units[order] = share
    return np.asarray(units / blocks.time)


def _time_prices(worth: Floats, blocks: Blocks, rate_block: Ints) -> Floats:
    """What more time would be worth to each block: the ratio of the rate that fills it up, or 0."""
    ratio = worth / blocks.time
    order, needed, used_before = _by_worth(ratio, blocks, rate_block)
    full = used_before + needed >= 1.0 - 1e-12
    prices = np.zeros(blocks.number)
    np.maximum.at(prices, rate_block[order][full], ratio[order][full])
    return np.maximum(prices, 0.0)


def _by_worth(
    ratio: Floats, blocks: Blocks, rate_block: Ints
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Rates by block, best first: their order, the time each could use, and what is used before."""
    order = np.lexsort((-ratio, rate_block))
    needed = np.where(ratio > 0, np.minimum(blocks.most * blocks.time, 1.0), 0.0)[order]
    used_before = np.cumsum(needed) - needed
    used_before -= np.repeat(used_before[blocks.first[:-1]], np.diff(blocks.first))
    return order, needed, used_before


def without_blocks() -> Blocks:
    """The blocks of a program in which everything is core."""
    none, nothing = np.zeros(0, dtype=np.int32), np.zeros(0)
    return Blocks(
        none,
        none,
        np.zeros(1, dtype=np.int32),
        nothing,
        nothing,
        nothing,
        nothing,
        none,
        none,
        none,
    )
