"""What a group's relaxed counts lack when they are rounded down, covered at the least price.

    minimize  price . y    subject to  worth . y >= need,  y >= 0 and whole

by dynamic programming over `POINTS` points of the need; worths are rounded down to points, so that
what is found always covers.
"""

from __future__ import annotations

import numpy as np

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
    cost, points = price[able], np.arange(POINTS + 1)
    before = np.maximum(points[:, None] - size[able], 0)
    least, chosen = np.zeros(POINTS + 1), np.zeros(POINTS + 1, dtype=np.int64)
    for point in range(1, POINTS + 1):
        total = least[before[point]] + cost
        chosen[point] = best = int(total.argmin())
        least[point] = total[best]
    found = []
    for need in needs.tolist():
        counts = np.zeros(len(price), dtype=np.int32)
        point = int(np.ceil(need / unit - 1e-9))
        while point > 0:
            counts[able[chosen[point]]] += 1
            point = int(before[point, chosen[point]])
        found.append(counts)
    return found


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
