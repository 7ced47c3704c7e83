"""How far predictions are off, in the words people ask for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.fitting.rows import Array, Measured

GAP = 1.05  # pairs whose measured throughput differs by less say nothing about order
BAND_QUANTILES = (0.075, 0.925)  # a little wider than 80 %, as few combinations are known


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of predictions against measured values."""

    rows: int
    mape: float  # mean of |predicted / measured - 1|
    median: float
    within_quarter: float  # share of rows off by at most 25 %
    bias: float  # median of predicted / measured


def score(predicted: Array, measured: Array) -> Score:
    """The errors of some rows; at least one."""
    ratio = predicted / measured
    error = np.abs(ratio - 1.0)
    return Score(
        rows=len(ratio),
        mape=float(error.mean()),
        median=float(np.median(error)),
        within_quarter=float((error <= 0.25).mean()),
        bias=float(np.median(ratio)),
    )


def throughput(rows: Sequence[Measured], ttft_s: Array, tpot_s: Array) -> Array:
    """Output tokens a second and GPU, GPUs as the rows count them."""
    requests = np.array([one.load.requests for one in rows])
    output = np.array([one.load.output_tokens for one in rows])
    gpus = np.array([one.configuration.gpus for one in rows])
    return requests * output / (ttft_s + output * tpot_s) / gpus


def ordered_pairs(rows: Sequence[Measured], predicted: Array, measured: Array) -> tuple[float, int]:
    """Share of pairs (same model, ISL, OSL) in the right order, and how many pairs there are."""
    places: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, one in enumerate(rows):
        known = one.configuration
        places[(known.model, known.isl, known.osl)].append(number)
    right = total = 0
    for members in places.values():
        index = np.array(members)
        first, second = (index[side] for side in np.triu_indices(len(index), 1))
        clear = np.abs(np.log(measured[first] / measured[second])) > np.log(GAP)
        same = (predicted[first] > predicted[second]) == (measured[first] > measured[second])
        right += int(same[clear].sum())
        total += int(clear.sum())
    return right / max(1, total), total


def bands(kinds: Sequence[str], ratios: Array) -> dict[str, tuple[float, float]]:
    """By kind of model: the quantiles of measured / predicted that hold about 80 % of unseen rows."""
    kind_of = np.array(kinds)
    low, high = BAND_QUANTILES
    return {
        kind: (
            float(np.quantile(ratios[kind_of == kind], low)),
            float(np.quantile(ratios[kind_of == kind], high)),
        )
        for kind in dict.fromkeys(kinds)
    }


def coverage(
    kinds: Sequence[str], ratios: Array, group_of: Array, known: Mapping[str, tuple[float, float]]
) -> float:
    """Share of rows inside the band that all other combinations' rows give."""
    inside = 0
    for number in np.unique(group_of):
        own = group_of == number
        others = bands([k for k, mine in zip(kinds, own, strict=True) if not mine], ratios[~own])
        for place in np.flatnonzero(own).tolist():
            low, high = others.get(kinds[place], known[kinds[place]])
            inside += bool(low <= ratios[place] <= high)
    return inside / len(ratios)
