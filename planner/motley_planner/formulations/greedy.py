"""A first plan without a solver, so that a search cut short at any moment leaves something.

Keeps what runs, then serves class after class (highest priority first) with the colocated column
that is cheapest per request and still fits: by price where money counts, else by its share of the
fleet (unitcosts.py). Cascades follow the cheapest policies that meet their floor. For max_min the
largest scale at which everything is served that way is found by doubling and halving. Rows of the
MILP itself say what fits; nodes with a price are opened where something is placed.
"""

from __future__ import annotations

import math

import numpy as np

from motley_planner.domain.table import CascadeDemand, CascadePolicy, RequestClass
from motley_planner.formulations.finishing import close_unused, release_shortfalls, set_used
from motley_planner.formulations.program import Index, demands
from motley_planner.formulations.unitcosts import UnitCosts
from motley_planner.solver.milp import Floats, Milp

FEASIBLE = 1e-7
OPEN = 1e6  # nodes of an unlimited group that may be opened
BUDGETS = (1.0, 0.75, 0.5)  # shares of the budget tried where whole nodes cost money
STEPS, DOUBLINGS = 5, 12
ROUNDS = 3  # of leaving out what breaks a limit
PIECES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)  # of a cascade, given one after the other
POLICIES = 3  # of a cascade that are tried, cheapest first
MOST_REPLICAS = 20_000  # more is no plan that anybody could place in time
_SOFT = (
    "time[",
    "nic[",
    "kv[",
    "force",
    "demand[",
    "cascade[",
    "one_hot",
    "quality[",
    "budget",
    "min_count[",
    "pool",
)


_State = tuple[Floats, Floats, Floats, Floats, float]  # x, free time, counts, room, money


def greedy_start(milp: Milp, index: Index, start: Floats) -> Floats | None:
    """A feasible point that extends `start` (what runs, no rates); None where greed fails.

    Limits on rates (a share of spot, say) are not looked at while filling. Where one is broken, the
    columns that count against it are left out and all is filled again.
    """
    base = _Filler(milp, index, start)
    priced = any(v is not None for v in index.packing.open_used)
    for _ in range(ROUNDS):
        filled: Floats | None = None
        for share in BUDGETS if priced else BUDGETS[:1]:
            if index.demand.scale is None:
                filled = base.fill(1.0, share)
            else:
                filled = _largest_scale(base, index, share)
            if filled is None:
                continue
            set_used(index, filled)
            release_shortfalls(milp, index, filled)
            if priced:
                close_unused(index, filled)
            if milp.violation(filled) <= FEASIBLE:
                return filled
        if filled is None or not base.leave_out(filled):
            return None
    return None


def _largest_scale(base: _Filler, index: Index, share: float) -> Floats | None:
    most = index.scale_limit if math.isfinite(index.scale_limit) else 1e9
    scale = min(1.0, most)
    best = base.fill(scale, share)
    factor = 2.0 if best is not None else 0.5
    low, high = (scale, math.inf) if best is not None else (0.0, scale)
    for _ in range(DOUBLINGS):
        scale = min(scale * factor, most)
        found = base.fill(scale, share)
        if found is not None:
            best, low = found, scale
        else:
            high = scale
        if (found is None) == (factor > 1) or scale >= most:
            break
    for _ in range(STEPS if best is not None and math.isfinite(high) else 0):
        middle = (low + high) / 2
        found = base.fill(middle, share)
        low, high, best = (middle, high, found) if found is not None else (low, middle, best)
    return best


