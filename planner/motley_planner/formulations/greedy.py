"""A first plan without a solver, so that a search cut short at any moment leaves something.

Keeps what runs, then serves class after class (highest priority first) with the colocated column
that is cheapest per request and still fits: by price where money counts, else by its share of the
fleet. Cascades follow one policy that meets their floor. For max_min the largest scale at which
everything is served that way is found by doubling and halving. Rows of the MILP itself say what
fits; nodes with a price are opened where something is placed.
"""

from __future__ import annotations

import math

import numpy as np

from motley_planner.domain.table import CascadeDemand, RequestClass
from motley_planner.formulations.finishing import close_unused, release_shortfalls, set_used
from motley_planner.formulations.program import Index, demands
from motley_planner.solver.milp import Floats, Milp

FEASIBLE = 1e-7
OPEN = 1e6  # nodes of an unlimited group that may be opened
CHOICES = 60  # cheapest columns that are tried for a class, besides the best of each shape
SCANNED = 500  # of a class's columns, by cost
BUDGETS = (1.0, 0.75, 0.5)  # shares of the budget tried where whole nodes cost money
STEPS, DOUBLINGS = 5, 12
ROUNDS = 3  # of leaving out what breaks a limit
PARTS = (0.75, 0.5, 0.25, 0.1, 0.03)  # of a cascade that cannot be served whole
MOST_REPLICAS = 20_000  # more is no plan that anybody could place in time
_SOFT = (
    "time[",
    "nic[",
    "force",
    "demand[",
    "cascade[",
    "one_hot",
    "quality[",
    "budget",
    "min_count[",
    "pool",
)


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
        self.base_time = np.zeros(len(index.table.columns))
        self.base_time += self.start[new]
        for kept in index.packing.kept:
            self.base_time[kept.column] += self.start[kept.variable]
        self.price = self._prices()
        self.order = self._columns_by_cost(self._costs())

    def _prices(self) -> Floats:
        """USD/h of a replica with its part of the nodes that would be opened for it."""
        table = self.index.table
        per_gpu: dict[tuple[str, str], float] = {}
        for group in self.index.inventory.open_groups:
            price = group.price_usd_per_hour / group.gpus
            per_gpu[group.node_class] = min(price, per_gpu.get(group.node_class, math.inf))
        prices = np.array([c.price_usd_per_hour for c in table.columns])
        if any(per_gpu.values()):
            for i, column in enumerate(table.columns):
                prices[i] += sum(
                    f.tp * per_gpu.get((f.gpu, column.zone), 0.0) for f in column.fragments
                )
        return prices

    def _costs(self) -> Floats:
        """What the greed minimizes per request: USD/h, or the share of the fleet."""
        start, rows, values = self.takes
        owner = np.repeat(np.arange(len(self.price)), np.diff(start))
        room = self.base_room[rows]
        counted = (values > 0) & np.isfinite(room)
        share = np.where(counted, values / np.maximum(room, 1e-9), 0.0)
        shares = np.bincount(owner, weights=np.minimum(share, 1e6), minlength=len(self.price))
        table = self.index.table
        if table.objective == "max_min" and table.budget_usd_per_hour is None:
            return shares + 1e-9 * self.price + 1e-9
        return self.price + 1e-3 * shares + 1e-9

    def _columns_by_cost(self, cost: Floats) -> dict[str, list[tuple[int, int]]]:
        """Class -> (column, position of its rate), cheapest request first."""
        columns, rates = self.index.table.columns, self.index.demand.rates
        order: dict[str, list[tuple[int, int]]] = {}
        for name in rates.names:
            at = rates.of_class(name)
            each = cost[rates.column[at]] / rates.capacity[at]
            at = at[np.argsort(each, kind="stable")]
            shapes: set[object] = set()
            found: list[tuple[int, int]] = []
            beyond = at[SCANNED:]
            running = beyond[self.base_time[rates.column[beyond]] > 0]
            for k in [*at[:SCANNED].tolist(), *running.tolist()]:
                i = int(rates.column[k])
                column = columns[i]
                if column.phase != "both":
                    continue
                shape = (column.zone, *sorted({f.gpu for f in column.fragments}))
                if len(found) < CHOICES or shape not in shapes or self.base_time[i]:
                    found.append((i, k))
                    shapes.add(shape)
            order[name] = found
        return order

    def fill(self, scale: float, share: float) -> Floats | None:
        """Serves `scale` x every demand; None where max_min or min_cost cannot have it all."""
        self.x, self.room = self.start.copy(), self.base_room.copy()
        self.free_time = self.base_time.copy()
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
            served = self._serve_cascade(demand, scale)
            for part in PARTS if demand.name in out.served and not served else ():
                if self._serve_cascade(demand, scale, part):
                    break
        else:
            wanted = demand.requests_per_second * scale
            given = self._give(demand.name, wanted)
            served = given >= wanted * (1 - 1e-12)
            if demand.name in out.served:
                share = given / demand.requests_per_second
                self.x[out.served[demand.name]] = min(1.0, share)
        return served or demand.name in out.served

    def _serve_cascade(self, cascade: CascadeDemand, scale: float, part: float = 1.0) -> bool:
        """Serves `part` of the cascade by the policy that asks for least, or nothing of it."""
        good = [
            p
            for p in cascade.policies
            if p.quality >= cascade.quality_floor and not self._breaks_a_row(cascade, p.id)
        ]
        if not good:
            return False
        out = self.index.demand
        policy = min(good, key=lambda p: sum(p.load.values()))
        before = self.x.copy(), self.free_time.copy(), self.room.copy(), self.money
        for name, load in policy.load.items():
            wanted = load * cascade.requests_per_second * scale * part
            if wanted > 0 and self._give(name, wanted) < wanted * (1 - 1e-12):
                self.x, self.free_time, self.room, self.money = before
                return False
        self.x[out.shares[cascade.name, policy.id]] = scale * part
        if (cascade.name, policy.id) in out.chosen:
            self.x[out.chosen[cascade.name, policy.id]] = 1.0
        if (cascade.name, policy.tier) in out.tiers:
            self.x[out.tiers[cascade.name, policy.tier]] = 1.0
        if cascade.name in out.served:
            self.x[out.served[cascade.name]] = part
        return True

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
            self.free_time[i] += most
            self.room[rows] -= values * most
            self.money -= most * self.price[i]
