"""What `translate` hands on: the planner's snapshot, and what it read out of the resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from motley_operator.domain.budgets import NO_BUDGETS, Budgets
from motley_operator.domain.claims import Suspicion
from motley_operator.domain.standing import Standing
from motley_operator.domain.suspects import Suspicions
from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Refusal
from motley_planner.domain.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class UnknownGpu:
    """A GPU product that the catalog does not know; its nodes are left out."""

    product: str
    nodes: int
    reason: str


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """One node of the inventory, as the Fleet's status counts it."""

    gpu: str  # catalog id
    product: str  # label value
    zone: str
    capacity_type: str
    gpus: int  # allocatable
    gpus_ours: int
    gpus_foreign: int
    price_usd_per_hour: float  # of the whole node


@dataclass(frozen=True, slots=True)
class Translation:
    """A snapshot and its origins; `parsed` holds the api models by resource key."""

    snapshot: Snapshot
    catalog: Catalog  # with the Fleet's own GPUs
    parsed: Mapping[str, object]  # ServingPool | ModelCascade | RLJob
    rejected: Mapping[str, tuple[Refusal, ...]] = field(default_factory=dict)
    set_aside: frozenset[str] = frozenset()  # of these, where carrying out a plan failed
    frozen: Mapping[str, str] = field(default_factory=dict)  # key -> why it keeps what it has
    standing: Mapping[str, Standing] = field(default_factory=dict)  # Preview and Disabled, by key
    marks: str = ""  # hash over what stands: it changes with an approval, a repair, an edit
    suspicions: Suspicions = field(default_factory=Suspicions)
    phases: Mapping[str, str] = field(default_factory=dict)  # RLJobs, by key
    unknown_gpus: tuple[UnknownGpu, ...] = ()
    waiting: frozenset[str] = frozenset()  # nodes that are not ready and not lost yet
    lost_nodes: frozenset[str] = frozenset()  # what is said to run there does so no more
    inventory: tuple[NodeFigures, ...] = ()
    products: Mapping[str, str] = field(default_factory=dict)  # a product label by catalog GPU
    unmet: tuple[Refusal, ...] = ()  # what is wrong with the Fleet itself
    fleet_ignored: tuple[str, ...] = ()  # fields of the Fleet that change nothing yet
    demands: Mapping[str, object] = field(default_factory=dict)  # demand.Settled, by key
    holding: frozenset[str] = frozenset()  # unit ids in the way: their room was not planned
    budgets: Budgets = NO_BUDGETS  # that hold while replicas are replaced, too
    learning: object = None  # demand.corrections.Learning
    suspect_shapes: tuple[Suspicion, ...] = ()  # that gave no node in time
    unserved_shapes: tuple[str, ...] = ()  # for which nobody here takes a request
    moved_lately: Mapping[str, int] = field(default_factory=dict)  # stopped for money, by key
    window_s: float = 0.0  # within which they were, and no more than a share of all may be
    inputs_hash: str = ""  # over everything that planning depends on but our own pods


def ids_by_key(units: Iterable[RunningUnit]) -> dict[str, frozenset[str]]:
    """Ids of the running units of each resource that has any."""
    found: dict[str, set[str]] = {}
    for unit in units:
        found.setdefault(unit.key, set()).add(unit.id)
    return {key: frozenset(ids) for key, ids in found.items()}
