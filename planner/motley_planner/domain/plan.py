"""A plan for the whole fleet, sliced by resource; `motley plan -o json` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from motley_planner.domain.certificate import Certificate
from motley_planner.domain.demand import Branching, Slo, WorkloadClass
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.solution import Level, SolveStatus

INTERNAL_ERROR = "InternalError"  # a refusal's reason


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
    pipeline: tuple[ReplicaFragment, ...] = ()  # empty: all nodes alike, no layers apart
    phase: str = "both"  # both | prefill | decode
    kv_scale: float = 1.0  # bytes of a KV cache on the wire over bytes in memory

    @property
    def gpus(self) -> int:
        """GPUs this replica takes over all its nodes."""
        return sum(self.gpus_on(rank) for rank in range(len(self.nodes)))

    @property
    def gpus_there(self) -> int:
        """Those on nodes that are there; "+shape/i" is one that is to come."""
        ranks = enumerate(self.nodes)
        return sum(self.gpus_on(rank) for rank, node in ranks if not node.startswith("+"))

    def gpus_on(self, rank: int) -> int:
        """GPUs that the replica takes on one of its nodes."""
        return self.pipeline[rank].tensor_parallel if self.pipeline else self.tensor_parallel

    def gpu_on(self, rank: int) -> str:
        """Catalog id of its GPUs on one of its nodes."""
        return self.pipeline[rank].gpu if self.pipeline else self.gpu


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
    pipeline: tuple[ReplicaFragment, ...] = ()
    phase: str = "both"
    kv_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class PlannedFlow:
    """Requests of one class whose KV cache moves from prefill in one zone to decode in another."""

    stage: str
    request_class: str
    source: str  # zone
    target: str
    kv_scale: float
    requests_per_second: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A routing policy in use: thresholds by stage and its share of all requests."""

    id: str
    share: float
    thresholds: Mapping[str, float]
    visits: Mapping[str, float] = field(default_factory=dict)  # mean visits of each stage, in order
    classes: tuple[str, ...] = ()  # the only ones that follow it; empty: all alike


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

    reason: InsufficientGPUs | BudgetTooLow | QuotaTooLow | PodNotAdmitted | LatencyUnreachable |
    QualityUnreachable | ModelDoesNotFit | PlacementUnsatisfiable | Held | SolverTimeLimit |
    InternalError
    """

    reason: str
    field: str  # path in the resource, e.g. "spec.slo.tpot.p95"
    message: str  # one sentence
    lift: str  # the smallest change that would help, e.g. "+1 H100-SXM5-80GB node"
    unserved_requests_per_second: float = 0.0


def internal_error(error: Exception) -> Refusal:
    """Why a resource is set aside that fails in a way nobody thought of."""
    words = f"{type(error).__name__}: {error}".rstrip(": ")
    message = f"Motley failed on this resource ({words}); it keeps what it runs, and others go on"
    lift = "report it with the resource and the operator's log"
    return Refusal(INTERNAL_ERROR, "spec", message, lift)


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
    unpromised: tuple[Refusal, ...] = ()  # what a promise lacks, though everything is served
    binding: tuple[str, ...] = ()  # in words of the spec or of the nodes
    blocked: bool = False  # nothing it asks for could ever run: what runs goes on as it is
    flows: tuple[PlannedFlow, ...] = ()  # between prefill and decode replicas
    caveats: tuple[str, ...] = ()  # what the plan takes for granted and nobody measured
    # What was asked, so that a plan can be simulated alone.
    classes: tuple[WorkloadClass, ...] = ()
    slo: Slo = field(default_factory=Slo)
    branching: tuple[Branching, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """A running replica that stops or changes its role, or a new one that starts, and why."""

    key: str
    replica: str
    action: str  # start | stop | flip: it goes on where it is, and prefills where it decoded
    nodes: tuple[str, ...]
    reason: str  # Grows | Saves | NoLongerAllowed | NotNeeded | New | PhaseShifted ...
    cost_usd: float = 0.0  # once, predicted: GPU time while weights load, or work that a stop loses


@dataclass(frozen=True, slots=True)
class NodesToAdd:
    """Nodes of a shape that would serve what the plan leaves unserved."""

    shape: str
    gpu: str
    count: int
    price_usd_per_hour: float  # of all of them
    delay_hours: float
    gains: Mapping[str, float] = field(default_factory=dict)
    # by resource key: requests/s more, with all that is listed; empty for nodes that are coming


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
    nodes_coming: tuple[NodesToAdd, ...] = ()  # those that replicas of the plan wait for
    certificates: tuple[Certificate, ...] = ()
    no_certificates: str = ""  # why there are none
    cut_short: bool = False  # the time limit ended a search that more time might have bettered
    saving: frozenset[str] = frozenset()  # keys of which replicas stop for money alone
    more_to_save: bool = False  # other moves for money wait, so that not too much moves at once
