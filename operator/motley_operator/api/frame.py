"""The frame around every custom resource: apiVersion, kind, metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from motley_operator.api.common import GROUP, ApiModel


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; `wide` ones show with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """How a kind is addressed and listed."""

    kind: str
    plural: str
    singular: str
    short: str
    scope: Literal["Namespaced", "Cluster"]
    columns: tuple[Column, ...]

    @property
    def crd_name(self) -> str:
        """Name of the CustomResourceDefinition object."""
        return f"{self.plural}.{GROUP}"


READY = '.status.conditions[?(@.type=="Ready")]'
PLANNED = '.status.conditions[?(@.type=="Planned")]'
ADDRESS = Column("Address", ".status.address.url", wide=True)


def plan_columns(*models: Column) -> tuple[Column, ...]:
    """The columns of a planned resource; `models` say what it serves or trains.

    The server prints the first value of a path only, so a path must lead to one.
    """
    return (
        *models,
        Column("GPUs", ".status.plan.gpus"),
        Column("Cost/h", ".status.plan.dollarsPerHour"),
        Column("Ready", f"{READY}.status"),
        Column("Reason", f"{READY}.reason"),
        Column("Planned", f"{PLANNED}.reason"),
        Column("Age", ".metadata.creationTimestamp", "date"),
        Column("Plan", ".status.plan.hash", wide=True),
        Column("Proposed", ".status.proposedPlan.hash", wide=True),
        Column("Message", f"{READY}.message", wide=True),
    )


class Metadata(ApiModel):
    """The part of the object's metadata that Motley reads; the rest is kept as extra."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True
    )
    name: str = Field(min_length=1, max_length=253)
    namespace: str | None = Field(default=None, max_length=63)
    uid: str = Field(default="", max_length=64)
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})


class Resource(ApiModel):
    """A custom resource as the API server stores it."""

    names: ClassVar[Names]
    api_version: Literal["motley.dev/v1alpha1"] = Field(default="motley.dev/v1alpha1")
    metadata: Metadata

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, namespace, name: what tells this resource from every other."""
        return (self.names.kind, self.metadata.namespace or "", self.metadata.name)

    @property
    def is_paused(self) -> bool:
        """Whether a person asked Motley to keep its hands off."""
        return self.metadata.annotations.get(f"{GROUP}/paused") == "true"

    def document(self) -> dict[str, Any]:
        """The resource as a plain mapping in the API's own field names."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")
