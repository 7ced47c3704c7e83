"""The checker's relaxation as a linear program whose columns are blocks (solver/blocks.py).

Solved as it stands, a relaxation of 100,000 configurations takes minutes; sifted by blocks, a second.
A configuration on which nothing runs now is a block: its count, its rates, and its rows `time`, `kv`
or `nic`, `force` and `moves`. The program keeps only the rows that blocks share. The prices of a
block's own rows follow from those of the shared rows by a knapsack, so every row has its price again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from motley_planner.checker.relaxation import Relaxation, Row
from motley_planner.solver import Milp, MilpBuilder
from motley_planner.solver.blocks import Blocks, Structured
from motley_planner.solver.milp import Floats

FEW_BLOCKS = 40  # with no more than these the program is solved as it stands
NIC, KV = "nic", "kv"


@dataclass(slots=True)
class _Block:
    """A configuration's variables, and its rows in units of one replica."""

    name: str
    count: int
    factor: float  # replicas' worth of time that one replica gives
    time: dict[int, float]
    beside: dict[int, float]
    beside_row: str  # "" for none
    per_beside: float
    start: int | None  # the variable of replicas that start; stops of such a column are none


@dataclass(slots=True)
class Found:
    """The blocks of a relaxation, and which rows they own."""

    blocks: list[_Block] = field(default_factory=list)
    force: dict[int, str] = field(default_factory=dict)  # by rate
    private: set[str] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)  # variables that are 0, or another's


class Proving:
    """A level of a relaxation as a program, and the prices of all rows from its duals."""

    def __init__(self, relaxed: Relaxation, level: str, found: Found) -> None:
        self.relaxed, self.found = relaxed, found
        self.names = [name for name in relaxed.rows if name not in self.found.private]
        self.place = self._places()
        self.milp = self._program()
        entries, self.constant = relaxed.levels[level]
        self.cost = np.zeros(self.milp.num_cols)
        for variable, value in entries.items():
            if self.place[variable] >= 0:
                self.cost[self.place[variable]] += value
        self.entries = entries
        self.blocks = self._blocks() if self.found.blocks else None

    def prices(self, duals: Floats) -> dict[str, float]:
        """The price of each row, shared or not, by its name."""
        prices = dict(zip(self.names, duals.tolist(), strict=True))
        if self.blocks is None:
            return prices
        structured = Structured(self.milp, self.blocks)
        own = structured.private_prices(structured.reduced_costs(self.cost, duals))
        starts = self._start_prices(prices)
        most = dict(zip(self._rates(), own.most.tolist(), strict=True))
        for number, block in enumerate(self.found.blocks):
            prices[f"time[{block.name}]"] = float(own.time[number]) / block.factor
            if block.beside_row:
                prices[block.beside_row] = float(own.beside[number]) / block.per_beside
            if block.start is not None:
                prices[f"moves[{block.name}]"] = -starts[block.start]
        prices |= {self.found.force[r]: price for r, price in most.items() if r in self.found.force}
        return prices

    def _rates(self) -> list[int]:
        return [rate for block in self.found.blocks for rate in block.time]

    def _start_prices(self, prices: dict[str, float]) -> dict[int, float]:
        """What one started replica adds to the level at these prices, for each block."""
        starts = {b.start for b in self.found.blocks if b.start is not None}
        worth = {v: self.entries.get(v, 0.0) for v in starts}
        for name in self.names if starts else ():
            if prices[name] and name.startswith("hold["):
                for variable, value in self.relaxed.rows[name].entries.items():
                    if variable in starts:
                        worth[variable] -= prices[name] * value
        return worth

    def _places(self) -> list[int]:
        """The program's variable of each one of the relaxation; a start is its count, -1 for none."""
        place, number = [], 0
        for variable in range(len(self.relaxed.upper)):
            place.append(-1 if variable in self.found.dropped else number)
            number += variable not in self.found.dropped
        for block in self.found.blocks:
            if block.start is not None:
                place[block.start] = place[block.count]
        return place

    def _program(self) -> Milp:
        builder, place = MilpBuilder(), np.array(self.place, dtype=np.int64)
        kept = [u for v, u in enumerate(self.relaxed.upper) if v not in self.found.dropped]
        builder.variables(kept)
        for name in self.names:
            row = self.relaxed.rows[name]
            at = builder.row((), lower=row.lower, upper=row.upper, name=name)
            columns = place[np.fromiter(row.entries, dtype=np.int64, count=len(row.entries))]
            values = np.fromiter(row.entries.values(), dtype=np.float64, count=len(row.entries))
            inside = columns >= 0
            rows = np.full(int(inside.sum()), at, dtype=np.int64)
            builder.entries(rows, columns[inside], values[inside])
        return builder.build()

    def _blocks(self) -> Blocks:
        """The blocks as arrays; a group is all blocks whose first rate serves one demand."""
        blocks, place = self.found.blocks, self.place
        rates = self._rates()
        sizes = [len(b.time) for b in blocks]
        time = np.array([t for b in blocks for t in b.time.values()])
        at = np.array([place[r] for r in rates], dtype=np.int32)
        forced = np.array([r in self.found.force for r in rates], dtype=np.bool_)
        first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        leading = self.milp.start[at[first[:-1]]]
        return Blocks(
            count=np.array([place[b.count] for b in blocks], dtype=np.int32),
            rate=at,
            first=first,
            time=time,
            most=np.where(forced, 1.0, 1.0 / time),
            beside=np.array([b.beside.get(r, 0.0) for b in blocks for r in b.time]),
            limit=np.array([self.relaxed.upper[b.count] for b in blocks]),
            group=self.milp.index[np.minimum(leading, len(self.milp.index) - 1)].astype(np.int32),
            private_rows=np.zeros(0, dtype=np.int32),
            row_block=np.zeros(0, dtype=np.int32),
        )


