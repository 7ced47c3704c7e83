"""What a replica and a request cost where greed looks for the cheapest.

By price where money counts, with the part of the nodes that would be opened; else by the share of
the fleet that a replica takes.
"""

from __future__ import annotations

import math

import numpy as np

from motley_planner.formulations.program import Index
from motley_planner.solver.milp import AnyInts, Floats

CHOICES = 60  # cheapest columns that are tried for a class, besides the best of each shape
SCANNED = 500  # of a class's columns, by cost


class UnitCosts:
    """Prices of replicas, and of each class the columns in the order of what a request costs.

    `takes` are the entries (start, rows, values) of the variables of new replicas, `room` what is
    left of each row. `unit` is what the cheapest request of a class costs.
    """

    def __init__(self, index: Index, takes: tuple[AnyInts, AnyInts, Floats], room: Floats) -> None:
        self.index, self.takes, self.room = index, takes, room
        self.price = self._prices()
        self.cost = self._costs()
        rates = index.demand.rates
        self.each = self.cost[rates.column] / rates.capacity
        at = {name: rates.of_class(name) for name in rates.names}
        self.unit = {name: float(self.each[k].min()) for name, k in at.items() if k.size}

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
        room = self.room[rows]
        counted = (values > 0) & np.isfinite(room)
        share = np.where(counted, values / np.maximum(room, 1e-9), 0.0)
        shares = np.bincount(owner, weights=np.minimum(share, 1e6), minlength=len(self.price))
        table = self.index.table
        if table.objective == "max_min" and table.budget_usd_per_hour is None:
            return shares + 1e-9 * self.price + 1e-9
        return self.price + 1e-3 * shares + 1e-9

    def columns_by_cost(self, running: Floats) -> dict[str, list[tuple[int, int]]]:
        """Class -> (column, position of its rate), cheapest request first."""
        columns, rates = self.index.table.columns, self.index.demand.rates
        order: dict[str, list[tuple[int, int]]] = {}
        runs = running.tolist()
        for name in rates.names:
            at = rates.of_class(name)
            at = at[np.argsort(self.each[at], kind="stable")]
            shapes: set[object] = set()
            found: list[tuple[int, int]] = []
            beyond = at[SCANNED:]
            there = beyond[running[rates.column[beyond]] > 0]
            positions = np.concatenate([at[:SCANNED], there])
            listed = zip(positions.tolist(), rates.column[positions].tolist(), strict=True)
            for k, i in listed:
                column = columns[i]
                if column.phase != "both":
                    continue
                shape: object = (column.zone, column.fragments[0].gpu)
                if len(column.fragments) > 1:
                    shape = (column.zone, *sorted({f.gpu for f in column.fragments}))
                if len(found) < CHOICES or shape not in shapes or runs[i]:
                    found.append((i, k))
                    shapes.add(shape)
            order[name] = found
        return order
