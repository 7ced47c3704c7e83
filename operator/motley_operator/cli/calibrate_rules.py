"""`motley calibrate --by`: an estimator by its name, or as a cascade's spec writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from motley_operator.api import ModelCascade, read
from motley_operator.api.common import API_VERSION
from motley_operator.api.estimating import estimator_findings, estimator_rule
from motley_operator.api.nesting import too_deep, too_deep_at
from motley_operator.cli.output import InputError
from motley_planner.dispatch import ESTIMATORS, EstimatorRule

_AT = "spec.quality.estimator"


def rule_of(text: str, stages: Sequence[str]) -> EstimatorRule:
    """The rule that `--by` names or describes, checked as in a cascade of these stages.

    Raises: InputError with the field and the fix.
    """
    if text == ESTIMATORS[0]:
        return EstimatorRule()
    document: Any = {"type": text} if text in ESTIMATORS else _read(text)
    resource, findings = read(_cascade(document, stages))
    if isinstance(resource, ModelCascade):
        findings = tuple(estimator_findings(resource))
    if findings:
        first = findings[0]
        field = first.field.removeprefix(f"{_AT}.").removeprefix(_AT) or "estimator"
        raise InputError("--by", f"{text}: {field}: {first.message}")
    assert isinstance(resource, ModelCascade)
    return estimator_rule(resource.spec.quality.estimator)


def _cascade(estimator: Any, stages: Sequence[str]) -> dict[str, Any]:
    """The smallest cascade that holds an estimator, so that one set of rules checks both."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelCascade",
        "metadata": {"name": "calibrated"},
        "spec": {
            "stages": [{"name": name, "model": {"id": name}} for name in stages],
            "quality": {
                "floor": "50%",
                "estimator": estimator,
                "calibration": {"configMapKeyRef": {"name": "table", "key": "table.csv"}},
            },
            "workload": {
                "requestsPerSecond": 1,
                "classes": [{"name": "all", "promptTokens": 1, "outputTokens": 1}],
            },
        },
    }


def _read(text: str) -> Any:
    path = Path(text)
    if not path.is_file():
        raise InputError("--by", f"{text!r} is no file, and none of {', '.join(ESTIMATORS)}")
    try:
        written = path.read_text(encoding="utf-8")
        if (deep := too_deep_at(written)) is not None:
            raise InputError("--by", f"{text}: {too_deep(deep)}")
        document = yaml.safe_load(written)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("--by", f"{text}: is not YAML ({error})") from error
    return document.get("estimator", document) if isinstance(document, dict) else document