def find_blocks(relaxed: Relaxation) -> Found:
    """The blocks of a relaxation, none where they are few; levels that are held change nothing."""
    found = Found()
    for name, row in relaxed.rows.items():
        if name.startswith("force["):
            rate = next(v for v, value in row.entries.items() if value > 0)
            found.force[rate] = name
    for name, row in relaxed.rows.items():
        if name.startswith("time["):
            block = _block(relaxed, name[len("time[") : -1], row)
            if block is not None:
                found.blocks.append(block)
    if len(found.blocks) <= FEW_BLOCKS:
        return Found()
    for block in found.blocks:
        own = {f"time[{block.name}]", f"moves[{block.name}]", block.beside_row}
        own |= {found.force[rate] for rate in block.time if rate in found.force}
        found.private |= own & relaxed.rows.keys()
        moves = relaxed.rows.get(f"moves[{block.name}]")
        if moves is not None:
            found.dropped |= set(moves.entries) - {block.count}
    return found


def _block(relaxed: Relaxation, name: str, row: Row) -> _Block | None:
    """A column as a block; None where something runs on it, or where its rows are others."""
    count, factor = next((v, -value) for v, value in row.entries.items() if value < 0)
    time = {v: value / factor for v, value in row.entries.items() if v != count}
    if not time or min(time.values()) <= 0.0:
        return None
    beside_rows = [r for r in (f"{KV}[{name}]", f"{NIC}[{name}]") if r in relaxed.rows]
    if len(beside_rows) > 1:
        return None
    beside, per_beside = dict[int, float](), 1.0
    for found in beside_rows:
        entries = relaxed.rows[found].entries
        per_beside = -entries[count]
        if per_beside <= 0.0:
            return None
        beside = {v: value / per_beside for v, value in entries.items() if v != count}
    moves, start = relaxed.rows.get(f"moves[{name}]"), None
    if moves is not None:
        start, stop, *flips = (v for v in moves.entries if v != count)
        if flips:
            return None
        if moves.upper > 0.0 or relaxed.upper[stop] > 0.0:
            return None
    return _Block(name, count, factor, time, beside, "".join(beside_rows), per_beside, start)
