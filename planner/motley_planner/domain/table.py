"""The fleet table: everything the optimiser sees, with no cost model and no Kubernetes.

`motley solve` reads exactly this (docs/reference/solve.md), and the fleet planner builds the same
table from a snapshot, so there is one optimisation problem and one formulation of it.

All values are SI: requests/s, bytes, bytes/s, USD/h, seconds. `None` means "no limit".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from motley_planner.domain.solution import PlacedReplica

Phase = Literal["both", "prefill", "decode"]
Objective = Literal["max_min", "goodput", "min_cost"]
FLIP_SHARE = 0.01  # of what a stop and a start cost: no role changes for noise


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """`count` equal nodes of one node class (gpu, zone), each with `gpus` GPUs."""

    gpu: str
    zone: str
    gpus: int
    count: int | None
    price_usd_per_hour: float | None = None  # per node in use, besides column prices


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Requests of one kind for one model; `name` is unique in the table."""

    name: str
    model: str
    requests_per_second: float
    priority: int = 0
    weight: float = 1.0
    kv_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Fragment:
    """One tensor-parallel group inside one node; `tp` is a power of two."""

    gpu: str
    tp: int
    layers: int = 0


@dataclass(frozen=True, slots=True)
class PoolStep:
    """From `min_count` replicas of a column on, each may serve `factor` (> 1) times as much.

    A large pool of equal replicas may run at a higher utilization for the same waiting time.
    """

    min_count: int
    factor: float


@dataclass(frozen=True, slots=True)
class Column:
    """One replica configuration; `requests_per_second` is its capacity by class name, alone.

    A replica that serves a class alone at its capacity takes `time_share` of its time (where not
    given, all of it) and `kv_share` of its KV memory (where not given, none); the larger of both
    is 1. Rates of several classes add up in each of the two. `min_count`, `pool_steps` and the
    shares are not part of the bare table's JSON.
    """

    id: str
    model: str
    zone: str
    fragments: tuple[Fragment, ...]
    requests_per_second: Mapping[str, float]
    phase: Phase = "both"
    price_usd_per_hour: float = 0.0
    max_count: int | None = None
    kv_scale: float = 1.0
    nic_bytes_per_second: float | None = None
    min_count: int = 0  # kept and new together are 0 or at least this
    pool_steps: tuple[PoolStep, ...] = ()
    time_share: Mapping[str, float] = field(default_factory=dict)
    kv_share: Mapping[str, float] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """GPUs one replica takes."""
        return sum(f.tp for f in self.fragments)

    @property
    def frame(self) -> tuple[object, ...]:
        """What stays the same of a replica whose role changes."""
        return self.model, self.zone, self.fragments, self.price_usd_per_hour

    def worth_of(self, count: int) -> float:
        """Replicas' worth of capacity that `count` of them have: count x the best factor reached."""
        reached = (s.factor for s in self.pool_steps if count >= s.min_count)
        return count * max([1.0, *reached])


@dataclass(frozen=True, slots=True)
class Link:
    """Bytes/s that KV caches may move from one zone to another; 0 forbids, absent = unlimited."""

    source: str
    target: str
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class CascadePolicy:
    """One routing policy: mean answer quality and visits per request by class name."""

    id: str
    quality: float
    load: Mapping[str, float]
    tier: str = ""  # policies of different tiers are never mixed; not part of the table's JSON


