"""Certified quality: lower confidence bounds that hold for many policies at once.

Rules. The table is split: a third of its rows chooses which policies are offered, two thirds
certify them. A bound is Wilson's score bound with the sample variance in the place of p (1 - p),
at a critical value c instead of the normal quantile. c is the quantile of the largest of all
policies' studentized errors, drawn by a Gaussian multiplier bootstrap on the certifying rows. The
policies answer mostly alike, so c is far below Bonferroni's; for one policy it is the normal
quantile.

Then P(some policy's true mean is below its bound) <= 1 - confidence, and every mixture of policies
is at least as good as the mixture of their bounds.
Source: Wilson 1927; Chernozhukov, Chetverikov, Kato 2013 for the bootstrap of a maximum.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from motley_planner.candidates.calibration import CalibrationTable

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

CHOOSING_SHARE = 1.0 / 3.0
LEAST_ROWS = 12  # below, both folds are the whole table: a split would leave nothing to certify on
DRAWS = 2000
SEED = 20250311  # the same table always gives the same policies


def folds(rows: int) -> tuple[Indices, Indices]:
    """Rows that choose and rows that certify: a fixed random split, the same for every run."""
    order = np.random.default_rng(SEED).permutation(rows)
    if rows < LEAST_ROWS:
        return order, order
    cut = int(rows * CHOOSING_SHARE)
    return np.sort(order[:cut]), np.sort(order[cut:])


def class_rows(table: CalibrationTable, rows: Indices) -> dict[str, Indices]:
    """Certifying rows by request class, where the table names classes."""
    if not table.classes:
        return {}
    names = np.asarray(table.classes)[rows]
    found = {str(name): rows[names == name] for name in np.unique(names)}
    return {name: members for name, members in found.items() if len(members) > 1}


def lower_bounds(answers: Floats, confidence: float) -> Floats:
    """Bounds on the mean of each line of `answers` (policies x questions, values 0..1)."""
    rows = answers.shape[1]
    critical = critical_value(answers, confidence)
    means = answers.mean(axis=1)
    variances = answers.var(axis=1, ddof=1) if rows > 1 else np.full(len(means), 0.25)
    return np.array(
        [wilson(float(m), float(v), rows, critical) for m, v in zip(means, variances, strict=True)]
    )


def lower_bound(mean: float, variance: float, rows: int, confidence: float) -> float:
    """Lower confidence bound of one mean of values in 0..1."""
    return wilson(mean, variance, rows, _normal(confidence))


def wilson(mean: float, variance: float, rows: int, z: float) -> float:
    """(mean + z^2/2n - z sqrt(variance/n + z^2/4n^2)) / (1 + z^2/n), at least 0."""
    spread = z * sqrt(variance / rows + z * z / (4.0 * rows * rows))
    return max(0.0, (mean + z * z / (2.0 * rows) - spread) / (1.0 + z * z / rows))


def critical_value(answers: Floats, confidence: float) -> float:
    """Quantile of the largest studentized error over all policies; at least one policy's own."""
    single = _normal(confidence)
    centred = answers - answers.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).sum(axis=1))
    centred = centred[scale > 0] / scale[scale > 0, None]
    if len(centred) < 2:
        return single
    # Gaussian multipliers of the rows make errors that are Gaussian with the rows' correlation.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = np.random.default_rng(SEED).standard_normal((DRAWS, len(factor))) @ factor.T
    return max(single, float(np.quantile(draws.max(axis=1), min(confidence, 1.0 - 1e-6))))


def _normal(confidence: float) -> float:
    return NormalDist().inv_cdf(min(max(confidence, 0.5), 1.0 - 1e-12))
