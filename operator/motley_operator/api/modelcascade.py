"""ModelCascade: small models answer what they can, larger ones the rest."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from motley_operator.api.branching import Branches
from motley_operator.api.common import (
    ApiModel,
    Budget,
    EngineSpec,
    Opaque,
    Parallelism,
    Placement,
    PriorityClassName,
    Replan,
    Table,
    keyed_by,
)
from motley_operator.api.estimators import Estimator, StageName, UnderLoad, Watch
from motley_operator.api.frame import ADDRESS, Column, Names, Resource, plan_columns
from motley_operator.api.models import ModelRef
from motley_operator.api.quantities import Percentage
from motley_operator.api.rules import short_dns_name
from motley_operator.api.status import ServingStatus
from motley_operator.api.traffic import Disaggregation, Gateway, Slo, Workload


class Stage(ApiModel):
    """One model of the cascade."""

    name: StageName = Field(
        description="Name of the stage, at most 15 characters; the calibration table's columns start with it."
    )
    model: ModelRef = Field(description="The model.")
    engine: EngineSpec = Field(default=EngineSpec(), description="The inference engine.")
    disaggregation: Disaggregation = Field(
        default="Auto", description="Whether prefill and decode run on replicas of their own."
    )
    parallelism: Parallelism = Field(
        default=Parallelism(), description="How far one replica may be split."
    )
    placement: Placement = Field(default=Placement(), description="Which nodes may be used.")
    branches: Branches | None = Field(
        default=None,
        description="Several answers side by side for each request; absent: one.",
    )
    profile: Table | None = Field(
        default=None, description="Measured throughput; overrides the cost model."
    )
    pod_template: Opaque | None = Field(
        default=None, description="Pod template merged over this stage's engine pods."
    )


class Quality(ApiModel):
    """The floor under the mean quality of returned answers."""

    floor: Percentage = Field(
        description="Mean quality of returned answers, on the calibration table's scale."
    )
    confidence: Percentage = Field(
        default=Percentage("95%"),
        description="How sure the floor must be, given the size of the table.",
    )
    estimator: Estimator = Field(
        default=Estimator(), description="The score that decides on escalation."
    )
    calibration: Table = Field(description="Scores and qualities per stage, one row a question.")
    watch: Watch | None = Field(
        default=None,
        description="Compares traffic with the calibration and raises an alarm; absent: no.",
    )
    under_load: UnderLoad | None = Field(
        default=None,
        description="Accept lower scores while a later stage is busy, never below the floor; absent: no.",
    )


class ModelCascadeSpec(ApiModel):
    """What is wanted of a cascade; the plan decides thresholds, replicas and nodes."""

    stages: tuple[Stage, ...] = Field(
        min_length=2,
        max_length=8,
        description="Small to large.",
        json_schema_extra=keyed_by("name"),
    )
    quality: Quality = Field(description="The quality floor.")
    workload: Workload = Field(description="The requests to serve.")
    slo: Slo = Field(default=Slo(), description="Latency targets over the whole path.")
    budget: Budget | None = Field(default=None, description="Upper limits over all stages.")
    replan: Replan = Field(default=Replan(), description="When a running plan may change.")
    priority_class_name: PriorityClassName | None = Field(
        default=None, description="PriorityClass of the pods; the plan serves higher values first."
    )
    gateway: Gateway = Field(default=Gateway(), description="The address clients call.")


class ModelCascade(Resource):
    """A cascade of models behind one address."""

    names: ClassVar[Names] = Names(
        "ModelCascade",
        "modelcascades",
        "modelcascade",
        "mc",
        "Namespaced",
        (
            *plan_columns(
                Column("First", ".spec.stages[0].model.id"),
                Column("Last", ".spec.stages[-1:].model.id"),
            ),
            ADDRESS,
            Column("Floor", ".spec.quality.floor", wide=True),
        ),
    )
    rules = (short_dns_name(40),)
    kind: Literal["ModelCascade"] = "ModelCascade"
    spec: ModelCascadeSpec
    status: ServingStatus = Field(default=ServingStatus())