@dataclass(frozen=True, slots=True)
class CascadeDemand:
    """A cascade's requests/s, to be split over its policies at a mean quality >= the floor."""

    name: str
    requests_per_second: float
    quality_floor: float
    policies: tuple[CascadePolicy, ...]
    mixture: bool = True
    priority: int = 0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SideRow:
    """at_least <= sum of terms <= at_most: a linear limit on counts, rates and what is served.

    terms = per_replica[column] x replicas + per_rate[column, class] x requests/s there
          + per_served[demand] x its own requests/s served + per_policy[cascade, policy] x
            requests/s that follow the policy

    Budgets, quotas, KV memory, spot shares, minimum replicas, guarantees, latency of cascades and
    "one trainer" are all of this form. Not part of the bare table's JSON; the fleet planner adds
    them. What a positive `at_least` asks for and cannot be had is reported as a shortfall, never
    as an empty plan; every other limit is kept by every plan.

    `importance` weighs shortfalls (as shares of their minimum) against one another.
    """

    name: str
    per_replica: Mapping[str, float] = field(default_factory=dict)
    at_most: float | None = None
    at_least: float | None = None
    per_rate: Mapping[tuple[str, str], float] = field(default_factory=dict)
    per_served: Mapping[str, float] = field(default_factory=dict)
    per_policy: Mapping[tuple[str, str], float] = field(default_factory=dict)
    importance: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What may happen after the plan is carried out, and how much must then still be served.

    Counts stay; rates and policies of the demands in `served` are chosen anew (recourse), at
    `factor[demand]` x their rate. `lost` is what goes away: column -> (replicas lost, of how many
    there were when this was seen). With y replicas of a column, max(y - lost, y (1 - lost / of))
    are left: few replicas are taken to be spread as they were. `thinned` is the share (0..1) of a
    column's replicas that goes away, whatever their number. `share` of each demand in `served`
    must be served; what cannot be is reported, and comes after all service of the plan itself and
    before money.
    """

    name: str
    served: tuple[str, ...]  # names of classes and cascades
    share: float = 1.0
    factor: Mapping[str, float] = field(default_factory=dict)  # absent: 1
    lost: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    thinned: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableNode:
    """A concrete node, for re-planning; `gpus` is what is free or held by our own replicas."""

    name: str
    gpu: str
    zone: str
    gpus: int
    price_usd_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class NodeShape:
    """Equal nodes that could be added to those of `previous`; a node so bought is "+<name>/<i>".

    Without `previous` there is nothing to add to: list them in `nodes`.

    `price_usd_per_hour` is paid per node in use, as for any node; `delay_usd_per_hour` is what
    waiting for it is worth, counted where moves are and not part of the bill.
    """

    name: str
    gpu: str
    zone: str
    gpus: int
    count: int | None = None
    price_usd_per_hour: float | None = None
    delay_usd_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class RunningReplica:
    """A replica that runs now: one node name for each fragment of its column.

    It may go on as a replica of a column in `flips_to` just as well: its process is the same, and
    whether it prefills or decodes is the router's decision. Such a column takes the same GPUs of the
    same nodes at the same price; one that the table lacks is as if it were not named.
    """

    id: str
    column: str
    nodes: tuple[str, ...]
    flips_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Previous:
    """What runs where; inventory is these nodes minus the lost ones."""

    nodes: tuple[TableNode, ...] = ()
    replicas: tuple[RunningReplica, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetTable:
    """One fleet-wide planning problem."""

    classes: tuple[RequestClass, ...]
    columns: tuple[Column, ...]
    nodes: tuple[NodeGroup, ...] = ()
    links: tuple[Link, ...] = ()
    cascades: tuple[CascadeDemand, ...] = ()
    objective: Objective = "goodput"
    budget_usd_per_hour: float | None = None
    side_rows: tuple[SideRow, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    purchasable: tuple[NodeShape, ...] = ()
    # Models whose new replicas go each to the node with the fewest of them, not to the fullest.
    spread_models: frozenset[str] = field(default_factory=frozenset)
    previous: Previous | None = None
    lost_nodes: frozenset[str] = field(default_factory=frozenset)
    penalty_per_started_gpu: float = 0.0
    penalty_per_stopped_gpu: float = 0.0
    # True: penalties are USD/h and count in the price level, so that moving a replica must save
    # more than it costs; False: they are taken off the (lowest) service level, as `motley solve` says.
    penalty_in_price: bool = False
    held_replicas: frozenset[str] = field(default_factory=frozenset)  # survivors that must go on
    cordoned_nodes: frozenset[str] = field(
        default_factory=frozenset
    )  # keep what runs, place nothing new
    bought_nodes: frozenset[str] = frozenset()  # given back once they are empty
    most_stopped: int | None = None  # survivors that may be stopped
    start: tuple[PlacedReplica, ...] = ()  # a plan to begin from; one that breaks a row is left out
    starts: tuple[tuple[PlacedReplica, ...], ...] = ()  # more of them
    time_limit_s: float = 10.0
    relative_gap: float = 1e-4

    @property
    def penalty_per_flipped_gpu(self) -> float:
        """What is counted for each GPU of a replica that goes on in another role."""
        return FLIP_SHARE * (self.penalty_per_started_gpu + self.penalty_per_stopped_gpu)
