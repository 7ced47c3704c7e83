"""What counts of replicas fit: nodes, column prices within the budget, limits; no solver needed.

Rows over counts, all of the form A n <= b: nested floors of the packing (exact for sizes that are
powers of two, see formulations/packing.py), the budget, and side rows with `at_most`. Prices of
nodes in use are left to the scorer.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from motley_planner.domain.table import FleetTable
from motley_planner.strategies.views import Counts

Floats = NDArray[np.float64]
ROUNDING = 1e-9


class Stock:
    """The limits on replica counts of a table without `previous`."""

    def __init__(self, table: FleetTable) -> None:
        assert table.previous is None
        self.table, self.size = table, len(table.columns)
        self.limits: list[float] = []
        self._rows: list[dict[int, float]] = []
        self._add_packing()
        self._add_money_and_sides()
        self.matrix: Floats = np.zeros((len(self._rows), self.size))
        for r, row in enumerate(self._rows):
            for i, value in row.items():
                self.matrix[r, i] = value
        self.limit: Floats = np.array(self.limits, dtype=np.float64)
        self.most: Floats = np.array(
            [math.inf if c.max_count is None else c.max_count for c in table.columns]
        )
        self.least: Floats = np.array([max(1, c.min_count) for c in table.columns], np.float64)
        self.slack: Floats = ROUNDING * np.maximum(1.0, np.abs(self.limit))

    def _add_packing(self) -> None:
        uses: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(dict)
        for i, column in enumerate(self.table.columns):
            for fragment in column.fragments:
                uses[fragment.gpu, column.zone].setdefault(i, []).append(fragment.tp)
        for node_class, by_column in uses.items():
            groups = [g for g in self.table.nodes if (g.gpu, g.zone) == node_class]
            for q in sorted({tp for sizes in by_column.values() for tp in sizes}):
                room = 0.0
                for group in groups:
                    slots = q * (group.gpus // q)
                    if slots:
                        room += math.inf if group.count is None else group.count * slots
                if math.isfinite(room):
                    row = {i: float(sum(t for t in s if t >= q)) for i, s in by_column.items()}
                    self._rows.append({i: v for i, v in row.items() if v > 0})
                    self.limits.append(room)

    def _add_money_and_sides(self) -> None:
        columns = self.table.columns
        if self.table.budget_usd_per_hour is not None:
            prices = {i: c.price_usd_per_hour for i, c in enumerate(columns)}
            self._rows.append(prices)
            self.limits.append(self.table.budget_usd_per_hour)
        position = {c.id: i for i, c in enumerate(columns)}
        for side in self.table.side_rows:
            if side.at_most is not None:
                self._rows.append({position[c]: n for c, n in side.per_replica.items()})
                self.limits.append(side.at_most)

    def fits(self, counts: Counts) -> bool:
        """Whether these counts can be placed, paid and are allowed."""
        number = np.asarray(counts, dtype=np.float64)
        if (number > self.most).any() or ((number > 0) & (number < self.least)).any():
            return False
        return not (self.matrix @ number > self.limit + self.slack).any()

    def most_more(self, counts: Counts, column: int) -> int:
        """How many more replicas of a column fit beside these (at most 2**31).

        0 where fewer fit than the column's `min_count` asks for.
        """
        number = np.asarray(counts, dtype=np.float64)
        left = self.limit + self.slack - self.matrix @ number
        takes = self.matrix[:, column] > 0
        most = float(self.most[column] - number[column])
        if takes.any():
            most = min(most, float((left[takes] / self.matrix[takes, column]).min()))
        more = max(0, math.floor(min(most, 2.0**31)))
        return more if number[column] + more >= self.least[column] else 0

    def step(self, counts: Counts, column: int) -> int:
        """The least that a column may grow by: 1, or up to its `min_count`."""
        return max(1, int(self.least[column]) - counts[column])

    def whole(self, counts: Counts) -> Counts:
        """Counts with no column under its `min_count`: raised where that fits, else dropped."""
        for i, n in enumerate(counts):
            if 0 < n < self.least[i]:
                none = plus(counts, i, -n)
                more = int(self.least[i])
                counts = plus(none, i, more) if self.most_more(none, i) >= more else none
        return counts

    def fitting(self, counts: Counts) -> NDArray[np.bool_]:
        """For each column whether it may grow by a step beside these."""
        number = np.asarray(counts, dtype=np.float64)
        step = np.maximum(1.0, self.least - number)
        left = self.limit + self.slack - self.matrix @ number
        blocked = ((self.matrix * step > left[:, None]) & (self.matrix > 0)).any(axis=0)
        return ~blocked & (number + step <= self.most)

    def trimmed(self, counts: Counts) -> Counts:
        """Counts that fit: the largest replicas go first until they do."""
        order = sorted(range(self.size), key=lambda i: -self.table.columns[i].gpus)
        found = list(counts)
        for column, n in enumerate(found):
            found[column] = 0 if 0 < n < self.least[column] else n
        while not self.fits(tuple(found)):
            over = self.limit + self.slack < self.matrix @ np.asarray(found, dtype=np.float64)
            guilty = (self.matrix[over] > 0).any(axis=0) | (np.asarray(found) > self.most)
            i = next((i for i in order if found[i] and guilty[i]), None)
            if i is None:
                return (0,) * self.size
            found[i] -= 1 if found[i] > self.least[i] else found[i]
        return tuple(found)


def plus(counts: Counts, column: int, more: int = 1) -> Counts:
    """The counts with `more` replicas of one column added."""
    return (*counts[:column], counts[column] + more, *counts[column + 1 :])
