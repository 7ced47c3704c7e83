"""What people asked for, in the planner's words: services, cascades and RL jobs.

A `key` names a resource and is opaque to the planner ("ModelCascade/team-a/support").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.models import ModelSpec


@dataclass(frozen=True, slots=True)
class WorkloadClass:
    """Requests of one kind: what a gateway can see when a request arrives, and typical lengths."""

    name: str
    prompt_tokens: int
    output_tokens: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Slo:
    """Latency targets in seconds by percentile ("p95": 0.06); empty = none."""

    ttft_s: Mapping[str, float] = field(default_factory=dict)
    tpot_s: Mapping[str, float] = field(default_factory=dict)
    e2e_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where replicas may run; an empty set allows everything."""

    gpus: frozenset[str] = frozenset()  # catalog ids
    zones: frozenset[str] = frozenset()
    capacity_types: frozenset[str] = frozenset()
    trust_zones: frozenset[str] = frozenset()
    max_spot_share: float | None = None  # 0..1 of the rate that the stage serves


@dataclass(frozen=True, slots=True)
class Branching:
    """A stage's requests run as several branches until some have ended.

    `length_variation` is the coefficient of variation of their lengths.
    """

    stage: str
    samples: int
    stop_after: int
    length_variation: float


@dataclass(frozen=True, slots=True)
class StageDemand:
    """One model to be served: a pool's only stage ("main"), a cascade's stage, or a job's rollout."""

    name: str
    model: ModelSpec
    precision: str  # bf16 | fp16 | fp8 | int8 | int4
    engine: str
    placement: Placement = Placement()
    max_tensor_parallel: int = 8
    min_replicas: int = 0
    max_pipeline: int = 1  # fragments that one replica may be cut into
    disaggregation: str | None = None  # of this stage alone: auto | always | never
    min_nodes: int = 0  # at least so many replicas, each on a node of its own where room allows
    # GPUs of a pod for which two pods of half as many do not stand in: quotas count pods.
    uneven_sizes: frozenset[int] = frozenset()
    sequences_per_request: float = 1.0  # whole answers' worth of work: branches of a request
    branching: Branching | None = None  # for whoever simulates them


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on one resource; None = none."""

    usd_per_hour: float | None = None
    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class JointQuality:
    """Bounds of a policy that hold at once for all policies, for the whole and for every class."""

    whole: float
    by_class: Mapping[str, tuple[float, Mapping[str, float]]]  # quality, mean visits by stage


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Thresholds of a cascade and what they give on its calibration table."""

    id: str
    thresholds: Mapping[str, float]  # by stage name; the last stage has none
    quality: float  # lower confidence bound of the mean answer quality, 0..1
    mean_quality: float
    visits: Mapping[str, float]  # mean visits of each stage per request
    class_quality: Mapping[str, float] = field(default_factory=dict)  # as quality, by class
    request_class: str = ""  # the only class that may follow it; quality and visits are its own
    joint: JointQuality | None = None  # where the table names classes


@dataclass(frozen=True, slots=True)
class ServingDemand:
    """A pool (one stage, no policies) or a cascade (stages small to large, policies, floor)."""

    key: str
    tenant: str
    stages: tuple[StageDemand, ...]
    classes: tuple[WorkloadClass, ...]
    requests_per_second: float
    slo: Slo = Slo()
    policies: tuple[RoutingPolicy, ...] = ()
    quality_floor: float = 0.0
    budget: Budget = Budget()
    priority: int = 0  # larger goes first
    headroom: float = 0.15  # share of capacity kept free
    maximize_throughput: bool = False
    disaggregation: str = "auto"  # auto | always | never: prefill and decode on replicas apart
    node_loss_tolerance: int = 0  # nodes that may be lost at once with the rate still served
    loss_share: float = 1.0  # share of the rate that must then be served, by routing alone
    demand_error: float = 0.0  # the plan must hold at (1 + this) x the rate of every class at once
    class_floors: Mapping[str, float] = field(default_factory=dict)  # quality floor by class
    # Calls that scoring makes beside an answer's own: for one visit of a stage, by stage called.
    extra_calls: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def calls(self, policy: RoutingPolicy) -> dict[str, float]:
        """Mean calls of each stage per request: visits, and what scoring them costs."""
        made = dict(policy.visits)
        for visited, extra in self.extra_calls.items():
            for called, number in extra.items():
                more = policy.visits.get(visited, 0.0) * number
                made[called] = made.get(called, 0.0) + more
        return made


@dataclass(frozen=True, slots=True)
class RlDemand:
    """An RL job: rollout replicas feed one trainer gang; rates balance in the same problem."""

    key: str
    tenant: str
    rollout: StageDemand
    trainer_backend: str
    trainer_placement: Placement
    batch_prompts: int
    samples_per_prompt: int
    max_prompt_tokens: int
    mean_new_tokens: int
    max_new_tokens: int
    max_staleness: int
    steps: int
    target_steps_per_second: float | None = None  # None: what the best single trainer gang could do
    budget: Budget = Budget()
    priority: int = 0
    trainer_min_gpus: int = 1
    trainer_max_gpus: int | None = None  # None: as many as a gang can have
    max_rollout_replicas: int | None = None  # None: as many as there is room for

    def admits_gang(self, gpus: int) -> bool:
        """Whether a trainer gang may have so many GPUs."""
        most = self.trainer_max_gpus
        return gpus >= self.trainer_min_gpus and (most is None or gpus <= most)


Demand = ServingDemand | RlDemand


@dataclass(frozen=True, slots=True)
class RunningUnit:
    """A replica of ours that runs (or is starting) now, described well enough to price it again."""

    id: str
    key: str
    stage: str
    role: str  # serve | rollout | trainer
    gpu: str
    tensor_parallel: int
    operating_batch: int  # the batch the replica was started for
    model: str
    precision: str
    nodes: tuple[str, ...]  # one for each fragment
    pipeline: tuple[ReplicaFragment, ...] = ()  # empty: all nodes alike, no layers apart
    phase: str = "both"  # both | prefill | decode
    kv_scale: float = 1.0

    @property
    def gpus(self) -> int:
        """GPUs that the replica holds over all its nodes."""
        return sum(self.gpus_on(rank) for rank in range(len(self.nodes)))

    def gpus_on(self, rank: int) -> int:
        """GPUs that the replica holds on one of its nodes."""
        return self.pipeline[rank].tensor_parallel if self.pipeline else self.tensor_parallel


@dataclass(frozen=True, slots=True)
class MovePrice:
    """What starting and stopping cost, in USD for each GPU, spread over the horizon."""

    horizon_hours: float = 1.0
    reload_hours: float = 0.1  # a replica serves nothing while its weights load
    lost_work_hours: float = 0.02
