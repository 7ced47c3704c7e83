"""A cascade's calibration: the ConfigMap it is in, its table, and the policies the table supports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache

from motley_operator.api.estimating import estimator_findings, estimator_rule
from motley_operator.api.findings import Finding
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.surroundings import ConfigMaps, found
from motley_planner.candidates.calibration import (
    CalibrationTable,
    check_calibration,
)
from motley_planner.candidates.policies import quality_refusal, routing_policies
from motley_planner.dispatch import (
    LOGPROB_FEATURES,
    Calibrator,
    EstimatorError,
    EstimatorRule,
    estimator_document,
    parse_calibrator,
)
from motley_planner.domain.demand import RoutingPolicy

FITTED_KEY = "estimator.json"  # beside the table, as `motley calibrate --estimator` writes it

Policies = tuple[RoutingPolicy, ...]
Fitted = tuple[Mapping[str, Calibrator], str | None]  # and why they cannot be used


def quality_findings(cascade: ModelCascade, config_maps: ConfigMaps) -> Iterator[Finding]:
    """Why a cascade cannot be routed as it asks."""
    quality = cascade.spec.quality
    ref, at = quality.calibration.config_map_key_ref, ("spec", "quality", "calibration")
    unusable = list(estimator_findings(cascade))
    yield from unusable
    namespace = cascade.metadata.namespace or ""
    data = config_maps.get((namespace, ref.name))
    if data is None:
        yield found(
            (*at, "configMapKeyRef", "name"), "calibration",
            f"there is no ConfigMap {ref.name} in namespace {namespace or 'default'}: create it "
            f"with the calibration table under the key {ref.key}", "CalibrationMissing",
        )  # fmt: skip
    elif ref.key not in data:
        keys = ", ".join(sorted(data)) or "none"
        yield found(
            (*at, "configMapKeyRef", "key"), "calibration",
            f"ConfigMap {ref.name} has no key {ref.key}: use one of its keys ({keys})",
            "CalibrationInvalid",
        )  # fmt: skip
    else:
        yield from _table(cascade, data[ref.key])
        mistake = None if unusable else _fitted_of(cascade, data.get(FITTED_KEY), data[ref.key])[1]
        if mistake is not None:
            yield found(
                ("spec", "quality", "calibration"), "calibration",
                f"ConfigMap {ref.name}, key {FITTED_KEY}: {mistake}", "CalibrationInvalid",
            )  # fmt: skip


def _table(cascade: ModelCascade, text: str) -> Iterator[Finding]:
    policies, mistakes = _policies(*_question(cascade, text))
    for mistake in mistakes:
        yield found(
            ("spec", "quality", "calibration"), "calibration",
            f"calibration table: {mistake}", "CalibrationInvalid",
        )  # fmt: skip
    refusal = quality_refusal(policies, cascade.spec.quality.floor.fraction)
    if refusal is not None:
        yield found(
            ("spec", "quality", "floor"), "reachable floor", f"{refusal.message}: {refusal.lift}",
            refusal.reason,
        )  # fmt: skip


def cascade_policies(cascade: ModelCascade, config_maps: ConfigMaps) -> Policies:
    """The routing policies of a cascade that has no quality findings."""
    ref = cascade.spec.quality.calibration.config_map_key_ref
    text = config_maps[(cascade.metadata.namespace or "", ref.name)][ref.key]
    policies, _ = _policies(*_question(cascade, text))
    return policies


def cascade_calibrators(cascade: ModelCascade, config_maps: ConfigMaps) -> Mapping[str, Calibrator]:
    """The fitted scores that came with the table, by stage; none where it holds plain ones."""
    ref = cascade.spec.quality.calibration.config_map_key_ref
    data = config_maps.get((cascade.metadata.namespace or "", ref.name), {})
    if FITTED_KEY not in data or ref.key not in data:
        return {}
    return _fitted_of(cascade, data[FITTED_KEY], data[ref.key])[0]


def calibration_table(cascade: ModelCascade, config_maps: ConfigMaps) -> CalibrationTable | None:
    """A cascade's table; None where it is not there (any more) or cannot be read."""
    ref = cascade.spec.quality.calibration.config_map_key_ref
    text = config_maps.get((cascade.metadata.namespace or "", ref.name), {}).get(ref.key)
    return None if text is None else check_calibration(text, _question(cascade, text)[1])[0]


def _fitted_of(cascade: ModelCascade, text: str | None, table: str) -> Fitted:
    if text is None:
        return {}, None
    rule = estimator_rule(cascade.spec.quality.estimator)
    return _fitted(text, table, _question(cascade, table)[1], rule)


@lru_cache(maxsize=64)
def _fitted(text: str, table: str, stages: tuple[str, ...], rule: EstimatorRule) -> Fitted:
    """The calibrators, or why they cannot be used."""
    again = "write both with one run of `motley calibrate`"
    try:
        document = json.loads(text)
    except ValueError:
        return {}, f"is not JSON: {again}"
    if not isinstance(document, dict) or document.get("version") != 1:
        return {}, f"is not of version 1: {again}"
    if document.get("table_sha256") != hashlib.sha256(table.encode()).hexdigest():
        return {}, f"was fitted with another table: {again}"
    wanted = estimator_document(rule)
    if {key: document.get(key) for key in wanted} != wanted:
        return {}, (
            f"was made with another estimator than spec.quality.estimator ({rule.type}): use the "
            f"same, or {again}"
        )
    given = document.get("calibrators")
    if not isinstance(given, dict) or set(given) - set(stages):
        return {}, f"calibrators: name stages among {', '.join(stages)}"
    try:
        read = {name: parse_calibrator(each) for name, each in given.items()}
    except EstimatorError as error:
        return {}, f"calibrators: {error}"
    known = {*LOGPROB_FEATURES, rule.feature}
    for name, each in read.items():
        if not known.issuperset(each.features):
            return {}, f"calibrators.{name}: features must be among {', '.join(sorted(known))}"
    return read, None


def _question(cascade: ModelCascade, text: str) -> tuple[str, tuple[str, ...], float]:
    stages = tuple(stage.name for stage in cascade.spec.stages)
    return text, stages, cascade.spec.quality.confidence.fraction


@lru_cache(maxsize=64)  # asked in every cycle, and a table is a megabyte at most
def _policies(
    text: str, stages: tuple[str, ...], confidence: float
) -> tuple[Policies, tuple[str, ...]]:
    table, mistakes = check_calibration(text, stages)
    return (routing_policies(table, confidence) if table is not None else ()), mistakes
