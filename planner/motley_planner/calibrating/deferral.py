"""Whether a stage's score is worth deferring by.

The gain of a question is what the last stage's answer is worth more than this stage's. Deferring
pays only where the questions with low scores gain more than zero, and more than the others do: if
they gain as much as any, a coin in front of the stages does the same without asking both.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.certify import Floats


@dataclass(frozen=True, slots=True)
class Deferral:
    """One stage against the last. Shares 0..1; gains in points of quality.

    `gain` is over the deferred questions, `gain_kept` over the others; `gain_low` bounds the first
    from below, `sorting_low` their difference. `auroc` is the chance that a right answer has a
    higher score than a wrong one (0.5: a coin), None where all answers are alike.
    """

    stage: str
    deferred: float
    gain: float
    gain_low: float
    gain_kept: float
    sorting_low: float
    auroc: float | None


def deferral_of(
    table: CalibrationTable, stage: str, threshold: float | None, confidence: float
) -> Deferral:
    """Deferral by one stage's score below a threshold; below its median where none is given."""
    scores = np.asarray(table.scores[stage])
    gain = np.asarray(table.qualities[table.stages[-1]]) - np.asarray(table.qualities[stage])
    limit = threshold if threshold is not None and threshold <= 1.0 else float(np.median(scores))
    low = scores < limit
    if not low.any() or low.all():
        low = scores <= float(np.median(scores))
    if low.all():
        low = np.arange(len(scores)) < len(scores) // 2  # one score for all: any half is as good
    z = NormalDist().inv_cdf(confidence)
    error, error_kept = _error(gain[low]), _error(gain[~low])
    mean, kept = float(gain[low].mean()), float(gain[~low].mean())
    return Deferral(
        stage=stage,
        deferred=float(low.mean()),
        gain=mean,
        gain_low=mean - z * error,
        gain_kept=kept,
        sorting_low=mean - kept - z * sqrt(error**2 + error_kept**2),
        auroc=auroc(scores, np.asarray(table.qualities[stage]) >= 0.5),
    )


def auroc(scores: Floats, right: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float | None:
    """Chance that a right answer's score is above a wrong one's, ties as half (Mann-Whitney)."""
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    above = float(ranks[right].sum()) - positives * (positives + 1) / 2.0
    return above / (positives * negatives)


def _error(values: Floats) -> float:
    """Standard error of a mean; never 0, for a few equal values prove little."""
    rows = len(values)
    spread = float(values.var(ddof=1)) if rows > 1 else 1.0
    return sqrt(max(spread, 1.0 / rows) / rows)
