"""Fleet: the admin's side. One object named `default`; without it, its defaults hold."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from motley_operator.api.common import (
    ATOMIC,
    SET,
    ApiModel,
    Budget,
    CapacityType,
    DnsLabel,
    GpuProduct,
    Label,
    LabelKey,
    ModelId,
    Opaque,
    ReplanMode,
    keyed_by,
)
from motley_operator.api.fleetstatus import FleetStatus
from motley_operator.api.frame import READY, Column, Names, Resource
from motley_operator.api.measuring import PrometheusSpec
from motley_operator.api.podsecurity import PodPermission
from motley_operator.api.quantities import Duration, Percentage, Quantity, SparePercentage
from motley_operator.api.rules import Rule, positive, shares_fit
from motley_operator.api.shapes import CHOSEN, LIMITED, NodeShape, Toleration

_ONLY_DEFAULT = Rule(
    "one fleet",
    "metadata.name",
    "a cluster has one Fleet and its name is default: set metadata.name to default",
    "self.metadata.name == 'default'",
    lambda d: d.get("metadata", {}).get("name") == "default",
)


class GpuPrice(ApiModel):
    """Price of one GPU."""

    gpu: GpuProduct = Field(description="Catalog GPU id or product label.")
    capacity_type: CapacityType = Field(default="on-demand", description="How it is bought.")
    dollars_per_hour: Quantity = Field(description="US dollars per GPU and hour.")


class InstancePrice(ApiModel):
    """Price of one whole node; goes before GPU prices."""

    instance_type: Label = Field(description="Value of node.kubernetes.io/instance-type.")
    capacity_type: CapacityType = Field(default="on-demand", description="How it is bought.")
    dollars_per_hour: Quantity = Field(description="US dollars per node and hour.")


class Prices(ApiModel):
    """What nodes cost, where no node label says it; before the catalog's prices."""

    gpus: tuple[GpuPrice, ...] = Field(
        default=(),
        max_length=64,
        description="By GPU.",
        json_schema_extra=keyed_by("gpu", "capacityType"),
    )
    instance_types: tuple[InstancePrice, ...] = Field(
        default=(),
        max_length=128,
        description="By instance type.",
        json_schema_extra=keyed_by("instanceType", "capacityType"),
    )


class Tenant(ApiModel):
    """What a namespace is entitled to."""

    namespace: DnsLabel = Field(description="The namespace.")
    guaranteed_share: Percentage = Field(
        default=Percentage("0%"),
        description="Share of the fleet's GPUs that the namespace gets when it asks for them.",
    )
    weight: int = Field(default=1, ge=1, le=1000, description="Weight in sharing what is scarce.")


class GpuEntry(ApiModel):
    """A GPU that the catalog lacks, with datasheet numbers."""

    id: Label = Field(description="Catalog id.")
    product_labels: tuple[GpuProduct, ...] = Field(
        min_length=1,
        max_length=16,
        description="Values of the nodes' product label.",
        json_schema_extra=SET,
    )
    memory_gigabytes: Quantity = Field(description="Memory in 10^9 bytes.")
    memory_gigabytes_per_second: Quantity = Field(
        description="Memory bandwidth in 10^9 bytes a second."
    )
    bf16_teraflops: Quantity = Field(description="Dense bf16 peak in 10^12 operations a second.")
    fp8_teraflops: Quantity | None = Field(
        default=None, description="Dense fp8 peak in 10^12 operations a second."
    )
    link_gigabytes_per_second: Quantity | None = Field(
        default=None,
        description="Bandwidth between GPUs of a node in 10^9 bytes a second, one direction.",
    )
    dollars_per_hour: Quantity | None = Field(
        default=None, description="US dollars per GPU and hour."
    )


class ModelEntry(ApiModel):
    """A model that the catalog lacks."""

    id: ModelId = Field(description="Hugging Face id.")
    aliases: tuple[ModelId, ...] = Field(
        default=(),
        max_length=16,
        description="Other ids of the same architecture.",
        json_schema_extra=SET,
    )
    architecture: Opaque = Field(description="Fields of its config.json.")


class CatalogAdditions(ApiModel):
    """Entries beside the built-in catalog."""

    gpus: tuple[GpuEntry, ...] = Field(
        default=(), max_length=32, description="GPUs.", json_schema_extra=keyed_by("id")
    )
    models: tuple[ModelEntry, ...] = Field(
        default=(), max_length=64, description="Models.", json_schema_extra=keyed_by("id")
    )


