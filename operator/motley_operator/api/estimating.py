"""From `spec.quality` to the rule that gateway and calibration run, and what it costs in calls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from motley_operator.api.estimators import Check, Estimator
from motley_operator.api.findings import Finding, Path
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.surroundings import found
from motley_planner.dispatch import ESTIMATORS, EstimatorRule, parse_estimator

_AT = ("spec", "quality", "estimator")
_MOST_TEMPERATURE, _MOST_SECONDS = 2.0, 60.0


def estimator_rule(spec: Estimator) -> EstimatorRule:
    """The rule of an estimator that has no findings."""
    document: dict[str, Any] = {"type": spec.type}
    stages: list[str] = []
    if spec.type == "Validator" and spec.validator is not None:
        document["checks"] = [_check(check) for check in spec.validator.checks]
    elif spec.type == "SelfConsistency" and spec.self_consistency is not None:
        given = spec.self_consistency
        document |= {"samples": given.samples, "temperature": given.temperature.value}
        document["compare"] = given.compare
    elif spec.type == "SelfVerify" and spec.self_verify is not None:
        stages = [spec.self_verify.stage or ""]
        document["verifier"] = stages[0]
    return parse_estimator(document, stages)


def extra_calls(cascade: ModelCascade) -> dict[str, dict[str, float]]:
    """Calls that a visit of a stage costs beside its own, by stage called, for the plan.

    A verdict counts as a whole call, though it is short; a shadow label as one call of the last
    stage for its share of all visits, though only answers that are returned get one.
    """
    quality = cascade.spec.quality
    stages = [stage.name for stage in cascade.spec.stages]
    extra = estimator_rule(quality.estimator).extra_calls(stages)
    shadow = quality.watch.shadow if quality.watch is not None else None
    if shadow is not None and shadow.label != "Validator":
        for stage in stages[:-1]:
            called = extra.setdefault(stage, {})
            called[stages[-1]] = called.get(stages[-1], 0.0) + shadow.share.fraction
    return extra


def estimator_findings(cascade: ModelCascade) -> Iterator[Finding]:
    """Why answers cannot be judged as a cascade asks."""
    quality = cascade.spec.quality
    estimator = quality.estimator
    if estimator.type not in ESTIMATORS:
        yield found(
            (*_AT, "type"), "estimator",
            f"the gateway does not compute {estimator.type} yet: use one of "
            f"{', '.join(ESTIMATORS)}", "EstimatorUnsupported",
        )  # fmt: skip
    stages = [stage.name for stage in cascade.spec.stages]
    verifier = estimator.self_verify.stage if estimator.self_verify is not None else None
    if verifier is not None and verifier not in stages:
        yield _wrong(
            (*_AT, "selfVerify", "stage"), f"{verifier} is no stage: use {' or '.join(stages)}"
        )
    votes = estimator.self_consistency
    if votes is not None and not 0.0 < votes.temperature.value <= _MOST_TEMPERATURE:
        yield _wrong(
            (*_AT, "selfConsistency", "temperature"),
            f"{votes.temperature} must be above 0 and at most {_MOST_TEMPERATURE:g}: samples of "
            "one temperature differ only then",
        )
    checks = estimator.validator.checks if estimator.validator is not None else ()
    for i, check in enumerate(checks):
        yield from _check_findings(check, (*_AT, "validator", "checks", i))
    shadow = quality.watch.shadow if quality.watch is not None else None
    if shadow is not None and shadow.label == "Validator" and not checks:
        yield _wrong(
            ("spec", "quality", "watch", "shadow", "label"),
            "Validator labels by the estimator's checks and there are none: give "
            "spec.quality.estimator.validator, or use LastStage",
        )


def _check_findings(check: Check, at: Path) -> Iterator[Finding]:
    if check.pattern is not None:
        try:
            re.compile(check.pattern)
        except re.error as error:
            yield _wrong((*at, "pattern"), f"is no regular expression ({error}): correct it")
    if check.json_schema is not None:
        import jsonschema  # only who writes a schema pays for the import

        kind = jsonschema.validators.validator_for(check.json_schema)
        try:
            kind.check_schema(check.json_schema)
        except jsonschema.SchemaError as error:
            yield _wrong((*at, "schema"), f"is no JSON Schema ({error.message}): correct it")
    if check.command is not None and not re.fullmatch(r"[-._a-zA-Z0-9]+", check.command[0]):
        yield _wrong(
            (*at, "command"), f"{check.command[0]!r} is no key of a ConfigMap: name one of commands"
        )
    if not 0.0 < check.time_limit.seconds <= _MOST_SECONDS:
        yield _wrong(
            (*at, "timeLimit"),
            f"{check.time_limit} must be above 0s and at most {_MOST_SECONDS:g}s",
        )


def _check(check: Check) -> dict[str, Any]:
    """As motley_runtime.checks reads it."""
    if check.pattern is not None:
        return {"type": "Regex", "pattern": check.pattern}
    if check.json_schema is not None:
        return {"type": "JsonSchema", "schema": check.json_schema}
    argv = list(check.command or ())
    return {"type": "Command", "argv": argv, "seconds": check.time_limit.seconds}


def _wrong(at: Path, message: str) -> Finding:
    return found(at, "estimator", message, "EstimatorInvalid")
