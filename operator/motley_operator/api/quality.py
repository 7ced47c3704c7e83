"""A cascade's calibration: the ConfigMap it is in, its table, and the policies the table supports."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from motley_operator.api.findings import Finding
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.surroundings import ConfigMaps, found
from motley_planner.candidates.calibration import check_calibration
from motley_planner.candidates.policies import quality_refusal, routing_policies
from motley_planner.domain.demand import RoutingPolicy

ESTIMATORS = ("LogProb",)  # what the gateway can compute

Policies = tuple[RoutingPolicy, ...]


def quality_findings(cascade: ModelCascade, config_maps: ConfigMaps) -> Iterator[Finding]:
    """Why a cascade cannot be routed as it asks."""
    quality = cascade.spec.quality
    ref, at = quality.calibration.config_map_key_ref, ("spec", "quality", "calibration")
    if quality.estimator.type not in ESTIMATORS:
        yield found(
            ("spec", "quality", "estimator", "type"), "estimator",
            f"the gateway does not compute {quality.estimator.type} yet: use {ESTIMATORS[0]}",
            "EstimatorUnsupported",
        )  # fmt: skip
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


def _question(cascade: ModelCascade, text: str) -> tuple[str, tuple[str, ...], float]:
    stages = tuple(stage.name for stage in cascade.spec.stages)
    return text, stages, cascade.spec.quality.confidence.fraction


@lru_cache(maxsize=64)  # asked in every cycle, and a table is a megabyte at most
def _policies(
    text: str, stages: tuple[str, ...], confidence: float
) -> tuple[Policies, tuple[str, ...]]:
    table, mistakes = check_calibration(text, stages)
    return (routing_policies(table, confidence) if table is not None else ()), mistakes
