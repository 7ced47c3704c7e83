"""GPUs over models so that the worst load factor is as small as possible.

l_m(f), the load factor of model m on f GPUs, falls with f, so the split is found by bisection over
the values of l: L can be had where sum_m min{f : l_m(f) <= L} <= N. The MILP that Cascadia states
for it gives the same L and is kept as an independent check.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.domain.table import Column
from motley_planner.solver.highs import MipLimits, solve_mip
from motley_planner.solver.milp import INF, MilpBuilder


@dataclass(frozen=True, slots=True)
class Shares:
    """GPUs for each model and the worst load factor."""

    factor: float
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ladder:
    """l(f) for f = 0, 1, ..., with the last replica of the best mix at each f."""

    factors: tuple[float, ...]
    last: tuple[int, ...]  # column of one replica in the best mix, -1 = one GPU left idle
    gpus_of: tuple[int, ...]

    def replicas(self, gpus: int) -> list[int]:
        """Columns (by position, repeated) of the best mix on so many GPUs."""
        found = []
        while gpus > 0:
            column = self.last[gpus]
            if column >= 0:
                found.append(column)
            gpus -= self.gpus_of[column] if column >= 0 else 1
        return found


def ladder(columns: Sequence[Column], loads: Mapping[str, float], gpus: int) -> Ladder:
    """l(f) of a model by dynamic programming over its replicas.

    A replica carries the share 1 / sum_k load_k / capacity_k of the model's load; shares add up.
    """
    worth = []
    for column in columns:
        able = all(column.requests_per_second.get(k, 0.0) > 0 for k in loads)
        busy = sum(v / column.requests_per_second[k] for k, v in loads.items()) if able else INF
        worth.append(1.0 / busy)
    best, last = [0.0] * (gpus + 1), [-1] * (gpus + 1)
    useful = [(c.gpus, w, i) for i, (c, w) in enumerate(zip(columns, worth, strict=True)) if w > 0]
    for f in range(1, gpus + 1):
        best[f], last[f] = best[f - 1], -1
        for size, share, i in useful:
            if size <= f and best[f - size] + share > best[f] + 1e-15:
                best[f], last[f] = best[f - size] + share, i
    factors = tuple(1.0 / b if b > 0 else math.inf for b in best)
    return Ladder(factors, tuple(last), tuple(c.gpus for c in columns))


def split_by_bisection(
    tables: Sequence[Sequence[float]], gpus: int, enough: float = 0.0
) -> Shares | None:
    """The smallest L (not below `enough`) with GPUs that reach it; None where a model has no room."""

    def need(factor: float) -> list[int] | None:
        found = []
        for values in tables:
            f = bisect_left(values, -factor, key=lambda v: -v)
            if f == len(values):
                return None
            found.append(f)
        return found if sum(found) <= gpus else None

    steps = sorted({max(v, enough) for values in tables for v in values if math.isfinite(v)})
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if need(steps[middle]) is None:
            low = middle + 1
        else:
            high = middle
    if low == len(steps):
        return None
    shares = need(steps[low])
    assert shares is not None
    worst = max(values[f] for values, f in zip(tables, shares, strict=True))
    return Shares(worst, tuple(shares))


def split_by_milp(tables: Sequence[Sequence[float]], gpus: int) -> Shares | None:
    """The same by Cascadia's program: min L, one f a model, sum f x <= N, L >= sum l(f) x."""
    builder = MilpBuilder()
    worst = builder.variable()
    spent: list[tuple[int, float]] = []
    picks: list[list[tuple[int, int]]] = []
    for values in tables:
        chosen = [
            (f, builder.variable(0, 1, integer=True)) for f, v in enumerate(values) if v < INF
        ]
        builder.row([(x, 1.0) for _, x in chosen], 1.0, 1.0)
        builder.row([*((x, values[f]) for f, x in chosen), (worst, -1.0)], upper=0.0)
        spent += [(x, float(f)) for f, x in chosen]
        picks.append(chosen)
    builder.row(spent, upper=float(gpus))
    milp = builder.build()
    cost = np.zeros(milp.num_cols)
    cost[worst] = -1.0
    run = solve_mip(milp, cost, MipLimits(time.monotonic() + 10.0, 1e-9))
    if run.x is None:
        return None
    found = tuple(f for chosen in picks for f, x in chosen if run.x[x] > 0.5)
    return Shares(float(run.x[worst]), found)
