"""What the Fleet reports: inventory, the whole plan's value, what it does not know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from motley_operator.api.common import ATOMIC, SET, keyed_by
from motley_operator.api.quantities import Quantity
from motley_operator.api.status import Condition
from motley_operator.api.statusparts import UNSEEN, StatusModel, Text

# A correction beyond these is a mistake somewhere: it stops there, and says what was measured.
LEAST_FACTOR, MOST_FACTOR = 0.5, 2.0
MOST_CORRECTIONS = 40


class InventoryRow(StatusModel):
    """Nodes that pack alike."""

    gpu: Text = Field(description="Catalog GPU id.")
    gpu_product: Text = Field(description="Product label.")
    zone: Text = Field(default="", description="Zone.")
    capacity_type: Text = Field(default="", description="How they are bought.")
    gpus_per_node: int = Field(ge=0, description="Allocatable GPUs of one node.")
    nodes: int = Field(ge=0, description="Nodes.")
    gpus: int = Field(ge=0, description="Allocatable GPUs of all of them.")
    gpus_used: int = Field(default=0, ge=0, description="GPUs that Motley's pods hold.")
    gpus_foreign: int = Field(default=0, ge=0, description="GPUs that other pods hold.")
    dollars_per_hour: Quantity | None = Field(
        default=None, description="US dollars per node and hour."
    )


class UnknownGpu(StatusModel):
    """A GPU product that neither catalog knows; its nodes are not used."""

    product: Text = Field(description="Value of the product label.")
    nodes: int = Field(
        ge=0, description="Nodes that carry it; 0 where a driver offers devices on no single node."
    )


class NodesToAdd(StatusModel):
    """Nodes of a shape of the spec that would serve what now goes unserved."""

    shape: Text = Field(description="Name in spec.shapes.")
    gpu: Text = Field(description="Catalog GPU id.")
    count: int = Field(ge=1, description="How many.")
    dollars_per_hour: Quantity = Field(description="US dollars an hour of all of them.")
    delay_seconds: int = Field(ge=0, description="From the request to Ready nodes.")


class NodesComing(StatusModel):
    """Nodes of a shape with provision: Pods that pods wait for."""

    shape: Text = Field(description="Name in spec.shapes.")
    gpu: Text = Field(description="Catalog GPU id.")
    count: int = Field(ge=1, description="How many.")
    dollars_per_hour: Quantity = Field(description="US dollars an hour of all of them.")


class SuspectShape(StatusModel):
    """A shape of which no node came in time; it is not asked for again until a time."""

    shape: Text = Field(description="Name in spec.shapes.")
    failures: int = Field(ge=1, description="How often, one after the other.")
    since: Text = Field(description="Time of the last one.")
    until: Text = Field(description="Time from which it may be asked for again.")


class Correction(StatusModel):
    """What a step of one configuration takes over what is modeled, learned from Prometheus."""

    model: Text = Field(description="Catalog id of the model.")
    gpu: Text = Field(description="Catalog GPU id.")
    tensor_parallel: int = Field(ge=1, description="GPUs of a replica.")
    precision: Text = Field(description="Precision of the weights.")
    engine: Text = Field(description="Inference engine.")
    value: float = Field(
        ge=LEAST_FACTOR,
        le=MOST_FACTOR,
        description="In force: steps take as many times as long as modeled.",
    )
    measured: float = Field(
        gt=0.0, le=1e6, description="What was measured; value follows it slowly and bounded."
    )
    low: float = Field(gt=0.0, le=1e6, description="Lower end of the 99 % interval.")
    high: float = Field(gt=0.0, le=1e6, description="Upper end of the 99 % interval.")
    samples: int = Field(ge=0, description="Requests behind it.")
    since: Text = Field(description="Since when value is in force.")
    provenance: Literal["learned"] = Field(
        default="learned", description="As promises of plans made with it say."
    )


class OtherNamespaces(StatusModel):
    """Namespaces beyond those that are told one by one."""

    count: int = Field(ge=1, description="How many.")
    dollars_per_hour: Quantity = Field(description="US dollars an hour of all of them.")


class FleetStatus(StatusModel):
    """What is fleet-wide."""

    observed_generation: int | None = Field(
        default=None,
        ge=UNSEEN,
        description="Generation that the conditions speak of; -1 before the first report.",
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="Statements by type.",
        json_schema_extra=keyed_by("type"),
    )
    inventory: tuple[InventoryRow, ...] = Field(
        default=(), max_length=128, description="Nodes by shape.", json_schema_extra=ATOMIC
    )
    gpus: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Such as 24xH100,24xA100."
    )
    objective: float | None = Field(default=None, description="Value of the fleet's plan.")
    bound: float | None = Field(default=None, description="No plan can do better than this.")
    gap: float | None = Field(default=None, ge=0, description="|bound - objective| / |objective|.")
    solve_seconds: float | None = Field(default=None, ge=0, description="Time the last solve took.")
    dollars_per_hour: Quantity | None = Field(
        default=None, description="US dollars an hour of all resources."
    )
    dollars_per_hour_by_namespace: dict[Annotated[str, Field(max_length=63)], Quantity] = Field(
        default={},
        max_length=256,
        description="US dollars an hour by namespace; where there are more, of the dearest.",
    )
    other_namespaces: OtherNamespaces | None = Field(
        default=None, description="Namespaces that dollarsPerHourByNamespace has no room for."
    )
    unknown_gpus: tuple[UnknownGpu, ...] = Field(
        default=(),
        max_length=32,
        description="Products that are not guessed.",
        json_schema_extra=keyed_by("product"),
    )
    nodes_to_add: tuple[NodesToAdd, ...] = Field(
        default=(),
        max_length=64,
        description="What would serve the demand that the plan leaves unserved.",
        json_schema_extra=keyed_by("shape"),
    )
    nodes_coming: tuple[NodesComing, ...] = Field(
        default=(),
        max_length=64,
        description="Nodes that pods wait for.",
        json_schema_extra=keyed_by("shape"),
    )
    suspect_shapes: tuple[SuspectShape, ...] = Field(
        default=(),
        max_length=64,
        description="Shapes of which no node came in time.",
        json_schema_extra=keyed_by("shape"),
    )
    corrections: tuple[Correction, ...] = Field(
        default=(),
        max_length=MOST_CORRECTIONS,
        description="How fast engines are over what is modeled, by configuration.",
        json_schema_extra=keyed_by("model", "gpu", "tensorParallel", "precision", "engine"),
    )
    suspects: tuple[Text, ...] = Field(
        default=(),
        max_length=64,
        description="Configurations or nodes that failed lately.",
        json_schema_extra=SET,
    )
