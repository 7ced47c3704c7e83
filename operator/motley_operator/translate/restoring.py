"""Where the replicas of a plan that stands can run: where they were, else on another free place.

Only room that nothing of ours and nobody else holds is used: restoring moves nobody. A replica gets
a new name while something with its old one is still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from motley_operator.domain.facts import Room
from motley_operator.domain.names import TRAINER, unit_id
from motley_operator.translate.nodes import Site
from motley_operator.translate.room import fits, minus, plus
from motley_planner.domain.demand import Demand, Placement, RlDemand, RunningUnit
from motley_planner.domain.fragments import size_text
from motley_planner.domain.plan import PlannedReplica, Slice
from motley_planner.domain.snapshot import Avoided, PodNeed


def counted(gpus: int, need: PodNeed) -> Room:
    """What the planner counts for a pod with so many GPUs."""
    return Room(gpus, need.cpu_milli_per_gpu * gpus, need.memory_bytes_per_gpu * gpus, pods=1)


def unit_of(key: str, replica: PlannedReplica) -> RunningUnit:
    """The replica as if it ran."""
    return RunningUnit(
        id=unit_id(key, replica.name),
        key=key,
        stage=replica.stage,
        role=replica.role,
        gpu=replica.gpu,
        tensor_parallel=replica.tensor_parallel,
        operating_batch=replica.operating_batch,
        model=replica.model,
        precision=replica.precision,
        nodes=replica.nodes,
        pipeline=replica.pipeline,
        phase=replica.phase,
        kv_scale=replica.kv_scale,
    )


@dataclass(slots=True)
class Places:
    """Free room on the nodes that may take something new; what is placed is taken off it."""

    sites: Mapping[str, Site]
    free: dict[str, Room]
    need: PodNeed
    taken: set[str]  # unit ids that are in use
    prices: Mapping[str, float]  # USD/h of a GPU, by node
    avoided: frozenset[Avoided] = frozenset()  # what failed lately and is not started again now

    @staticmethod
    def of(
        sites: Iterable[Site],
        room: Mapping[str, Room],
        units: Iterable[RunningUnit],
        need: PodNeed,
        reserved: Iterable[str],
    ) -> Places:
        """Places beside these units; `room` is what all of ours together may use."""
        units = tuple(units)
        free = dict(room)
        for unit in units:
            for rank, node in enumerate(unit.nodes):
                free[node] = minus(free[node], counted(unit.gpus_on(rank), need))
        sites = tuple(sites)
        prices = {site.facts.name: site.node_class.price_usd_per_gpu_hour for site in sites}
        usable = {site.facts.name: site for site in sites if not (site.cordoned or site.waits)}
        taken = {unit.id for unit in units} | set(reserved)
        return Places(usable, free, need, taken, prices)

    def give_back(self, units: Iterable[RunningUnit]) -> None:
        """The room of units that go; their names stay taken until they are gone."""
        for unit in units:
            for rank, node in enumerate(unit.nodes):
                if node in self.free:
                    self.free[node] = plus(self.free[node], counted(unit.gpus_on(rank), self.need))

    def keep(self, unit: RunningUnit) -> bool:
        """Take the room of a unit that was to go; False, and nothing is taken, if others have it."""
        free = dict(self.free)
        for rank, node in enumerate(unit.nodes):
            need = counted(unit.gpus_on(rank), self.need)
            if node not in free or not fits(need, free[node]):
                return False
            free[node] = minus(free[node], need)
        self.free = free
        return True

    def copy(self) -> Places:
        """The same places, to try something on."""
        return replace(self, free=dict(self.free), taken=set(self.taken))

    def exactly(self, key: str, replica: PlannedReplica) -> bool:
        """Take the replica's own places and name, if they are free."""
        if unit_id(key, replica.name) in self.taken:
            return False
        nodes = [self.sites.get(name) for name in replica.nodes]
        alike = all(
            site is not None
            and site.node_class.gpu == replica.gpu_on(rank)
            and key not in site.node_class.excluded_for
            for rank, site in enumerate(nodes)
        )
        usable = alike and not self._failed(key, replica, replica.nodes)
        after = self._after(replica, replica.nodes) if usable else None
        if after is None:
            return False
        self._take(key, replica.name, after)
        return True

    def somewhere(
        self, key: str, replica: PlannedReplica, placement: Placement
    ) -> PlannedReplica | None:
        """The replica where there is room for it, under a name that is free; None without room."""
        for zone in self._zones(replica):
            nodes = self._nodes_in(zone, key, replica, placement)
            after = self._after(replica, nodes) if nodes is not None else None
            if nodes is not None and after is not None:
                name, ordinal = self._free_name(key, replica)
                self._take(key, name, after)
                return replace(replica, name=name, ordinal=ordinal, nodes=nodes)
        return None

    def failed(self, key: str, replica: PlannedReplica) -> bool:
        """Whether one like the replica failed lately where it is to run."""
        there = all(name in self.sites for name in replica.nodes)
        return there and self._failed(key, replica, replica.nodes)

    def _failed(self, key: str, replica: PlannedReplica, nodes: Sequence[str]) -> bool:
        """Whether one like it failed there lately."""
        classes = [self.sites[name].node_class for name in nodes]
        size = size_text(replica.tensor_parallel, len(replica.nodes), replica.pipeline)
        what = (key, replica.stage, replica.gpu, size)
        return any(key in c.avoided_by for c in classes) or any(
            one.covers(what, classes) for one in self.avoided
        )

    def _take(self, key: str, name: str, after: Mapping[str, Room]) -> None:
        self.free.update(after)
        self.taken.add(unit_id(key, name))

    def _after(self, replica: PlannedReplica, nodes: Sequence[str]) -> dict[str, Room] | None:
        """Free room with the replica there; None if it does not fit."""
        after: dict[str, Room] = {}
        for rank, node in enumerate(nodes):
            need, room = counted(replica.gpus_on(rank), self.need), after.get(node, self.free[node])
            if not fits(need, room):
                return None
            after[node] = minus(room, need)
        return after

    def _zones(self, replica: PlannedReplica) -> Iterator[str]:
        """Zones, those of the replica's own nodes first."""
        own = [self.sites[n].node_class.zone for n in replica.nodes if n in self.sites]
        everywhere = sorted({site.node_class.zone for site in self.sites.values()})
        yield from dict.fromkeys((*own, *everywhere))

    def _nodes_in(
        self, zone: str, key: str, replica: PlannedReplica, placement: Placement
    ) -> tuple[str, ...] | None:
        """A node for each fragment: its own where possible, else the cheapest, then the fullest."""
        free, chosen = dict(self.free), []
        for rank, own in enumerate(replica.nodes):
            need = counted(replica.gpus_on(rank), self.need)
            fitting = [
                site
                for name, site in self.sites.items()
                if site.node_class.zone == zone
                and site.node_class.gpu == replica.gpu_on(rank)
                and _allows(placement, site, key)
                and fits(need, free[name])
                and not self._failed(key, replica, (name,))
            ]
            if not fitting:
                return None
            site = min(
                fitting,
                key=lambda s: (
                    s.facts.name != own,
                    s.node_class.price_usd_per_gpu_hour,
                    free[s.facts.name].gpus,
                    s.facts.name,
                ),
            )
            chosen.append(site.facts.name)
            free[chosen[-1]] = minus(free[chosen[-1]], need)
        return tuple(chosen)

    def _free_name(self, key: str, replica: PlannedReplica) -> tuple[str, int]:
        if unit_id(key, replica.name) not in self.taken:
            return replica.name, replica.ordinal
        stem, ordinal = replica.name.rpartition("-")[0], 0
        while unit_id(key, f"{stem}-{ordinal}") in self.taken:
            ordinal += 1
        return f"{stem}-{ordinal}", ordinal