class _Filler:
    def __init__(self, milp: Milp, index: Index, start: Floats) -> None:
        self.milp, self.index, self.start = milp, index, start.copy()
        for group, used in zip(index.inventory.open_groups, index.packing.open_used, strict=True):
            if used is not None:
                self.start[used] = OPEN if group.count is None else group.count
        hard = np.array([not name.startswith(_SOFT) for name in index.row_names], dtype=np.bool_)
        self.base_room = np.where(hard, milp.row_upper - milp.activity(self.start), np.inf)
        new = np.array(index.packing.new, dtype=np.int64)
        self.takes = milp.columns_of(new.astype(np.int32))
        self.base_count = self.start[new]
        for kept in index.packing.kept:
            self.base_count[kept.column] += self.start[kept.variable]
        for i, entries in index.packing.flipped.items():
            self.base_count[i] += sum(c * self.start[v] for v, c in entries)
        columns = index.table.columns
        self.base_time = np.array(
            [
                c.worth_of(int(n)) if n else 0.0
                for c, n in zip(columns, self.base_count, strict=True)
            ]
        )
        costs = UnitCosts(index, self.takes, self.base_room)
        self.price, self.unit = costs.price, costs.unit
        self.order = costs.columns_by_cost(self.base_time)

    def fill(self, scale: float, share: float) -> Floats | None:
        """Serves `scale` x every demand; None where max_min or min_cost cannot have it all."""
        self.x, self.room = self.start.copy(), self.base_room.copy()
        self.free_time, self.count = self.base_time.copy(), self.base_count.copy()
        budget = self.index.table.budget_usd_per_hour
        self.money = math.inf if budget is None else share * budget - self._spent()
        for demand in sorted(demands(self.index.table), key=lambda d: -d.priority):
            if demand.requests_per_second > 0 and not self._serve(demand, scale):
                return None
        if self.x[self.index.packing.new].sum() > MOST_REPLICAS:
            return None
        if self.index.demand.scale is not None:
            self.x[self.index.demand.scale] = scale
        return self.x

    def leave_out(self, x: Floats) -> bool:
        """Takes the columns that count against a broken limit on rates out; False if there is none."""
        over = self.milp.activity(x) > self.milp.row_upper + FEASIBLE
        limits = np.array([name.startswith("side[") for name in self.index.row_names])
        rates = self.index.demand.rates
        start, rows, values = self.milp.columns_of(rates.variable.astype(np.int32))
        against = (values > 0) & (over & limits)[rows]
        owner = np.repeat(np.arange(len(rates.variable)), np.diff(start))
        out = {int(i) for i in rates.column[owner[against]] if not self.base_time[i]}
        if not out:
            return False
        for name, found in self.order.items():
            self.order[name] = [(i, k) for i, k in found if i not in out]
        return True

    def _spent(self) -> float:
        columns, packing = self.index.table.columns, self.index.packing
        spent = sum(columns[g.column].price_usd_per_hour * self.x[g.variable] for g in packing.kept)
        prices = {h.node.name: h.price_usd_per_hour for h in self.index.inventory.held}
        spent += sum(prices[name] * self.x[used] for name, used in packing.held_used.items())
        return float(spent)

    def _serve(self, demand: RequestClass | CascadeDemand, scale: float) -> bool:
        """Serves as much of a demand as fits; False where less than all will not do."""
        out = self.index.demand
        if isinstance(demand, CascadeDemand):
            share = self._serve_cascade(demand, scale)
        else:
            wanted = demand.requests_per_second * scale
            share = self._give(demand.name, wanted) / wanted if wanted else 1.0
        if demand.name in out.served:
            self.x[out.served[demand.name]] = min(1.0, share)
        return share >= 1.0 - 1e-12 or demand.name in out.served

    def _serve_cascade(self, cascade: CascadeDemand, scale: float) -> float:
        """Serves the cascade piece by piece, each by the cheapest policy that fits; the share."""
        policies, served = self._cheapest(cascade), 0.0
        for piece in PIECES:
            for policy in policies:
                while served + piece <= 1.0 and self._give_piece(cascade, policy, scale * piece):
                    served += piece
                    policies = [p for p in policies if p.tier == policy.tier]
                    policies = policies if cascade.mixture else [policy]
        return served

    def _cheapest(self, cascade: CascadeDemand) -> list[CascadePolicy]:
        """The policies that meet the floor, the cheapest of them."""
        good = [
            (sum(load * self.unit.get(name, math.inf) for name, load in p.load.items() if load), n)
            for n, p in enumerate(cascade.policies)
            if p.quality >= cascade.quality_floor and not self._breaks_a_row(cascade, p.id)
        ]
        return [cascade.policies[n] for cost, n in sorted(good)[:POLICIES] if cost < math.inf]

    def _give_piece(self, cascade: CascadeDemand, policy: CascadePolicy, share: float) -> bool:
        """Serves `share` of the cascade by one policy; False, and nothing changed, where it does not fit."""
        before = self._state()
        for name, load in policy.load.items():
            wanted = load * cascade.requests_per_second * share
            if wanted > 0 and self._give(name, wanted) < wanted * (1 - 1e-12):
                self.x, self.free_time, self.count, self.room, self.money = before
                return False
        out = self.index.demand
        self.x[out.shares[cascade.name, policy.id]] += share
        if (cascade.name, policy.id) in out.chosen:
            self.x[out.chosen[cascade.name, policy.id]] = 1.0
        if (cascade.name, policy.tier) in out.tiers:
            self.x[out.tiers[cascade.name, policy.tier]] = 1.0
        return True

    def _state(self) -> _State:
        kept = self.x.copy(), self.free_time.copy(), self.count.copy(), self.room.copy()
        return (*kept, self.money)

    def _breaks_a_row(self, cascade: CascadeDemand, policy: str) -> bool:
        """Whether the policy alone breaks a limit on the mix, such as late answers."""
        return any(
            row.at_most is not None
            and row.per_policy.get((cascade.name, policy), 0.0) > row.at_most
            for row in self.index.table.side_rows
        )

    def _give(self, name: str, wanted: float) -> float:
        """Requests/s given to a class: free time first, then new replicas."""
        left, rates = wanted, self.index.demand.rates
        for fresh in (False, True):
            for i, k in self.order.get(name, ()):
                if left <= 0:
                    return wanted
                if not fresh and self.free_time[i] <= 0:
                    continue
                capacity = float(rates.capacity[k])
                if fresh:
                    self._start(i, math.ceil(min(left / capacity, 1e9) - 1e-12))
                rate = min(left, self.free_time[i] * capacity)
                if rate > 0:
                    self.x[rates.variable[k]] += rate / rates.unit[k]
                    self.free_time[i] -= rate / capacity
                    left = 0.0 if rate == left else left - rate
        return wanted - left

    def _start(self, i: int, wanted: int) -> None:
        """Starts as many of `wanted` replicas as fit."""
        variable = self.index.packing.new[i]
        begin, end = self.takes[0][i], self.takes[0][i + 1]
        rows, values = self.takes[1][begin:end], self.takes[2][begin:end]
        takes = values > 0
        fits = (self.room[rows[takes]] + 1e-9) / values[takes]
        most = min(wanted, self.milp.col_upper[variable] - self.x[variable])
        most = min(most, float(np.floor(fits.min()))) if fits.size else most
        if self.price[i] > 0 and math.isfinite(self.money):
            most = min(most, math.floor(max(0.0, self.money) / self.price[i] + 1e-9))
        if most > 0:
            self.x[variable] += most
            column, before = self.index.table.columns[i], int(self.count[i])
            self.count[i] += most
            self.free_time[i] += column.worth_of(before + int(most)) - column.worth_of(before)
            self.room[rows] -= values * most
            self.money -= most * self.price[i]
