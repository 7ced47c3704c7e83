"""What turns a stage's features into the score that thresholds are about.

A calibrator was fitted by `motley calibrate` and travels in the routing file; the gateway evaluates
it on each answer. Without one the estimator's own feature (rules.py) is the score itself.

- logistic: 1 / (1 + exp(-(intercept + sum of weight x feature)))
- isotonic: a line through fitted points (feature, share right), flat beyond the ends
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from motley_planner.errors import PlannerError

LOGPROB_FEATURES = ("mean", "least", "tenth", "margin")
FEATURES = (*LOGPROB_FEATURES, "passed", "agreement", "verified")
KINDS = ("logistic", "isotonic")
_MOST_POINTS = 1000


class EstimatorError(PlannerError):
    """A document that is no estimator: which field, and its rule."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """One stage's fitted estimator; `points` for isotonic, `intercept` and `weights` for logistic."""

    kind: str
    features: tuple[str, ...] = ("mean",)
    intercept: float = 0.0
    weights: tuple[float, ...] = ()
    points: tuple[tuple[float, float], ...] = ()

    def score(self, features: Mapping[str, float]) -> float | None:
        """The probability (0..1) that the answer is right; None where a feature is missing."""
        values = [features.get(name) for name in self.features]
        known = [value for value in values if value is not None and math.isfinite(value)]
        if len(known) < len(values):
            return None
        if self.kind == "isotonic":
            return _on_line(self.points, known[0])
        total = self.intercept + math.fsum(w * x for w, x in zip(self.weights, known, strict=True))
        # The form that overflows for neither sign.
        return 1.0 / (1.0 + math.exp(-total)) if total >= 0 else 1.0 - 1.0 / (1.0 + math.exp(total))


def _on_line(points: Sequence[tuple[float, float]], x: float) -> float:
    at = bisect_right(points, x, key=lambda point: point[0])
    if at == 0 or at == len(points):
        return points[min(at, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def calibrator_document(calibrator: Calibrator) -> dict[str, Any]:
    """The calibrator as JSON; `parse_calibrator` is its inverse."""
    document: dict[str, Any] = {"kind": calibrator.kind, "features": list(calibrator.features)}
    if calibrator.kind == "isotonic":
        return document | {"points": [list(point) for point in calibrator.points]}
    return document | {"intercept": calibrator.intercept, "weights": list(calibrator.weights)}


def parse_calibrator(value: object) -> Calibrator:
    """The calibrator in a decoded document. Raises: EstimatorError with the field and the rule."""
    if not isinstance(value, Mapping):
        raise EstimatorError("must be an object")
    kind, features = value.get("kind"), value.get("features", ["mean"])
    if kind not in KINDS:
        raise EstimatorError(f"kind must be one of {', '.join(KINDS)}, is {kind!r}")
    if not isinstance(features, list) or not features or not set(features) <= set(FEATURES):
        raise EstimatorError(f"features must be a list of {', '.join(FEATURES)}, is {features!r}")
    if kind == "logistic":
        weights = tuple(_number(each, "weights") for each in _list(value.get("weights"), "weights"))
        if len(weights) != len(features):
            raise EstimatorError("weights must be as many as features")
        return Calibrator(
            kind, tuple(features), _number(value.get("intercept"), "intercept"), weights
        )
    if len(features) != 1:
        raise EstimatorError("features of an isotonic calibrator must be one")
    return Calibrator(kind, tuple(features), points=_points(value.get("points")))


def _points(value: object) -> tuple[tuple[float, float], ...]:
    points = []
    for each in _list(value, "points"):
        pair = _list(each, "points")
        if len(pair) != 2:
            raise EstimatorError("points must be pairs")
        points.append((_number(pair[0], "points"), _number(pair[1], "points")))
    ordered = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points))
    if not points or len(points) > _MOST_POINTS or not ordered:
        raise EstimatorError(f"points must be 1 to {_MOST_POINTS} pairs that rise")
    if points[0][1] < 0.0 or points[-1][1] > 1.0:
        raise EstimatorError("points must have shares from 0 to 1")
    return tuple(points)


def _list(value: object, name: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise EstimatorError(f"{name} must be a list")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EstimatorError(f"{name} must be finite numbers")
    return float(value)