class ReplanDefaults(ApiModel):
    """How running plans change where a resource does not say it."""

    rules = (
        positive("horizon", "replan.horizon is longer than 0s: write a duration such as 1h"),
        positive(
            "startDeadline", "replan.startDeadline is longer than 0s: write a duration such as 10m"
        ),
    )
    mode: ReplanMode = Field(default="Auto", description="Auto, Preview or Disabled.")
    min_improvement: Percentage = Field(
        default=Percentage("5%"), description="Gain a new plan must bring."
    )
    cooldown: Duration = Field(
        default=Duration("10m"),
        description="Time after a change that stopped or replaced replicas during which no money moves its replicas, and in which money stops no more than a quarter of the whole fleet's (two at least); losses and edits do not wait.",
    )
    start_deadline: Duration = Field(
        default=Duration("10m"),
        description="Time a pod may stay Pending or crash before it is given up and its place becomes suspect.",
    )
    headroom: SparePercentage = Field(
        default=SparePercentage("10%"), description="Capacity kept above the stated rate."
    )
    node_loss_tolerance: int = Field(
        default=0, ge=0, le=4, description="Nodes that may be lost with the rate still served."
    )
    horizon: Duration = Field(
        default=Duration("1h"), description="Time over which a move must earn back its reload."
    )


class EngineRequests(ApiModel):
    """What engine pods request of their node beside GPUs."""

    cpu_per_gpu: Quantity = Field(default=Quantity("4"), description="Cores for each GPU.")
    memory_per_gpu: Quantity = Field(
        default=Quantity("16Gi"), description="Bytes of main memory for each GPU."
    )


class PodTemplates(ApiModel):
    """What podTemplates of resources may ask for."""

    allow: tuple[PodPermission, ...] = Field(
        default=(),
        max_length=12,
        description="What podTemplates may ask for beyond Pod Security's baseline without a token of the API server; empty: nothing. Resources that ask for what is no longer in the list are refused.",
        json_schema_extra=SET,
    )


class Solver(ApiModel):
    """Limits of one solve."""

    rules = (
        positive("timeLimit", "solver.timeLimit is longer than 0s: write a duration such as 10s"),
    )
    time_limit: Duration = Field(
        default=Duration("10s"), description="Time after which the best plan found is taken."
    )
    relative_gap: Percentage = Field(
        default=Percentage("0.1%"), description="Gap at which a plan counts as optimal."
    )


class FleetSpec(ApiModel):
    """Which nodes, at which prices, for whom."""

    rules = (
        shares_fit(
            "tenants",
            "guaranteedShare",
            "the tenants' guaranteedShare add up to more than 100%: lower some of them",
        ),
        LIMITED,
        CHOSEN,
    )
    node_selector: dict[LabelKey, Annotated[str, Field(max_length=63)]] = Field(
        default={},
        max_length=16,
        description="Labels of the nodes that Motley may use; empty: all with GPUs.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        max_length=32,
        description="Taints that Motley's pods tolerate.",
        json_schema_extra=ATOMIC,
    )
    prices: Prices = Field(default=Prices(), description="What nodes cost.")
    budget: Budget | None = Field(default=None, description="Upper limits over all resources.")
    tenants: tuple[Tenant, ...] = Field(
        default=(),
        max_length=256,
        description="Entitlements of namespaces.",
        json_schema_extra=keyed_by("namespace"),
    )
    shapes: tuple[NodeShape, ...] = Field(
        default=(),
        max_length=64,
        description="Nodes that an autoscaler could add.",
        json_schema_extra=keyed_by("name"),
    )
    catalog: CatalogAdditions = Field(
        default=CatalogAdditions(), description="GPUs and models beside the built-in ones."
    )
    replan: ReplanDefaults = Field(
        default=ReplanDefaults(), description="How running plans change."
    )
    solver: Solver = Field(default=Solver(), description="Limits of one solve.")
    engine_requests: EngineRequests = Field(
        default=EngineRequests(),
        description="What engine and trainer pods request beside GPUs; less than the default where nodes have few cores or little memory for their GPUs. A change replaces the pods that run.",
    )
    pod_templates: PodTemplates = Field(
        default=PodTemplates(), description="What podTemplates of resources may ask for."
    )
    prometheus: PrometheusSpec | None = Field(
        default=None,
        description="Where demand of resources with workload.demand: Measured, and engines' speeds, are read.",
    )


class Fleet(Resource):
    """The fleet of nodes that Motley plans on."""

    names: ClassVar[Names] = Names(
        "Fleet",
        "fleets",
        "fleet",
        "fl",
        "Cluster",
        (
            Column("GPUs", ".status.gpus"),
            Column("Cost/h", ".status.dollarsPerHour"),
            Column("Gap", ".status.gap", "number"),
            Column("Ready", f"{READY}.status"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Solve", ".status.solveSeconds", "number", wide=True),
        ),
    )
    rules = (_ONLY_DEFAULT,)
    kind: Literal["Fleet"] = "Fleet"
    spec: FleetSpec = Field(default=FleetSpec())
    status: FleetStatus = Field(default=FleetStatus())
