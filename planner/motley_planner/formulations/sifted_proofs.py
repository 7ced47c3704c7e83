"""Certificates of tables with many columns: prices found on the best of them, tried on all others.

A certificate may price limits as it likes; what it proves follows. So the program of prices is that
of few columns, and each of the others is then looked at once: its own time is priced at what its best
class is worth there, which leaves its rates nothing to gain, and

    max(0, c_y + factor time_price - what the shared limits charge) x the most replicas of it

is what it adds to the bound. Columns that add much join the few, and the prices are found anew.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from motley_planner.checker.asked import largest_scale, most_asked
from motley_planner.checker.certificates import SCALE, held, whole_scale
from motley_planner.checker.relaxation import Relaxation, relax
from motley_planner.checker.room import going_on, gpus_by_kind, most_replicas, nodes_by_kind
from motley_planner.domain.certificate import Certificate
from motley_planner.domain.solution import Level, Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.certifying import find_prices
from motley_planner.formulations.proving import find_blocks
from motley_planner.formulations.pruning import best_columns
from motley_planner.solver.clock import CLOCK

ROUNDS = 4  # in which columns join
JOIN = 400  # columns that join in one, those that add most
CLOSE = 1e-4  # share of the bound that the others may add before they join
INF = math.inf
Size = tuple[str, str, int]  # GPU, zone, tensor-parallel size of a fragment


def can_sift(table: FleetTable) -> bool:
    """Whether the table has nothing that names columns one by one."""
    return not (table.side_rows or table.scenarios)


def certify_sifted(
    table: FleetTable, solution: Solution, time_limit_s: float, *, use_worker: bool = True
) -> tuple[Certificate, ...]:
    """A certificate for each level that one is found for in time; of an infeasible table its scale's.

    The same as `certifying.certify` proves, up to `CLOSE`, in a part of the time.
    """
    deadline, found = CLOCK.now() + time_limit_s, list[Certificate]()
    if solution.status == "no_solution" or not can_sift(table):
        return ()
    levels: Sequence[Level] = solution.levels
    if solution.status == "infeasible":
        table, levels = whole_scale(table), (Level(SCALE, 0.0, None, None),)
    sifted = _Sifted(table, {r.column for r in solution.replicas})
    for level in levels:
        best: Certificate | None = None
        for _ in range(ROUNDS):
            left_s = deadline - CLOCK.now()
            relaxed = held(sifted.relaxed, levels, level.name)
            if left_s <= 0.0 or level.name not in relaxed.levels or level.value is None:
                break
            one = find_prices(relaxed, level.name, find_blocks(relaxed), left_s, use_worker)
            if one is None:
                break
            one, joining = sifted.on_all(relaxed, one)
            sign = -1.0 if level.name == "price" else 1.0
            if best is None or sign * one.bound < sign * best.bound:
                best = one
            if not joining:
                break
            sifted.join(joining)
        found += [best] if best is not None else []
    if solution.status == "infeasible":
        return tuple(one for one in found if one.bound < 1.0)
    return tuple(found)


class _Sifted:
    """A table, and the relaxation of the few columns that prices are found on."""

    def __init__(self, table: FleetTable, used: Collection[str] = ()) -> None:
        self.table, self.relaxed = table, Relaxation()
        self.asked = most_asked(table)
        self.sizes = self._sizes()
        self.most = self._most_replicas()
        self.kept: set[int] = set()
        planned = {i for i, column in enumerate(table.columns) if column.id in used}
        self.join(best_columns(table) | planned | set(self.sizes.values()))

    def join(self, columns: set[int]) -> None:
        """Takes columns to the few, whose variables keep the bounds of the whole table."""
        self.kept |= columns
        few = tuple(self.table.columns[i] for i in sorted(self.kept))
        self.relaxed = relax(replace(self.table, columns=few))
        if SCALE in self.relaxed.levels:
            most = self._largest_scale()
            served = {v for v, c in self.relaxed.levels[SCALE][0].items() if c > 0}
            for name, row in self.relaxed.rows.items():
                if name.startswith("cascade["):
                    served |= row.entries.keys()
            for variable in served:
                self.relaxed.upper[variable] = most

    def on_all(self, relaxed: Relaxation, one: Certificate) -> tuple[Certificate, set[int]]:
        """The certificate with prices for all columns, and those that should join the few."""
        prices, level = dict(one.multipliers), one.level
        usd = (level == "price") + prices.get("budget", 0.0) - prices.get("hold[price]", 0.0)
        start = self._start_worth(relaxed, one)
        charges = self._charges(prices)
        worth = self._worth_of_requests(prices)
        added: dict[int, float] = {}
        for i, column in enumerate(self.table.columns):
            if i in self.kept:
                continue
            shares, of_phase = column.time_share, worth[column.phase]
            time = 0.0
            for name, capacity in column.requests_per_second.items():
                if capacity > 0 and name in of_phase:
                    time = max(time, of_phase[name] * capacity / shares.get(name, 1.0))
            if time <= 0.0 and usd >= 0.0 and start <= 0.0:
                continue
            prices[f"time[{column.id}]"] = time
            factor = max([1.0, *(s.factor for s in column.pool_steps)])
            left = factor * time - usd * column.price_usd_per_hour + start * column.gpus
            for fragment in column.fragments:
                left -= charges[fragment.gpu, column.zone, fragment.tp]
            if start:
                prices[f"moves[{column.id}]"] = -start * column.gpus
            if left > 0.0:
                added[i] = left * self.most[i]
        more = math.fsum(added.values())
        bound = one.bound - more if level == "price" else one.bound + more
        joining = set[int]()
        if more > CLOSE * abs(one.bound):
            joining = set(sorted(added, key=lambda i: -added[i])[:JOIN])
        return Certificate(level, bound, prices), joining

    def _start_worth(self, relaxed: Relaxation, one: Certificate) -> float:
        """What one started GPU adds to the level at the prices of levels that are held."""
        of_id = {self.table.columns[i].id: self.table.columns[i] for i in self.kept}
        for name, row in relaxed.rows.items():
            if name.startswith("moves["):
                start = next(v for v, c in row.entries.items() if c < 0)  # flips come after it
                worth = relaxed.levels[one.level][0].get(start, 0.0)
                for other, price in one.multipliers.items():
                    if other.startswith("hold["):
                        worth -= price * relaxed.rows[other].entries.get(start, 0.0)
                return worth / of_id[name[len("moves[") : -1]].gpus
        return 0.0

    def _worth_of_requests(self, prices: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Phase of a column -> class -> what one request/s is worth at the prices of demand."""
        worth: dict[str, dict[str, float]] = {"both": {}, "prefill": {}, "decode": {}}
        for name, asked in self.asked.items():
            for phase in ("prefill", "decode"):
                one = -prices.get(f"demand[{name},{phase}]", 0.0) / asked
                worth[phase][name] = one
                worth["both"][name] = worth["both"].get(name, 0.0) + one
        return worth

    def _sizes(self) -> dict[Size, int]:
        """A column of each size of fragment on each kind of node: they decide which rows there are."""
        found: dict[Size, int] = {}
        for i, column in enumerate(self.table.columns):
            for fragment in column.fragments:
                found.setdefault((fragment.gpu, column.zone, fragment.tp), i)
        return found

    def _charges(self, prices: Mapping[str, float]) -> dict[Size, float]:
        """What a fragment of each size pays for the GPUs of its kind of node."""
        charges = {}
        for gpu, zone, tp in self.sizes:
            slots = {q for g, z, q in self.sizes if (g, z) == (gpu, zone) and q <= tp} | {1}
            named = (f"gpus[{gpu},{zone},{q}]" for q in slots)
            charges[gpu, zone, tp] = tp * math.fsum(prices.get(name, 0.0) for name in named)
        return charges

    def _most_replicas(self) -> list[float]:
        """The most replicas of each column, as the relaxation has them."""
        gpus = gpus_by_kind(nodes_by_kind(self.table, {(gpu, zone) for gpu, zone, _ in self.sizes}))
        runs = going_on(self.table)
        return [max(most_replicas(c, gpus), runs[c.id]) for c in self.table.columns]

    def _largest_scale(self) -> float:
        given: dict[str, float] = defaultdict(float)
        for column, most in zip(self.table.columns, self.most, strict=True):
            if column.phase != "decode":
                factor = max([1.0, *(s.factor for s in column.pool_steps)])
                for name, capacity in column.requests_per_second.items():
                    if capacity > 0 and name in self.asked:
                        given[name] += factor * most * capacity
        return largest_scale(self.table, given)
