"""ServingPool: one model, served on whatever GPUs fit it best."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from motley_operator.api.adapters import Adapter
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
from motley_operator.api.frame import ADDRESS, Column, Names, Resource, plan_columns
from motley_operator.api.models import ModelRef
from motley_operator.api.rules import Rule, short_dns_name
from motley_operator.api.status import ServingStatus
from motley_operator.api.traffic import Disaggregation, Gateway, Objective, Slo, Workload

_BUDGETED = Rule(
    "throughput needs a budget",
    "budget",
    "objective: MaximizeThroughput needs a budget: add budget.dollarsPerHour or budget.gpus",
    "self.objective != 'MaximizeThroughput' || has(self.budget)",
    lambda d: d.get("objective") != "MaximizeThroughput" or "budget" in d,
)


class ServingPoolSpec(ApiModel):
    """What is wanted of a pool; the plan decides how."""

    rules = (_BUDGETED,)
    model: ModelRef = Field(description="The model.")
    adapters: tuple[Adapter, ...] = Field(
        default=(),
        max_length=64,
        description="LoRA adapters of the model, each served under its name.",
        json_schema_extra=keyed_by("name"),
    )
    engine: EngineSpec = Field(default=EngineSpec(), description="The inference engine.")
    workload: Workload = Field(description="The requests to serve.")
    slo: Slo = Field(default=Slo(), description="Latency targets; absent: none.")
    objective: Objective = Field(
        default="MinimizeCost",
        description="MinimizeCost serves the workload as cheaply as possible; MaximizeThroughput serves as much as the budget allows.",
    )
    budget: Budget | None = Field(default=None, description="Upper limits.")
    disaggregation: Disaggregation = Field(
        default="Auto", description="Whether prefill and decode run on replicas of their own."
    )
    parallelism: Parallelism = Field(
        default=Parallelism(), description="How far one replica may be split."
    )
    placement: Placement = Field(default=Placement(), description="Which nodes may be used.")
    replan: Replan = Field(default=Replan(), description="When a running plan may change.")
    priority_class_name: PriorityClassName | None = Field(
        default=None, description="PriorityClass of the pods; the plan serves higher values first."
    )
    branches: Branches | None = Field(
        default=None,
        description="Several answers side by side for each request; absent: one.",
    )
    profile: Table | None = Field(
        default=None, description="Measured throughput; overrides the cost model."
    )
    gateway: Gateway = Field(default=Gateway(), description="The address clients call.")
    pod_template: Opaque | None = Field(
        default=None,
        description="Pod template merged over the engine pods by strategic merge; what the plan decides (GPUs, node) cannot be overridden.",
    )


class ServingPool(Resource):
    """A pool of replicas of one model behind one address."""

    names: ClassVar[Names] = Names(
        "ServingPool",
        "servingpools",
        "servingpool",
        "sp",
        "Namespaced",
        (*plan_columns(Column("Model", ".spec.model.id")), ADDRESS),
    )
    rules = (short_dns_name(40),)
    kind: Literal["ServingPool"] = "ServingPool"
    spec: ServingPoolSpec
    status: ServingStatus = Field(default=ServingStatus())
