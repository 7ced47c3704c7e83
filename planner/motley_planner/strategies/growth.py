"""Adds and takes replicas: what the search strategies' moves are made of.

A replica covers the share 1 / sum_k load_k / capacity_k of the demands it serves, in its phase;
`Growth` adds replicas for what is covered least. It only proposes: the scorer decides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from random import Random

import numpy as np

from motley_planner.domain.table import Column
from motley_planner.strategies.loads import one_policy_loads
from motley_planner.strategies.scorer import Scorer
from motley_planner.strategies.stock import plus
from motley_planner.strategies.views import Counts

ENOUGH = 1.0 - 1e-9
GREEDY = 3  # of a class's best columns, one is drawn


class Growth:
    """Grows counts on one scorer's table, with a seeded source of randomness."""

    def __init__(self, scorer: Scorer, seed: int = 0) -> None:
        self.scorer, self.random = scorer, Random(seed)
        self.columns = scorer.table.columns
        self.loads = one_policy_loads(scorer.table)[1]
        self.rows: list[tuple[str, str]] = []
        for name in self.loads:
            self.rows += [(name, "prefill"), (name, "decode")]
        self.cover = np.zeros((len(self.rows), len(self.columns)))
        for i, column in enumerate(self.columns):
            share = self._share(column)
            for r, (name, phase) in enumerate(self.rows):
                able = column.requests_per_second.get(name, 0.0) > 0
                if able and column.phase in ("both", phase):
                    self.cover[r, i] = share
        cost = [c.price_usd_per_hour or 1e-3 * c.gpus for c in self.columns]
        self.worths = self.cover.max(axis=0, initial=0.0) / np.array(cost)
        self.able = [np.flatnonzero(row) for row in self.cover]
        self.by_shape = self._shapes()

    def _share(self, column: Column) -> float:
        busy = [
            load / column.requests_per_second[k]
            for k, load in self.loads.items()
            if column.requests_per_second.get(k, 0.0) > 0
        ]
        return 1.0 / sum(busy) if busy else 0.0

    def _shapes(self) -> dict[tuple[str, str, tuple[tuple[str, int], ...]], list[int]]:
        """(model, zone, fragments) -> columns that differ in phase or KV scale alone."""
        found = defaultdict(list)
        for i, column in enumerate(self.columns):
            found[shape_of(column)].append(i)
        return dict(found)

    def worth(self, column: int) -> float:
        """Share of demand that a dollar (without prices: a GPU) of this column covers."""
        return float(self.worths[column])

    def grow(
        self, counts: Counts, allowed: Collection[int] | None = None, most: int = 10**6
    ) -> Counts:
        """More replicas until all demand is covered (max_min: until nothing fits)."""
        endless = self.scorer.table.objective == "max_min"
        dead: set[int] = set()
        for _ in range(most):
            covered = self.cover @ np.asarray(counts, dtype=np.float64)
            wanted = [r for r in range(len(self.rows)) if r not in dead]
            wanted = [r for r in wanted if endless or covered[r] < ENOUGH]
            if not wanted or self.scorer.out_of_time:
                break
            row = min(wanted, key=lambda r: covered[r])
            column = self._draw(counts, row, allowed)
            if column is None:
                dead.add(row)
                continue
            counts = plus(counts, column, self._batch(counts, column, covered[row]))
        return counts

    def _draw(self, counts: Counts, row: int, allowed: Collection[int] | None) -> int | None:
        """One of the best columns for a row that still fits."""
        fits = self.scorer.stock.fitting(counts)
        able = [int(i) for i in self.able[row] if fits[i] and (allowed is None or i in allowed)]
        able.sort(key=lambda i: -self.worths[i] * self.random.uniform(0.6, 1.0))
        return self.random.choice(able[:GREEDY]) if able else None

    def _batch(self, counts: Counts, column: int, covered: float) -> int:
        """Several at once on large fleets, so that growing takes few steps."""
        share = float(self.cover[:, column].max())
        missing = max(0.0, 1.0 - covered) / share if share > 0 else 1.0
        most = self.scorer.stock.most_more(counts, column)
        several = min(most, int(missing / 4), sum(counts) // 8 + 1)
        return max(self.scorer.stock.step(counts, column), several)

    def drop(self, counts: Counts) -> tuple[Counts, int | None]:
        """One replica less (all of a column at its `min_count`), drawn by count; its column too."""
        present = [i for i, n in enumerate(counts) if n]
        if not present:
            return counts, None
        column = self.random.choices(present, [counts[i] for i in present])[0]
        least = int(self.scorer.stock.least[column])
        gone = 1 if counts[column] > least else counts[column]
        return plus(counts, column, -gone), column

    def thin(self, counts: Counts) -> Counts:
        """One replica less."""
        return self.drop(counts)[0]

    def swap(self, counts: Counts) -> Counts:
        """Some replicas out, others in."""
        for _ in range(self.random.choice((1, 1, 2, 3))):
            counts, _ = self.drop(counts)
        return self.grow(counts)

    def merge(self, counts: Counts) -> Counts:
        """Two replicas become one of the best layouts on no more GPUs of each type."""
        less, first = self.drop(counts)
        less, second = self.drop(less)
        if first is None or second is None:
            return counts
        room = gpus_by_type(self.columns[first]) + gpus_by_type(self.columns[second])
        model = self.columns[first].model
        able = [
            i
            for i, c in enumerate(self.columns)
            if c.model == model
            and c.gpus > max(self.columns[first].gpus, self.columns[second].gpus)
            and gpus_by_type(c) <= room
        ]
        able.sort(key=lambda i: -float(self.cover[:, i].max(initial=0.0)))
        return plus(less, self.random.choice(able[:GREEDY])) if able else counts

    def split(self, counts: Counts) -> Counts:
        """One replica becomes two smaller ones on its GPUs."""
        less, whole = self.drop(counts)
        if whole is None:
            return counts
        room = gpus_by_type(self.columns[whole])
        for _ in range(2):
            able = [
                i
                for i, c in enumerate(self.columns)
                if c.model == self.columns[whole].model
                and c.gpus < self.columns[whole].gpus
                and gpus_by_type(c) <= room
            ]
            if not able:
                break
            column = self.random.choice(able)
            less = plus(less, column)
            room -= gpus_by_type(self.columns[column])
        return less

    def flip(self, counts: Counts) -> Counts:
        """One replica takes another phase on the same GPUs."""
        less, column = self.drop(counts)
        if column is None:
            return counts
        others = [i for i in self.by_shape[shape_of(self.columns[column])] if i != column]
        return plus(less, self.random.choice(others)) if others else counts


def shape_of(column: Column) -> tuple[str, str, tuple[tuple[str, int], ...]]:
    """Model, zone and fragments: what stays when a replica changes its phase."""
    return column.model, column.zone, tuple(sorted((f.gpu, f.tp) for f in column.fragments))


def gpus_by_type(column: Column) -> Counter[tuple[str, str]]:
    """GPUs of one replica by (gpu, zone)."""
    found: Counter[tuple[str, str]] = Counter()
    for fragment in column.fragments:
        found[fragment.gpu, column.zone] += fragment.tp
    return found
