"""What `assemble` builds up: the table's parts, and what reading a solution back needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from motley_planner.candidates import Candidate, forget_listings
from motley_planner.candidates.learned import labelled
from motley_planner.domain.demand import Demand, RlDemand, Slo
from motley_planner.domain.hardware import NodeClass
from motley_planner.domain.measurements import Learned, LearnedKey
from motley_planner.domain.plan import Refusal
from motley_planner.domain.quotas import Quota
from motley_planner.domain.table import (
    CascadeDemand,
    Column,
    Fragment,
    PoolStep,
    RequestClass,
    RunningReplica,
    SideRow,
)
from motley_planner.planning.tiers import StageTiers, TieredPolicy
from motley_planner.remembering import Memory, Same

_COLUMNS: Memory[Column] = Memory(65_536)  # listings are remembered, and so are their columns


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """A quota over the columns of a table: what one replica of each takes, and what they may."""

    quota: Quota
    amounts: Mapping[str, int]  # by column
    room: int  # for all replicas of the table
    at_most: int  # the room, or what runs now if that is more

    @property
    def is_over(self) -> bool:
        """Whether what runs takes more than it may."""
        return self.at_most > self.room


@dataclass(slots=True)
class Assembly:
    """The parts of a table while they are gathered."""

    candidates: dict[str, Candidate] = field(default_factory=dict)  # by column id
    columns: dict[str, Column] = field(default_factory=dict)
    classes: list[RequestClass] = field(default_factory=list)
    cascades: list[CascadeDemand] = field(default_factory=list)
    side_rows: list[SideRow] = field(default_factory=list)
    refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    replicas: list[RunningReplica] = field(default_factory=list)
    not_allowed: set[str] = field(default_factory=set)  # running units that may not go on
    blocked: set[str] = field(default_factory=set)  # keys whose spec cannot be served: left as is
    immovable: Counter[str] = field(default_factory=Counter)  # GPUs by node that they hold
    room: dict[str, int] = field(default_factory=dict)  # GPUs by node that can be planned
    slos: dict[str, dict[str, Slo]] = field(default_factory=dict)  # by key, then stage
    tiers: dict[str, dict[str, StageTiers]] = field(default_factory=dict)  # by key, then stage
    tiered: dict[str, tuple[TieredPolicy, ...]] = field(default_factory=dict)  # by key
    job_targets: dict[str, float] = field(default_factory=dict)  # steps/s
    quotas: list[QuotaRow] = field(default_factory=list)
    # By key: the share of the rate served after the worst loss, and how many nodes that takes.
    after_loss: dict[str, tuple[float, int]] = field(default_factory=dict)
    node_classes: dict[str, NodeClass] = field(default_factory=dict)  # by node, once all are known
    _ids: dict[str, dict[str, None]] = field(default_factory=dict)  # of candidates, by key
    learned: Mapping[LearnedKey, Learned] = field(default_factory=dict)  # the catalog's

    def refuse(self, key: str, refusals: Iterable[Refusal]) -> None:
        """Note why a resource cannot be planned (in full)."""
        self.refusals.setdefault(key, []).extend(refusals)

    def set_aside(self, key: str, refusal: Refusal) -> None:
        """Take back all that was listed for a resource; what it runs goes on and keeps its room."""
        for id_ in self._ids.pop(key, {}):
            del self.candidates[id_], self.columns[id_]
        self.tiers.pop(key, None)
        self.refusals[key] = [refusal]
        self.blocked.add(key)

    def of(self, key: str, stage: str | None = None) -> tuple[Candidate, ...]:
        """The candidates of a resource, or of one stage of it."""
        return tuple(
            self.candidates[id_]
            for id_ in self._ids.get(key, ())
            if id_ in self.candidates and (stage is None or self.candidates[id_].stage == stage)
        )

    def asked(self, demand: Demand) -> float:
        """Requests/s (of a job: steps/s) that a resource asks for."""
        if isinstance(demand, RlDemand):
            return self.job_targets.get(demand.key, 0.0)
        return demand.requests_per_second

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Make a column of each candidate that is not one already."""
        for candidate in candidates:
            if candidate.id in self.columns:
                continue
            self.candidates[candidate.id] = labelled(candidate, self.learned)
            self._ids.setdefault(candidate.key, {})[candidate.id] = None
            place = (candidate.key, candidate.id)
            made = _COLUMNS.get(place, Same(candidate), partial(_column, candidate))
            self.columns[candidate.id] = made


def forget_others(keys: Collection[str]) -> None:
    """Drop what is remembered for all resources but these: the others are gone."""
    forget_listings(keys)
    _COLUMNS.keep(lambda place: isinstance(place, tuple) and place[0] in keys)


def class_id(key: str, stage: str, name: str) -> str:
    """The table's name of a resource's workload class at one stage."""
    return f"{key}/{stage}/{name}"


def table_gpu(node_class: NodeClass) -> str:
    """The table's name of a node class inside its zone.

    The table's zones are real ones: fragments of one replica and KV caches cross between node
    classes of a zone, and every link of it is one row.
    """
    return f"{node_class.gpu}{node_class.id.removeprefix(node_class.zone)}"


def _column(candidate: Candidate) -> Column:
    key, stage = candidate.key, candidate.stage
    time, kv = candidate.time_share, candidate.kv_share
    return Column(
        id=candidate.id,
        model=f"{key}/{stage}",
        zone=candidate.node_class.zone,
        fragments=tuple(Fragment(table_gpu(c), tp, layers) for c, tp, layers in candidate.parts),
        requests_per_second={class_id(key, stage, n): r for n, r in candidate.capacity.items()},
        phase=candidate.phase,
        price_usd_per_hour=candidate.price_usd_per_hour,
        kv_scale=candidate.kv_scale,
        nic_bytes_per_second=candidate.nic_bytes_per_s,
        pool_steps=tuple(PoolStep(count, factor) for count, factor in candidate.pool_steps),
        time_share={class_id(key, stage, n): share for n, share in time.items()},
        kv_share={class_id(key, stage, n): share for n, share in kv.items()},
    )
