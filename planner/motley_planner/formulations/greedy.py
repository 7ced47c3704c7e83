"""A first plan without a solver, so that a search cut short at any moment leaves something.

Keeps what runs, then serves class after class (highest priority first) with the cheapest colocated
column that still fits, by price per request where columns have prices and by GPUs where not.
Cascades follow one policy that meets their floor. Rows of the MILP itself say what fits.
"""

from __future__ import annotations

import math

import numpy as np

from motley_planner.domain.table import CascadeDemand, RequestClass
from motley_planner.formulations.program import Index, demands
from motley_planner.solver.milp import Floats, Milp

FEASIBLE = 1e-7
_SOFT = ("time[", "nic[", "force", "demand[", "cascade[", "one_hot", "quality[")


def greedy_start(milp: Milp, index: Index, start: Floats) -> Floats | None:
    """A feasible point that extends `start` (what runs, no rates); None where greed fails.

    Not tried for max_min, whose scale is one number for all, nor where nodes have prices.
    """
    priced = any(v is not None for v in index.packing.open_used) or index.packing.held_used
    if index.demand.scale is not None or priced:
        return None
    for avoided in dict.fromkeys((frozenset[int](), _limited_in_rate(index))):
        filler = _Filler(milp, index, start, avoided)
        for demand in sorted(demands(index.table), key=lambda d: -d.priority):
            if demand.requests_per_second > 0:
                filler.serve(demand)
        _release_shortfalls(milp, index, filler.x)
        if milp.violation(filler.x) <= FEASIBLE:
            return filler.x
    return None


def _release_shortfalls(milp: Milp, index: Index, x: Floats) -> None:
    """Lowers each minimum's shortfall, set before anything was served, to what is still missing."""
    spare = milp.activity(x) - milp.row_lower
    for variable in index.lacking.values():
        (at,) = range(milp.start[variable], milp.start[variable + 1])
        slack = max(0.0, float(spare[milp.index[at]])) / milp.value[at]
        x[variable] = max(0.0, x[variable] - slack)


def _limited_in_rate(index: Index) -> frozenset[int]:
    """Columns whose share of the rate is limited beside others': without them no limit is broken."""
    position = {c.id: i for i, c in enumerate(index.table.columns)}
    return frozenset(
        position[column]
        for row in index.table.side_rows
        if row.at_most is not None and len({c for c, _ in row.per_rate}) > 1
        for (column, _), amount in row.per_rate.items()
        if amount > 0
    )


class _Filler:
    def __init__(
        self, milp: Milp, index: Index, start: Floats, avoided: frozenset[int] = frozenset()
    ) -> None:
        self.avoided = avoided
        self.milp, self.index, self.x = milp, index, start.copy()
        hard = np.array([not name.startswith(_SOFT) for name in index.row_names], dtype=np.bool_)
        self.room = np.where(hard, milp.row_upper - milp.activity(self.x), np.inf)
        self.free_time = np.zeros(len(index.table.columns))
        for group in index.packing.kept:
            self.free_time[group.column] += self.x[group.variable]
        self.order = self._columns_by_cost()

    def _columns_by_cost(self) -> dict[str, list[int]]:
        """Class -> columns that serve it, cheapest request first."""
        columns = self.index.table.columns
        order: dict[str, list[int]] = {}
        for i, name in self.index.demand.rates:
            if columns[i].phase == "both" and i not in self.avoided:
                order.setdefault(name, []).append(i)
        for name, choices in order.items():
            choices.sort(key=lambda i: self._cost(i) / columns[i].requests_per_second[name])
        return order

    def _cost(self, i: int) -> float:
        column = self.index.table.columns[i]
        return column.price_usd_per_hour + 1e-3 * column.gpus

    def serve(self, demand: RequestClass | CascadeDemand) -> None:
        """Serves as much of a demand as fits; an unserved rest stays open."""
        if isinstance(demand, CascadeDemand):
            self._serve_cascade(demand)
            return
        given = self._give(demand.name, demand.requests_per_second)
        if demand.name in self.index.demand.served:
            share = given / demand.requests_per_second
            self.x[self.index.demand.served[demand.name]] = min(1.0, share)

    def _serve_cascade(self, cascade: CascadeDemand) -> None:
        good = [
            p
            for p in cascade.policies
            if p.quality >= cascade.quality_floor and not self._breaks_a_row(cascade, p.id)
        ]
        if not good:
            return
        policy = min(good, key=lambda p: sum(p.load.values()))
        before, free, room = self.x.copy(), self.free_time.copy(), self.room.copy()
        for name, load in policy.load.items():
            wanted = load * cascade.requests_per_second
            if wanted > 0 and self._give(name, wanted) < wanted * (1 - 1e-12):
                self.x, self.free_time, self.room = before, free, room
                return
        self.x[self.index.demand.shares[cascade.name, policy.id]] = 1.0
        if (cascade.name, policy.id) in self.index.demand.chosen:
            self.x[self.index.demand.chosen[cascade.name, policy.id]] = 1.0
        if (cascade.name, policy.tier) in self.index.demand.tiers:
            self.x[self.index.demand.tiers[cascade.name, policy.tier]] = 1.0
        if cascade.name in self.index.demand.served:
            self.x[self.index.demand.served[cascade.name]] = 1.0

    def _breaks_a_row(self, cascade: CascadeDemand, policy: str) -> bool:
        """Whether the policy alone breaks a limit on the mix, such as late answers."""
        return any(
            row.at_most is not None
            and row.per_policy.get((cascade.name, policy), 0.0) > row.at_most
            for row in self.index.table.side_rows
        )

    def _give(self, name: str, wanted: float) -> float:
        """Requests/s given to a class: free time first, then new replicas."""
        left = wanted
        for fresh in (False, True):
            for i in self.order.get(name, ()):
                if left <= 0:
                    return wanted
                capacity = self.index.table.columns[i].requests_per_second[name]
                if fresh:
                    self._start(i, math.ceil(left / capacity - 1e-12))
                rate = min(left, self.free_time[i] * capacity)
                if rate > 0:
                    variable, unit = self.index.demand.rates[i, name]
                    self.x[variable] += rate / unit
                    self.free_time[i] -= rate / capacity
                    left = 0.0 if rate == left else left - rate
        return wanted - left

    def _start(self, i: int, wanted: int) -> None:
        """Starts as many of `wanted` replicas as fit."""
        variable = self.index.packing.new[i]
        begin, end = self.milp.start[variable], self.milp.start[variable + 1]
        rows, values = self.milp.index[begin:end], self.milp.value[begin:end]
        takes = values > 0
        fits = (self.room[rows[takes]] + 1e-9) / values[takes]
        most = min(wanted, self.milp.col_upper[variable] - self.x[variable])
        most = min(most, float(np.floor(fits.min()))) if fits.size else most
        if most > 0:
            self.x[variable] += most
            self.free_time[i] += most
            self.room[rows] -= values * most
