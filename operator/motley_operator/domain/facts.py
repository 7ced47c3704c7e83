"""What is true on the cluster, as one frozen value; gathered by `facts`, read by everyone else.

Quantities are already numbers: CPU in milli-cores, memory in bytes, the rest in units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from motley_operator.domain.measurement import Reading
from motley_operator.domain.names import QUEUE, REPLAN_REQUESTED
from motley_operator.domain.quotas import LimitRangeFacts, PodUse, QuotaFacts
from motley_operator.domain.verdicts import Sort, Verdict

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Room:
    """Amounts of what a pod can request of a node."""

    gpus: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    pods: int = 0


@dataclass(frozen=True, slots=True)
class Taint:
    """A node taint."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node."""

    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    ready: bool
    not_ready_since: float | None  # Unix seconds, at the latest; None while ready
    deleting: bool
    allocatable: Room
    gpu_resource: str | None  # "nvidia.com/gpu", "amd.com/gpu"; None: no GPUs
    gpu_label: str | None  # the product label's value, as written on the node
    refused: str = ""  # why its GPUs are not planned
    # Further devices (resource or driver) that are not planned, and why.
    aside: tuple[tuple[str, str], ...] = ()
    created_at: float = 0.0  # Unix seconds


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a part of one, that a driver of dynamic resource allocation offers."""

    name: str  # within its pool
    part: str  # the driver's word for what it is; empty: a GPU as a whole
    gpu_ids: frozenset[str]  # names of its GPU: UUID, PCI address; at least one


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """One ResourceSlice: what a driver of GPUs offers on a node."""

    name: str
    node: str  # empty: not those of one node
    driver: str
    pool: str
    generation: int  # of the pool; older slices of it count no more
    devices: frozenset[Device]


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod, ours or foreign; `node` is where it is bound or, before that, pinned."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    node: str | None
    bound: bool
    phase: str  # Pending | Running | Succeeded | Failed | Unknown
    reason: str  # status.reason, or a container's waiting reason
    ready: bool
    deleting: bool
    requests: Room
    created_at: float  # Unix seconds
    owner_uid: str | None
    ip: str | None = None
    use: PodUse | None = None  # what quotas count of it
    unready_since: float = 0.0  # Unix seconds; of ours, while not ready
    message: str = ""  # of ours, once failed: the last words of a container
    ends_at: float = 0.0  # Unix seconds; of ours, while it is being deleted: its grace ends
    # Of ours, once a container was restarted MANY_RESTARTS times: how long such a one ran last.
    last_run_s: float | None = None

    @property
    def terminal(self) -> bool:
        """True when the pod holds nothing any more."""
        return self.phase in ("Succeeded", "Failed")

    def belongs_to(self, owner_uid: str | None) -> bool:
        """Whether a pod with a resource's labels is that resource's, or an orphan it may adopt.

        An orphan is what a deletion with `--cascade=orphan` leaves: labels, and no owner.
        """
        return owner_uid is not None and self.owner_uid in (owner_uid, None)


@dataclass(frozen=True, slots=True)
class ResourceFacts:
    """One custom resource, as the API server has it."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    annotations: Mapping[str, str]
    document: Document

    @property
    def key(self) -> str:
        """The planner's opaque name for it."""
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Everything one cycle looks at."""

    now: float  # Unix seconds
    nodes: tuple[NodeFacts, ...]
    pods: tuple[PodFacts, ...]
    resources: tuple[ResourceFacts, ...]
    fleet: Document | None = None
    tells_fleet: bool = True  # its status is this operator's to write; False: another class'
    # Objects of ours other than pods, whole, by (kind, namespace, name).
    owned: Mapping[tuple[str, str, str], Document] = field(default_factory=dict)
    priority_classes: Mapping[str, int] = field(default_factory=dict)
    default_priority_class: str = ""  # of pods that name none
    quotas: tuple[QuotaFacts, ...] = ()
    limit_ranges: tuple[LimitRangeFacts, ...] = ()
    slices: tuple[SliceFacts, ...] = ()  # of dynamic resource allocation, where it is served
    # Data of ConfigMaps that resources refer to, by (namespace, name); absent = not found.
    config_maps: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    served: frozenset[str] = frozenset()  # optional kinds that the API server has and we may use
    reading: Reading | None = None  # the latest look at Prometheus; None: none yet
    # What the API server said of pods that were made or tried; None: here none can be tried.
    verdicts: Mapping[Sort, Verdict] | None = None


def queues(facts: ClusterFacts) -> Mapping[str, str]:
    """The queue of each resource that is labelled with one, by key."""
    metadata = {resource.key: resource.document["metadata"] for resource in facts.resources}
    labels = {key: (each.get("labels") or {}).get(QUEUE) for key, each in metadata.items()}
    return {key: str(queue) for key, queue in labels.items() if queue}


def asked_anew(facts: ClusterFacts) -> frozenset[str]:
    """Keys of the resources with a request to plan anew that no status has answered."""
    return frozenset(
        resource.key
        for resource in facts.resources
        if (asked := resource.annotations.get(REPLAN_REQUESTED, "")[:64])
        and asked != (resource.document.get("status") or {}).get("lastHandledReplanAt")
    )
