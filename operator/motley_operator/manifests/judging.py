"""What a cascade's routing says about answers: how they are scored, watched, and when let through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from motley_operator.api.estimating import estimator_rule
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.quality import calibration_table, cascade_calibrators, cascade_policies
from motley_operator.api.surroundings import ConfigMaps
from motley_operator.manifests.gateways import GatewayExtras
from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.watching import certified, references, relief_policies
from motley_planner.dispatch import (
    Calibrator,
    EstimatorRule,
    Policy,
    ReliefRule,
    ShadowRule,
    WatchRule,
)
from motley_planner.domain.plan import Slice


@dataclass(frozen=True, slots=True)
class Judging:
    """The parts of a routing table that are about answers; `quality` is certified, by policy."""

    estimator: EstimatorRule = field(default_factory=EstimatorRule)
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    watch: WatchRule | None = None
    relief: ReliefRule | None = None
    extras: GatewayExtras = field(default_factory=GatewayExtras)


def judging_of(cascade: ModelCascade, config_maps: ConfigMaps, part: Slice) -> Judging:
    """What a cascade asks for, with the figures of its table under the plan's mixture."""
    table = calibration_table(cascade, config_maps)
    stages = {stage.name for stage in cascade.spec.stages[:-1]}
    if table is None or any(set(policy.thresholds) != stages for policy in part.policies):
        # What holds still outlives its table: it is served on, and not watched.
        rule = estimator_rule(cascade.spec.quality.estimator)
        return Judging(rule, extras=_extras(cascade))
    relief, quality = _relief(cascade, config_maps, part)
    return Judging(
        estimator=estimator_rule(cascade.spec.quality.estimator),
        calibrators=cascade_calibrators(cascade, config_maps),
        quality=quality,
        watch=_watch(cascade, table, part),
        relief=relief,
        extras=_extras(cascade),
    )


def _extras(cascade: ModelCascade) -> GatewayExtras:
    """What gateways get beside their routing."""
    quality = cascade.spec.quality
    validator, canaries = quality.estimator.validator, quality.watch and quality.watch.canaries
    return GatewayExtras(
        commands=validator.commands.name if validator and validator.commands else None,
        canaries_per_hour=canaries.per_hour if canaries else None,
    )


def _watch(cascade: ModelCascade, table: CalibrationTable, part: Slice) -> WatchRule | None:
    spec = cascade.spec.quality.watch
    if spec is None:
        return None
    shadow = None
    if spec.shadow is not None:
        given = spec.shadow
        shadow = ShadowRule(
            given.share.fraction, given.label, given.compare, float(given.max_per_minute)
        )
    return WatchRule(references(table, part.policies), shadow)


def _relief(
    cascade: ModelCascade, config_maps: ConfigMaps, part: Slice
) -> tuple[ReliefRule | None, Mapping[str, float]]:
    """Nothing where the plan's policies are not certified for all classes alike."""
    spec = cascade.spec.quality.under_load
    if spec is None:
        return None, {}
    offered = cascade_policies(cascade, config_maps)
    quality = certified(offered, part.policies)
    if quality is None:
        return None, {}
    found = relief_policies(offered, part.policies)
    policies = tuple(Policy(p.id, 0.0, p.thresholds, (), p.quality) for p in found)
    floor = cascade.spec.quality.floor.fraction
    return ReliefRule(floor, policies, spec.busy.seconds, spec.window.seconds), quality
