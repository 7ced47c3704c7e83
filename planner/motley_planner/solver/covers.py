"""What a group's relaxed counts lack when they are rounded down, covered at the least price.

    minimize  price . y    subject to  worth . y >= need,  y >= 0 and whole

by dynamic programming over `POINTS` points of the need; worths are rounded down to points, so that
what is found always covers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from motley_planner.solver.milp import Floats, Ints

POINTS = 500
TAKEN = 8  # most replicas that are taken away beside the rounding
WHOLE = 1e-6  # a count so close below a whole number is one
NOTHING = 1e-7  # of a group's worth, or of its best replica's: rounding


def least_covers(price: Floats, worth: Floats, needs: Floats) -> list[Ints]:
    """For each of some rising needs the counts of least price whose worth reaches it.

    Exact but for the rounding to points, of which the last need has `POINTS`; empty where nothing
    is worth a point.
    """
    unit = float(needs[-1]) / POINTS
    if unit < np.finfo(np.float64).tiny:
        return []
    size = np.floor(np.minimum(worth, needs[-1]) / unit + 1e-9).astype(np.int64)
    (able,) = np.nonzero(size > 0)
    if not len(able):
        return []
    able = able[_worth_trying(price[able], size[able])]
    items = list(zip(price[able].tolist(), size[able].tolist(), able.tolist(), strict=True))
    least, chosen = [0.0], [items[0]]
    for point in range(1, POINTS + 1):
        best = np.inf
        for item in items:
            total = least[point - item[1]] + item[0] if point > item[1] else item[0]
            if total < best:
                best, use = total, item
        least.append(best)
        chosen.append(use)
    found = []
    for need in needs.tolist():
        counts = np.zeros(len(price), dtype=np.int32)
        point = int(np.ceil(need / unit - 1e-9))
        while point > 0:
            counts[chosen[point][2]] += 1
            point -= chosen[point][1]
        found.append(counts)
    return found


def _worth_trying(price: Floats, size: NDArray[np.int64]) -> NDArray[np.intp]:
    """Those for which no other one is as large and as cheap."""
    order = np.lexsort((price, -size))
    cheapest = np.minimum.accumulate(price[order])
    better = np.concatenate([[True], price[order][1:] < cheapest[:-1]])
    return np.asarray(order[better])


def whole_counts(price: Floats, worth: Floats, at: Floats) -> list[Floats]:
    """Whole counts that are worth as much as `at`, the cheapest first.

    `at` is rounded down, some replicas of its largest count are taken away, and the lack is
    covered. Rounding up is one of them: it serves whatever `at` does, also where worth is that of
    several demands.
    """
    base = np.floor(at + WHOLE)
    lack = float(worth @ np.maximum(at - base, 0.0))
    little = NOTHING * max(float(worth @ at), float(worth.max(initial=0.0)))
    found = [np.ceil(at - WHOLE), *([base] if lack <= little else [])]
    most = int(np.argmax(np.where(worth > 0, base, 0.0)))
    taken = np.arange(min(TAKEN, int(base[most]) + 1)).astype(np.float64)
    needs = lack + taken * float(worth[most])
    if needs[-1] > little:
        for less, more in zip(taken, least_covers(price, worth, needs), strict=False):
            counts = base + more
            counts[most] -= less
            found.append(counts)
    different = {counts.tobytes(): counts for counts in found}
    return sorted(different.values(), key=lambda counts: float(price @ counts))
