"""Two halves of a graph with as much edge weight as possible between them."""

from __future__ import annotations

import numpy as np

from motley_planner.solver.milp import Floats

PASSES = 20


def widest_cut(weights: Floats) -> list[int]:
    """Side (1 or 0) of each vertex; halves of equal size, a spectral start refined by swaps.

    The eigenvector of the largest eigenvalue of the Laplacian separates what heavy edges join; its
    halves are the start, then pairs change sides while the weight across grows (Kernighan-Lin).
    """
    size = len(weights)
    if size < 2:
        return [1] * size
    laplacian = np.diag(weights.sum(axis=1)) - weights
    vector = np.linalg.eigh(laplacian)[1][:, -1]
    order = np.argsort(-vector, kind="stable")
    side = np.zeros(size, dtype=np.int64)
    side[order[: (size + 1) // 2]] = 1
    for _ in range(PASSES):
        if not _swap_best(weights, side):
            break
    return [int(s) for s in side]


def cut_weight(weights: Floats, side: list[int]) -> float:
    """Total weight of edges between the two sides."""
    sides = np.asarray(side)
    return float(weights[np.ix_(sides == 1, sides == 0)].sum())


def _swap_best(weights: Floats, side: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bool:
    """Swaps the pair that adds most weight across; False where none adds any."""
    sign = 2.0 * side - 1.0
    gain = (weights @ sign) * sign  # same-side weight - cross weight: gained by changing side
    best, pair = 1e-9, None
    for a in np.nonzero(side == 1)[0]:
        for b in np.nonzero(side == 0)[0]:
            worth = gain[a] + gain[b] + 2.0 * weights[a, b]
            if worth > best * (1 + 1e-12):
                best, pair = float(worth), (a, b)
    if pair is None:
        return False
    side[pair[0]], side[pair[1]] = 0, 1
    return True
