"""Shapes: nodes that are not there, and who would add them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from motley_operator.api.common import (
    ATOMIC,
    ApiModel,
    CapacityType,
    GpuProduct,
    Label,
    LabelKey,
)
from motley_operator.api.quantities import Duration, Quantity
from motley_operator.api.rules import NAME_PATTERN, Rule

NOTHING = "None"
ATOMIC_CLASS = "best-effort-atomic-scale-up.autoscaling.x-k8s.io"
MARGIN_SHARE, LEAST_MARGIN_S = 0.5, 60.0  # of the delay, before a node counts as not coming
CAPACITY_TYPE = "karpenter.sh/capacity-type"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
ZONE = "topology.kubernetes.io/zone"
# "<name>-<number>" is the value of a pod's label.
ShapeName = Annotated[str, Field(min_length=1, max_length=50, pattern=NAME_PATTERN)]


def _buys(shape: Mapping[str, Any]) -> bool:
    return bool(shape.get("provision", NOTHING) != NOTHING)


def _shapes_that_buy(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [shape for shape in spec.get("shapes") or () if _buys(shape)]


def _selects(spec: Mapping[str, Any]) -> bool:
    wanted = (spec.get("nodeSelector") or {}).items()
    return all(wanted <= (s.get("labels") or {}).items() for s in _shapes_that_buy(spec))


def _has_a_limit(spec: Mapping[str, Any]) -> bool:
    budget = (spec.get("budget") or {}).get("dollarsPerHour")
    return budget is not None or all("maxNodes" in shape for shape in _shapes_that_buy(spec))


LIMITED = Rule(
    "limit of what is bought",
    "shapes",
    "a shape that is bought (provision other than None) has no limit: set its maxNodes, or budget.dollarsPerHour of the Fleet",
    "(has(self.budget) && has(self.budget.dollarsPerHour)) || !has(self.shapes) || "
    "self.shapes.all(s, s.provision == 'None' || has(s.maxNodes))",
    _has_a_limit,
)
CHOSEN = Rule(
    "bought nodes are used",
    "shapes",
    "a shape that is bought lacks a label of spec.nodeSelector, so that its nodes would not be used: "
    " add it to the shape's labels",
    "!has(self.nodeSelector) || !has(self.shapes) || self.shapes.all(s, s.provision == 'None' || "
    "self.nodeSelector.all(k, has(s.labels) && k in s.labels && s.labels[k] == self.nodeSelector[k]))",
    _selects,
)
_FOUND = Rule(
    "labels of what is bought",
    "labels",
    "a shape that is bought needs labels by which pods ask for such a node: set labels, such as "
    "karpenter.sh/nodepool, or instanceType",
    "self.provision == 'None' || has(self.instanceType) || "
    "(has(self.labels) && size(self.labels) > 0)",
    lambda d: not _buys(d) or bool(d.get("labels")) or "instanceType" in d,
)
_TOLERATION = Rule(
    "toleration value",
    "value",
    "a toleration with operator Exists has no value: drop value or use operator Equal",
    "self.operator != 'Exists' || !has(self.value)",
    lambda d: d.get("operator", "Equal") != "Exists" or "value" not in d,
)


class Toleration(ApiModel):
    """A taint that Motley's pods tolerate (Kubernetes toleration)."""

    rules = (_TOLERATION,)
    key: Annotated[str, Field(max_length=317)] | None = Field(
        default=None, description="Taint key; absent with Exists: every taint."
    )
    operator: Literal["Equal", "Exists"] = Field(
        default="Equal", description="How value is compared."
    )
    value: Annotated[str, Field(max_length=63)] | None = Field(
        default=None, description="Taint value."
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Absent: every effect."
    )


class NodeShape(ApiModel):
    """A node that an autoscaler could add."""

    rules = (_FOUND,)
    name: ShapeName = Field(description="Name of the shape.")
    gpu_product: GpuProduct = Field(description="GPU product of such a node.")
    gpus: int = Field(ge=1, le=64, description="GPUs of such a node.")
    cpu: Quantity = Field(description="Allocatable CPUs.")
    memory: Quantity = Field(description="Allocatable memory in bytes, e.g. 900Gi.")
    zone: Label | None = Field(
        default=None,
        description="Zone in which it would appear; absent: any, and then no replica over several "
        "nodes is placed on such.",
    )
    capacity_type: CapacityType = Field(default="on-demand", description="How it is bought.")
    instance_type: Label | None = Field(
        default=None, description="Value of node.kubernetes.io/instance-type; pods select it."
    )
    labels: dict[LabelKey, Annotated[str, Field(max_length=63)]] = Field(
        default={},
        max_length=32,
        description="Labels such a node will carry; pods select them so that the autoscaler adds it.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        max_length=16,
        description="Taints of such nodes that Motley's pods tolerate there.",
        json_schema_extra=ATOMIC,
    )
    dollars_per_hour: Quantity = Field(
        description="US dollars per node and hour; also of nodes with these labels, once they are "
        "there, where neither they nor prices.instanceTypes say another."
    )
    max_nodes: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Nodes of a shape that is bought at most: those with its labels, instanceType and zone "
        "that are there or asked for. None that is about to go (it is being deleted, or carries a notice such as "
        "karpenter.sh/disrupted) counts: while what runs there moves, there is one more. With provision None: "
        "nodes that status.nodesToAdd may name beside those that are there. Absent: no limit.",
    )
    delay: Duration = Field(default=Duration("5m"), description="From the request to a Ready node.")
    provision: Literal["None", "Pods", "ProvisioningRequest"] = Field(
        default="None",
        description="None: status.nodesToAdd says how many would help. Pods: pods for such nodes are "
        "made, so that Karpenter or cluster-autoscaler adds them; they cost money. "
        "ProvisioningRequest: the same, and cluster-autoscaler is asked for all nodes of a resource "
        "at once, or none; the operator must run with --provisioning-requests.",
    )
    provisioning_class: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        ),
    ] = Field(
        default=ATOMIC_CLASS,
        description="provisioningClassName of such requests; check-capacity.autoscaling.x-k8s.io "
        "books what is there and adds nothing.",
    )

    @property
    def buys(self) -> bool:
        """Whether pods are made for nodes of it that are not there."""
        return self.provision != NOTHING

    @property
    def patience_s(self) -> float:
        """Seconds that a pod waits for such a node: its delay and a margin."""
        return self.delay.seconds + max(LEAST_MARGIN_S, MARGIN_SHARE * self.delay.seconds)

    @property
    def selector(self) -> dict[str, str]:
        """Labels by which pods ask for such a node."""
        more = {INSTANCE_TYPE: self.instance_type, ZONE: self.zone}
        return {**self.labels, **{key: value for key, value in more.items() if value is not None}}

    @property
    def node_labels(self) -> dict[str, str]:
        """Labels that such a node will carry, as far as they are known."""
        return {CAPACITY_TYPE: self.capacity_type, **self.selector}

    def is_of(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is one of the shape."""
        return self.buys and self.selector.items() <= labels.items()
