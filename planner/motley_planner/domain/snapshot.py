"""Everything one planning run needs; two equal snapshots give equal plans."""

from __future__ import annotations

from dataclasses import dataclass, field

from motley_planner.domain.demand import Demand, MovePrice, RlDemand, RunningUnit, ServingDemand
from motley_planner.domain.hardware import Node
from motley_planner.domain.table import Link


@dataclass(frozen=True, slots=True)
class PodNeed:
    """Host resources an engine pod requests for each GPU it holds."""

    cpu_milli_per_gpu: int = 4000
    memory_bytes_per_gpu: int = 16 * 2**30


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
    cooling: frozenset[str] = field(default_factory=frozenset)  # keys that no money may move yet
    min_improvement: float = 0.05  # share of the price that moving what runs must save
    budget_usd_per_hour: float | None = None
    frozen: frozenset[str] = field(
        default_factory=frozenset
    )  # keys that keep exactly what they run
    time_limit_s: float = 5.0
    relative_gap: float = 1e-3
    gateway_can_disaggregate: bool = False  # pair a prefill with a decode replica
    links: tuple[Link, ...] = ()  # between zones, real names; absent: the catalog's default
    kv_scales: tuple[float, ...] = (1.0,)  # 0.25: KV caches may travel in 4 bits

    @property
    def demands(self) -> tuple[Demand, ...]:
        """Services, then jobs."""
        return (*self.services, *self.jobs)
