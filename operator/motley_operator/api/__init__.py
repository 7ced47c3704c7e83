"""The custom resources of motley.dev as people write them.

`parse(document)` gives a `ServingPool`, `ModelCascade`, `RLJob` or `Fleet`; `crds()` the
CustomResourceDefinitions; `validate_documents(text)` every mistake with its line.
"""

from __future__ import annotations

from motley_operator.api.findings import Finding, InvalidDocument
from motley_operator.api.fleet import Fleet, FleetSpec
from motley_operator.api.fleetstatus import FleetStatus
from motley_operator.api.frame import Metadata, Resource
from motley_operator.api.modelcascade import ModelCascade, ModelCascadeSpec, Stage
from motley_operator.api.quantities import Duration, Percentage, Quantity
from motley_operator.api.reading import KINDS, RESOURCES, parse, read
from motley_operator.api.rljob import RLJob, RLJobSpec, RLJobStatus
from motley_operator.api.servingpool import ServingPool, ServingPoolSpec
from motley_operator.api.status import (
    Address,
    Binding,
    Condition,
    FrozenInputs,
    LastReplan,
    PlanGroup,
    PlanStatus,
    Promise,
    ProposedPlan,
    ResourceStatus,
    RoutingPolicy,
    RoutingSummary,
    ServingStatus,
)

__all__ = [
    "KINDS",
    "RESOURCES",
    "Address",
    "Binding",
    "Condition",
    "Duration",
    "Finding",
    "Fleet",
    "FleetSpec",
    "FleetStatus",
    "FrozenInputs",
    "InvalidDocument",
    "LastReplan",
    "Metadata",
    "ModelCascade",
    "ModelCascadeSpec",
    "Percentage",
    "PlanGroup",
    "PlanStatus",
    "Promise",
    "ProposedPlan",
    "Quantity",
    "RLJob",
    "RLJobSpec",
    "RLJobStatus",
    "Resource",
    "ResourceStatus",
    "RoutingPolicy",
    "RoutingSummary",
    "ServingPool",
    "ServingPoolSpec",
    "ServingStatus",
    "Stage",
    "parse",
    "read",
]
