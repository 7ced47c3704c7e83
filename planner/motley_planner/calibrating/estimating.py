"""Fits a stage's estimator to labelled answers: logistic regression or isotonic regression.

Own code, not scikit-learn's: both are twenty lines on numpy, while scikit-learn is 40 MB of wheel
with joblib and threadpoolctl behind it for every gateway image. Tests compare them with a general
optimiser and with brute force.

- logistic: maximum of the log-likelihood less `RIDGE`/2 x squared weights of the standardised
  features, by Newton's method. Targets are Platt's, (n+ + 1)/(n+ + 2) and 1/(n- + 2), so that
  separable data give finite weights.
- isotonic: pool adjacent violators, each pool one point at its mean feature, joined by lines, so
  that different features get different scores within the fitted range and quantiles mean something.

Source: Platt 1999; Ayer et al. 1955; the points at pools' means: Oron and Flournoy 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motley_planner.dispatch.estimators import FEATURES, Calibrator
from motley_planner.errors import SnapshotError

Floats = NDArray[np.float64]

RIDGE = 1.0
LEAST_OF_A_KIND = 5  # right and wrong answers; fewer say nothing about where to draw a line
_STEPS, _TOLERANCE = 50, 1e-9


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled answers of one stage: features of each (None: not scored), and its worth (0..1)."""

    features: Sequence[Mapping[str, float] | None]
    quality: Sequence[float]


def fit(sample: Sample, kind: str, names: Sequence[str] = ("mean",)) -> Calibrator:
    """The calibrator of a kind on these features. Raises: SnapshotError where labels say nothing."""
    rows = [
        (each, worth)
        for each, worth in zip(sample.features, sample.quality, strict=True)
        if each is not None and all(name in each for name in names)
    ]
    right = sum(worth >= 0.5 for _, worth in rows)
    if min(right, len(rows) - right) < LEAST_OF_A_KIND:
        raise SnapshotError(
            "calibration",
            f"{right} of {len(rows)} scored answers are right: a fit needs at least "
            f"{LEAST_OF_A_KIND} that are and {LEAST_OF_A_KIND} that are not",
        )
    matrix = np.array([[each[name] for name in names] for each, _ in rows], dtype=np.float64)
    quality = np.array([worth for _, worth in rows], dtype=np.float64)
    if kind == "isotonic":
        return Calibrator(kind, (names[0],), points=isotonic_points(matrix[:, 0], quality))
    intercept, weights = logistic_weights(matrix, quality)
    return Calibrator(kind, tuple(names), intercept, tuple(weights))


def fitted_scores(
    calibrator: Calibrator | None, sample: Sample, feature: str = FEATURES[0]
) -> tuple[float, ...]:
    """Scores (0..1) of a sample; an answer that cannot be scored gets 0, so it is escalated.

    `feature` is the score where nothing was fitted.
    """
    scores = []
    for each in sample.features:
        found = None
        if each is not None:
            found = calibrator.score(each) if calibrator else each.get(feature)
        scores.append(0.0 if found is None else found)
    return tuple(scores)


def isotonic_points(x: Floats, y: Floats) -> tuple[tuple[float, float], ...]:
    """Pools of the best rising step function, as (mean of x, mean of y). x rises strictly."""
    order = np.argsort(x, kind="stable")
    pools: list[list[float]] = []  # weight, sum of x, sum of y
    for value in np.unique(x):
        same = x[order] == value
        pools.append([float(same.sum()), float(value * same.sum()), float(y[order][same].sum())])
        while len(pools) > 1 and pools[-2][2] / pools[-2][0] >= pools[-1][2] / pools[-1][0]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return tuple((sx / n, sy / n) for n, sx, sy in pools)


def logistic_weights(x: Floats, y: Floats) -> tuple[float, list[float]]:
    """Intercept and weights of the ridge-penalised logistic regression, in x's own units."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0.0] = 1.0
    z = np.column_stack([np.ones(len(x)), (x - mean) / scale])
    right = float(y.sum())
    high, low = (right + 1.0) / (right + 2.0), 1.0 / (len(y) - right + 2.0)
    target = low + (high - low) * y
    penalty = np.diag([0.0] + [RIDGE] * x.shape[1])
    w = np.zeros(z.shape[1])
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(z @ w, -35.0, 35.0)))
        gradient = z.T @ (target - p) - penalty @ w
        hessian = (z * (p * (1.0 - p))[:, None]).T @ z + penalty
        step = np.linalg.solve(hessian, gradient)
        w = w + step * min(1.0, 10.0 / max(1e-12, float(np.abs(step).max())))
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    weights = w[1:] / scale
    return float(w[0] - (weights * mean).sum()), [float(each) for each in weights]
