"""How a stage's answers are scored, as a frozen value: what operator, calibration and gateway share.

    {"type": "LogProb"}                                    token log-probabilities
    {"type": "Validator", "checks": [{"type": "Regex", "pattern": "^\\\\d+$"}]}
    {"type": "SelfConsistency", "samples": 3, "temperature": 0.7, "compare": "Number"}
    {"type": "SelfVerify", "verifier": "large"}            the stage itself where none is named

Each kind gives a feature from 0 to 1 of its own name; a calibrator may turn it into another score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motley_planner.dispatch.estimators import Calibrator, EstimatorError, parse_calibrator

ESTIMATORS = ("LogProb", "Validator", "SelfConsistency", "SelfVerify")
COMPARISONS = ("Text", "Number", "Choice")
LEAST_SAMPLES, MOST_SAMPLES = 2, 16
MOST_TEMPERATURE = 2.0
MOST_CHECKS = 16
_SAMPLES, _WARMTH = 3, 0.7
_FEATURE = dict(zip(ESTIMATORS, ("mean", "passed", "agreement", "verified"), strict=True))


@dataclass(frozen=True, slots=True)
class EstimatorRule:
    """What scores an answer.

    `checks` (Validator) are documents as JSON text. `samples` answers (SelfConsistency) are asked
    for at `temperature` and `compare`d. `verifier` (SelfVerify) names the stage that is asked
    whether the answer is right; empty: the one that gave it.
    """

    type: str = ESTIMATORS[0]
    checks: tuple[str, ...] = ()
    samples: int = _SAMPLES
    temperature: float = _WARMTH
    compare: str = COMPARISONS[0]
    verifier: str = ""

    @property
    def feature(self) -> str:
        """The feature that is the score where nothing was fitted."""
        return _FEATURE[self.type]

    def extra_calls(self, stages: Sequence[str]) -> dict[str, dict[str, float]]:
        """Calls beside the answer's own for one visit of a stage before the last, by stage called."""
        if self.type == "SelfConsistency":
            return {stage: {stage: self.samples - 1.0} for stage in stages[:-1]}
        if self.type == "SelfVerify":
            return {stage: {self.verifier or stage: 1.0} for stage in stages[:-1]}
        return {}


def estimator_document(rule: EstimatorRule) -> dict[str, Any]:
    """The rule as JSON; `parse_estimator` is its inverse."""
    document: dict[str, Any] = {"type": rule.type}
    if rule.type == "Validator":
        document["checks"] = [json.loads(each) for each in rule.checks]
    if rule.type == "SelfConsistency":
        document["samples"], document["temperature"] = rule.samples, rule.temperature
        document["compare"] = rule.compare
    if rule.type == "SelfVerify" and rule.verifier:
        document["verifier"] = rule.verifier
    return document


def parse_estimator(value: object, stages: Sequence[str]) -> EstimatorRule:
    """The rule in a decoded document. Raises: EstimatorError with the field and the rule."""
    if value is None:
        return EstimatorRule()
    item = _mapping(value, "estimator")
    kind = item.get("type")
    if kind not in ESTIMATORS:
        raise EstimatorError(f"estimator.type: must be one of {', '.join(ESTIMATORS)}, is {kind!r}")
    if kind == "Validator":
        return EstimatorRule(kind, checks=_checks(item.get("checks")))
    if kind == "SelfConsistency":
        return EstimatorRule(
            kind,
            samples=_samples(item.get("samples", _SAMPLES)),
            temperature=_temperature(item.get("temperature", _WARMTH)),
            compare=compared(item.get("compare", COMPARISONS[0]), "estimator.compare"),
        )
    if kind == "SelfVerify":
        verifier = item.get("verifier", "")
        if verifier != "" and verifier not in stages:
            listed = ", ".join(stages)
            raise EstimatorError(f"estimator.verifier: must be a stage ({listed}), is {verifier!r}")
        return EstimatorRule(kind, verifier=verifier)
    return EstimatorRule(kind)


def parse_calibrators(value: object, stages: Sequence[str]) -> dict[str, Calibrator]:
    """The fitted scores by stage. Raises: EstimatorError with the field and the rule."""
    given = {} if value is None else _mapping(value, "estimator").get("calibrators", {})
    found = {}
    for name, each in _mapping(given, "estimator.calibrators").items():
        at = f"estimator.calibrators.{name}"
        if name not in stages:
            raise EstimatorError(f"{at}: names a stage that is not in stages")
        try:
            found[name] = parse_calibrator(each)
        except EstimatorError as error:
            raise EstimatorError(f"{at}: {error}") from error
    return found


def compared(value: object, at: str) -> str:
    """How answers are compared. Raises: EstimatorError."""
    if value not in COMPARISONS:
        raise EstimatorError(f"{at}: must be one of {', '.join(COMPARISONS)}, is {value!r}")
    return str(value)


def _checks(value: object) -> tuple[str, ...]:
    at = "estimator.checks"
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_CHECKS:
        raise EstimatorError(f"{at}: must be a list of 1 to {MOST_CHECKS} checks")
    if not all(isinstance(each, Mapping) and isinstance(each.get("type"), str) for each in value):
        raise EstimatorError(f"{at}: must be objects with a type")
    return tuple(json.dumps(each, sort_keys=True) for each in value)


def _samples(value: object) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not LEAST_SAMPLES <= value <= MOST_SAMPLES
    ):
        rule = f"must be a whole number from {LEAST_SAMPLES} to {MOST_SAMPLES}, is {value!r}"
        raise EstimatorError(f"estimator.samples: {rule}")
    return value


def _temperature(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or not 0.0 < value <= MOST_TEMPERATURE:  # type: ignore[arg-type, operator]
        rule = f"must be above 0 and at most {MOST_TEMPERATURE:g}, is {value!r}"
        raise EstimatorError(f"estimator.temperature: {rule}")
    return float(value)  # type: ignore[arg-type]


def _mapping(value: object, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise EstimatorError(f"{at}: must be an object")
    return value
