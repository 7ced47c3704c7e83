"""Everything one planning run needs; two equal snapshots give equal plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from motley_planner.domain.demand import Demand, MovePrice, RlDemand, RunningUnit, ServingDemand
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.quotas import Quota
from motley_planner.domain.table import Link


@dataclass(frozen=True, slots=True)
class PodNeed:
    """Host resources an engine pod requests for each GPU it holds."""

    cpu_milli_per_gpu: int = 4000
    memory_bytes_per_gpu: int = 16 * 2**30


@dataclass(frozen=True, slots=True)
class Tenant:
    """What the resources of one tenant may use, and what they are entitled to."""

    name: str
    guaranteed_share: float = 0.0  # 0..1 of the GPUs of every type; see planning/tenants.py
    weight: float = 1.0  # of its resources' served shares beside other tenants'


@dataclass(frozen=True, slots=True)
class Shape:
    """Nodes that could be added: what one is, its whole price, how many, and how long it takes."""

    name: str
    node_class: NodeClass
    gpus: int
    cpu_milli: int
    memory_bytes: int
    price_usd_per_hour: float  # of the whole node
    max_nodes: int | None = None  # None: as many as money buys
    delay_hours: float = 0.0
    pods: int = 110
    buys: bool = False  # True: plans may place replicas on such nodes; False: they are only listed
    taken: frozenset[int] = field(default_factory=frozenset)  # i of "+name/i" not to be used anew


@dataclass(frozen=True, slots=True)
class Avoided:
    """Replicas of a resource's stage that failed lately: no more of them are started than run.

    With `gpu` None those of the whole stage; else of one size on one GPU type, at any operating
    batch, on nodes of one zone and capacity type.
    """

    key: str
    stage: str
    gpu: str | None = None
    size: str = ""  # as domain.fragments.size_text
    zone: str = ""
    capacity_type: str = ""

    def covers(self, what: tuple[str, str, str, str], classes: Iterable[NodeClass]) -> bool:
        """Whether a replica on nodes of these classes is one of them.

        `what` is its key, stage, GPU and size.
        """
        if what[:2] != (self.key, self.stage):
            return False
        if self.gpu is None:
            return True
        place = (self.zone, self.capacity_type)
        alike = what[2:] == (self.gpu, self.size)
        return alike and any((c.zone, c.capacity_type) == place for c in classes)


Billing = Literal["gpu", "node"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet, what people asked for, and what runs now."""

    nodes: tuple[Node, ...]
    services: tuple[ServingDemand, ...] = ()
    jobs: tuple[RlDemand, ...] = ()
    running: tuple[RunningUnit, ...] = ()
    reserved: frozenset[str] = field(default_factory=frozenset)  # unit ids not to be used anew
    pod_need: PodNeed = field(default_factory=PodNeed)
    move_price: MovePrice = field(default_factory=MovePrice)
    steady: bool = False  # True: only service may move what runs, neither money nor a job's pace
    edited: frozenset[str] = field(default_factory=frozenset)  # keys that may be rebuilt at once
    latency_tiers: bool = True  # False: a fixed split of end-to-end targets, which solves faster,
    # but for cascades that no fixed split can serve, or whose replicas only tiers admit
    still: frozenset[str] = field(default_factory=frozenset)  # keys that get no further replica now
    cooling: frozenset[str] = field(default_factory=frozenset)  # keys that no money may move yet
    # Replicas that were stopped for money within the fleet's last cooldown; None: all may move at once.
    moved_lately: int | None = None
    min_improvement: float = 0.05  # share of the price that moving what runs must save
    improvements: Mapping[str, float] = field(default_factory=dict)  # the same, of resources by key
    avoided: frozenset[Avoided] = field(default_factory=frozenset)
    budget_usd_per_hour: float | None = None
    budget_gpus: int | None = None  # GPUs of any type that all replicas together may hold
    tenants: tuple[Tenant, ...] = ()
    quotas: tuple[Quota, ...] = ()
    shapes: tuple[Shape, ...] = ()
    # "node": a node in use is paid whole; "gpu": each GPU held is, as if the rest were others'.
    billing: Billing = "gpu"
    frozen: frozenset[str] = field(
        default_factory=frozenset
    )  # keys that keep exactly what they run
    time_limit_s: float = 5.0
    relative_gap: float = 1e-3
    gateway_can_disaggregate: bool = False  # pair a prefill with a decode replica
    route_by_class: bool = False  # a cascade may send each class its own way
    links: tuple[Link, ...] = ()  # between zones, real names; absent: the catalog's default
    kv_scales: tuple[float, ...] = (1.0,)  # 0.25: KV caches may travel in 4 bits

    @property
    def demands(self) -> tuple[Demand, ...]:
        """Services, then jobs."""
        return (*self.services, *self.jobs)
