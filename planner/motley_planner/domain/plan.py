"""A plan for the whole fleet, sliced by resource; `motley plan -o json` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from motley_planner.domain.solution import Level, SolveStatus


@dataclass(frozen=True, slots=True)
class PlannedReplica:
    """One replica: where it runs and what it is for."""

    name: str  # stable within its slice: "<stage>-<column hash>-<ordinal>"
    stage: str
    role: str  # serve | rollout | trainer
    column: str  # short hash of the configuration, without zone or price
    ordinal: int
    model: str
    precision: str
    engine: str
    gpu: str  # catalog id
    tensor_parallel: int
    operating_batch: int
    nodes: tuple[str, ...]  # one for each fragment (pod)
    kept: str | None  # id of the running unit that goes on
    rates: Mapping[str, float] = field(default_factory=dict)  # requests/s by class
    capacity: Mapping[str, float] = field(default_factory=dict)  # requests/s by class, alone
    price_usd_per_hour: float = 0.0

    @property
    def gpus(self) -> int:
        """GPUs this replica takes over all its nodes."""
        return self.tensor_parallel * len(self.nodes)


@dataclass(frozen=True, slots=True)
class Group:
    """Equal replicas on equal nodes, as status and tables show them."""

    stage: str
    role: str
    column: str
    model: str
    gpu: str
    tensor_parallel: int
    zone: str
    capacity_type: str
    count: int
    price_usd_per_hour: float


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A routing policy in use: thresholds by stage and its share of requests."""

    id: str
    share: float
    thresholds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Promise:
    """A predicted figure with its band; `provenance` says where the prediction comes from."""

    what: str  # e.g. "tpot_s p95 chat"
    value: float
    low: float
    high: float
    provenance: str = "modeled"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a resource is not (fully) planned: an enumerated reason, the field, and what would lift it.

    reason: InsufficientGPUs | BudgetTooLow | LatencyUnreachable | QualityUnreachable |
    ModelDoesNotFit | PlacementUnsatisfiable | GatewayRequired | SolverTimeLimit
    """

    reason: str
    field: str  # path in the resource, e.g. "spec.slo.tpot.p95"
    message: str  # one sentence
    lift: str  # the smallest change that would help, e.g. "+1 H100-SXM5-80GB node"
    unserved_requests_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Slice:
    """One resource's part of the plan; `hash` covers only this slice's decisions."""

    key: str
    hash: str
    replicas: tuple[PlannedReplica, ...]
    groups: tuple[Group, ...]
    price_usd_per_hour: float
    requests_per_second: float  # asked
    served_requests_per_second: float
    policies: tuple[PolicyChoice, ...] = ()
    expected_quality: float | None = None
    steps_per_hour: float | None = None  # RL jobs
    promises: tuple[Promise, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    binding: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """A running replica that stops, or a new one that starts, and why."""

    key: str
    replica: str
    action: str  # start | stop
    nodes: tuple[str, ...]
    reason: str  # NodeLost | DemandGrew | Saves | NoLongerAllowed | NotNeeded | New ...


@dataclass(frozen=True, slots=True)
class NodesToAdd:
    """Nodes of a shape that would serve what the plan leaves unserved."""

    shape: str
    gpu: str
    count: int
    price_usd_per_hour: float  # of all of them
    delay_hours: float
    gains: Mapping[str, float]  # by resource key: requests/s more, with all that is listed


@dataclass(frozen=True, slots=True)
class Plan:
    """The fleet's plan with its proof: levels, bound, gap, status."""

    status: SolveStatus
    slices: tuple[Slice, ...]
    levels: tuple[Level, ...]
    objective: float | None
    bound: float | None
    gap: float | None
    solve_seconds: float
    price_usd_per_hour: float
    moves: tuple[Move, ...] = ()
    kept: int = 0
    nodes: int = 0
    gpus: int = 0
    gpus_used: int = 0
    idle_usd_per_hour: float = 0.0  # part of the bill for GPUs of nodes in use that nobody holds
    nodes_to_add: tuple[NodesToAdd, ...] = ()