def _allows(placement: Placement, site: Site, key: str) -> bool:
    at = site.node_class
    return key not in at.excluded_for and all(
        not allowed or value in allowed
        for allowed, value in (
            (placement.gpus, at.gpu),
            (placement.zones, at.zone),
            (placement.capacity_types, at.capacity_type),
            (placement.trust_zones, at.trust_zone),
        )
    )


def placement_of(demand: Demand, stage: str) -> Placement:
    """Where replicas of a stage may run; a stage that the spec no longer has may run anywhere."""
    if isinstance(demand, RlDemand):
        return demand.trainer_placement if stage == TRAINER else demand.rollout.placement
    return next((s.placement for s in demand.stages if s.name == stage), Placement())


def restored(
    key: str, part: Slice, running: Iterable[str], places: Places, demand: Demand
) -> tuple[tuple[PlannedReplica, ...], tuple[str, ...]]:
    """(the slice's replicas, those that are gone replaced where there is room; names without room).

    `running` are the ids of units that go on. The first replicas to be placed are those that fit
    where they were.
    """
    alive = frozenset(running)
    gone = [r for r in part.replicas if unit_id(key, r.name) not in alive]
    back: dict[str, PlannedReplica] = {}
    for replica in gone:
        if places.exactly(key, replica):
            back[replica.name] = replica
    for replica in gone:
        if replica.name not in back:
            found = places.somewhere(key, replica, placement_of(demand, replica.stage))
            if found is not None:
                back[replica.name] = found
    replicas = tuple(back.get(r.name, r) for r in part.replicas)
    return replicas, tuple(r.name for r in gone if r.name not in back)
