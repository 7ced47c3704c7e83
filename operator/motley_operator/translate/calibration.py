"""The calibration table of a cascade, from its ConfigMap to routing policies."""

from __future__ import annotations

from collections.abc import Mapping

from motley_operator.api import ModelCascade
from motley_planner.candidates.policies import policies_from_table
from motley_planner.domain.demand import RoutingPolicy
from motley_planner.domain.plan import Refusal
from motley_planner.errors import PlannerError

ESTIMATORS = ("LogProb",)  # what the gateway can compute

Tables = Mapping[tuple[str, str], Mapping[str, str]]


def cascade_policies(
    cascade: ModelCascade, tables: Tables
) -> tuple[tuple[RoutingPolicy, ...], tuple[Refusal, ...]]:
    """The cascade's policies, or why there are none."""
    quality = cascade.spec.quality
    if quality.estimator.type not in ESTIMATORS:
        return (), (
            Refusal(
                "InvalidSpec",
                "spec.quality.estimator.type",
                f"the gateway does not compute {quality.estimator.type} yet",
                f"use {ESTIMATORS[0]}",
            ),
        )
    reference, field = quality.calibration.config_map_key_ref, "spec.quality.calibration"
    table = tables.get((cascade.metadata.namespace or "", reference.name))
    if table is None:
        message = f"ConfigMap {reference.name} does not exist"
        return (), (Refusal("CalibrationMissing", field, message, "create it"),)
    if reference.key not in table:
        message = f"ConfigMap {reference.name} has no key {reference.key}"
        return (), (Refusal("CalibrationMissing", field, message, f"add {reference.key}"),)
    try:
        stages = [stage.name for stage in cascade.spec.stages]
        policies = policies_from_table(table[reference.key], stages, quality.confidence.fraction)
    except PlannerError as error:
        return (), (Refusal("CalibrationInvalid", field, str(error), "correct the table"),)
    return tuple(policies), ()
