"""What several resources share: model, engine, budget, placement, replanning, and basic types.

Field names are camelCase in documents and snake_case here. Every string and list has a maximum,
because the API server prices CEL rules by the largest document that the schema admits.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from motley_operator.api.quantities import Duration, Percentage, Quantity, SparePercentage
from motley_operator.api.rules import NAME_PATTERN, Rule, some_of

GROUP = "motley.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Line = Annotated[str, Field(min_length=1, max_length=253)]
Label = Annotated[str, Field(min_length=1, max_length=63)]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
ObjectName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
ModelId = Annotated[
    str,
    Field(min_length=1, max_length=160, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?$"),
]
EngineName = Annotated[
    str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")]
Argument = Annotated[str, Field(max_length=1024)]
GpuProduct = Annotated[str, Field(min_length=1, max_length=63)]
CapacityType = Literal["on-demand", "spot", "reserved"]
Precision = Literal["bf16", "fp16", "fp8", "int8", "int4"]
PriorityClassName = Annotated[str, Field(min_length=1, max_length=253)]
Opaque = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
"""An object whose content belongs to another system and is passed on as it is."""

SET: JsonDict = {"x-kubernetes-list-type": "set"}
ATOMIC: JsonDict = {"x-kubernetes-list-type": "atomic"}


def keyed_by(*keys: str) -> JsonDict:
    """Schema marks of a list whose entries are told apart by `keys`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


class ApiModel(BaseModel):
    """A part of a spec: unknown fields are errors, values never change."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )
    rules: ClassVar[tuple[Rule, ...]] = ()


class LocalSecret(ApiModel):
    """A Secret of the same namespace."""

    name: ObjectName = Field(description="Name of the Secret.")


class KeyRef(ApiModel):
    """One key of a ConfigMap or Secret of the same namespace."""

    name: ObjectName = Field(description="Name of the object.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = Field(
        description="Key inside it."
    )


class Table(ApiModel):
    """A CSV table kept in a ConfigMap of the same namespace."""

    config_map_key_ref: KeyRef = Field(description="ConfigMap and key that hold the CSV text.")


class EngineSpec(ApiModel):
    """The inference engine and what is added to its command line."""

    name: EngineName = Field(
        default="vllm", description="An engine of the catalog, e.g. vllm or sglang."
    )
    image: Image | None = Field(
        default=None,
        description="Container image; absent: the catalog's, frozen in status at the first plan.",
    )
    extra_args: tuple[Argument, ...] = Field(
        default=(),
        max_length=64,
        description="Arguments appended to the engine's command line.",
        json_schema_extra=ATOMIC,
    )
    priority: bool = Field(
        default=False,
        description="Requests' priorities order them inside the engine as well as in the gateway.",
    )


class Budget(ApiModel):
    """Upper limits on what a resource may use."""

    rules = (
        some_of(
            "budget",
            ("dollarsPerHour", "gpus"),
            "",
            "budget limits nothing: give dollarsPerHour, gpus or both, or leave budget out",
        ),
    )
    dollars_per_hour: Quantity | None = Field(default=None, description="US dollars an hour.")
    gpus: int | None = Field(default=None, ge=0, le=1_000_000, description="GPUs of any type.")
    in_transition: Literal["Keep", "Exceed"] | None = Field(
        default=None,
        description="While replicas are replaced: Keep (as without a word) counts old and new ones together, and stops an old one before its successor starts where both would be too much; Exceed lets them overlap.",
    )


class Parallelism(ApiModel):
    """How far one replica may be split."""

    max_tensor: Literal[1, 2, 4, 8] = Field(
        default=8, description="GPUs of one node that share each layer, at most."
    )
    max_pipeline: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Groups of layers a replica may be cut into, at most; more than 1 lets a replica span nodes, and losing one of them loses it.",
    )


def _spot_share_fits(document: Any) -> bool:
    only_spot = list(document.get("capacityTypes", ())) == ["spot"]
    share = document.get("maxSpotShare")
    return not only_spot or share is None or Percentage.read(share).fraction >= 1.0


class Placement(ApiModel):
    """Which nodes may be used; an absent list allows all."""

    rules = (
        Rule(
            "spot share",
            "maxSpotShare",
            "maxSpotShare below 100% contradicts capacityTypes: [spot]: allow another capacity type or drop maxSpotShare",
            "!has(self.maxSpotShare) || !has(self.capacityTypes) || self.capacityTypes != ['spot']"
            " || double(self.maxSpotShare.replace('%', '')) >= 100.0",
            _spot_share_fits,
        ),
    )
    gpu_products: tuple[GpuProduct, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="GPU products, as the node label nvidia.com/gpu.product writes them, or catalog GPU ids.",
        json_schema_extra=SET,
    )
    capacity_types: tuple[CapacityType, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="How the node is bought.",
        json_schema_extra=SET,
    )
    zones: tuple[Label, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Values of topology.kubernetes.io/zone.",
        json_schema_extra=SET,
    )
    max_spot_share: Percentage | None = Field(
        default=None, description="Share of the served rate that spot nodes may carry."
    )
    trust_zones: tuple[Label, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Values of motley.dev/trust-zone.",
        json_schema_extra=SET,
    )
    node_selector: dict[LabelKey, Annotated[str, Field(max_length=63)]] = Field(
        default={}, max_length=16, description="Labels a node must carry."
    )


ReplanMode = Literal["Auto", "Preview", "Disabled"]


class Replan(ApiModel):
    """When a running plan may change; absent fields take the Fleet's values."""

    mode: ReplanMode | None = Field(
        default=None,
        description="Auto applies new plans; Preview writes them to status.proposedPlan until motley.dev/approve names their hash; Disabled only repairs lost pods.",
    )
    min_improvement: Percentage | None = Field(
        default=None, description="Gain a new plan must bring."
    )
    cooldown: Duration | None = Field(
        default=None,
        description="Time after a change that stopped or replaced replicas during which no money moves its replicas; losses and edits do not wait.",
    )
    start_deadline: Duration | None = Field(
        default=None,
        description="Time a pod may stay Pending or crash before it is given up and its place becomes suspect.",
    )
    headroom: SparePercentage | None = Field(
        default=None, description="Capacity kept above the stated rate."
    )
    node_loss_tolerance: int | None = Field(
        default=None, ge=0, le=4, description="Nodes that may be lost with the rate still served."
    )
