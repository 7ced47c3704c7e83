"""Room on nodes at this very moment: who makes way for a replica that cannot be created without.

Theory of operation. Where nodes have no room for old and new beside each other, old replicas must go
first. A quarter of a stage at a time, at least one: no stage gives up a ready replica, to its own
successors or to anybody else's, if more than a quarter of it would then not be ready, and those that
come must be ready before the next go. The last one goes for another stage only if no successor of
its own is on its way. All is read off the pods, so a restart in the middle
changes nothing.

Nothing waits for ever: where a replica needs more than that (a whole node that several old ones
share, or a plan of more replicas than there were), it gets it as soon as nothing of the stages
concerned, and of what they wait for, is on its way any more. A stage that lost replicas, and has no old ones of its own, waits for
nobody: what it lacks serves nobody either, and the plan gave it the place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from motley_operator.changes.leaving import Leaving
from motley_operator.changes.requests import pinned_node, pod_requests, room_after
from motley_operator.changes.turns import (
    PATIENCE_S,
    PodName,
    Stage,
    a_quarter,
    absent_replicas,
    stage_of,
    stage_of_pod,
)
from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts, Room
from motley_operator.domain.names import REPLICA
from motley_operator.domain.replans import LOSSES, Tier
from motley_operator.translate.room import fits, is_engine, minus, plus, room_left


@dataclass(frozen=True, slots=True)
class _Need:
    """An absent replica without room, and the replicas in its way."""

    stage: Stage
    manifests: Sequence[Manifest]
    chosen: tuple[Leaving, ...]

    @property
    def victims(self) -> Counter[Stage]:
        """How many replicas of which stage would go."""
        return Counter((one.key, one.stage) for one in self.chosen)


def in_the_way(
    waiting: Sequence[Leaving],
    startable: Mapping[PodName, Manifest],
    desired: Mapping[PodName, Manifest],
    facts: ClusterFacts,
    going: frozenset[str],
) -> list[Leaving]:
    """Of those that stand by, the ones whose room an absent replica needs and may have now.

    Pods that are ending, or have a UID in `going`, count as gone: their room comes by itself.
    """
    absent = absent_replicas(startable, facts) if waiting else []
    if not absent:
        return []
    ending = going | {pod.uid for pod in facts.pods if pod.deleting}
    rooms = _NodeRooms(dict(room_left(facts, given_back=ending)), waiting)
    stages = _Stages.of(waiting, desired, facts)
    crowded: list[tuple[Stage, list[Manifest]]] = []
    for stage, manifests in absent:
        after = room_after(manifests, rooms.left)
        if after is None:
            crowded.append((stage, manifests))
        else:  # created in this cycle, whoever comes first
            rooms.left |= after
            stages.comes(stage)
    deferred: list[_Need] = []
    for stage, manifests in crowded:
        need = rooms.need(stage, manifests)
        if need is None:
            continue  # not ours to solve: something else holds the node
        if stages.may(need):
            rooms.settle(need)
            stages.settle(need)
        else:
            deferred.append(need)
    stages.begin_exceptions(deferred)
    for late in sorted(deferred, key=lambda need: len(need.chosen)):
        need = rooms.need(late.stage, late.manifests)
        if need is not None and stages.may_by_exception(need):
            rooms.settle(need)
            stages.settle_exception(need)
    return rooms.gone


class _NodeRooms:
    """Room on nodes, and who would give some."""

    def __init__(self, left: dict[str, Room], waiting: Sequence[Leaving]) -> None:
        self.gone: list[Leaving] = []
        self._gone = set[str]()  # UIDs of their first pods
        self.left = left
        self._there: dict[str, list[Leaving]] = {}
        for one in waiting:
            for node in dict.fromkeys(pod.node for pod in one.pods):
                if node in left and one.on(node).gpus > 0:
                    self._there.setdefault(node, []).append(one)
        for node, here in self._there.items():
            here.sort(key=lambda one: (one.on(node).gpus, one.pods[0].name))

    def need(self, stage: Stage, manifests: Sequence[Manifest]) -> _Need | None:
        """As few replicas as must go for these pods, smallest first; None: in vain."""
        left, chosen = dict[str, Room](), list[Leaving]()
        for manifest in manifests:
            node, need = pinned_node(manifest), pod_requests(manifest)
            if node is None:
                continue  # its node is asked for by making it
            if node not in self.left:
                return None
            room = left.get(node, self.left[node])
            for one in self._there.get(node, ()):
                if fits(need, room):
                    break
                if one in chosen or one.pods[0].uid in self._gone:
                    continue
                chosen.append(one)
                for where in {pod.node for pod in one.pods} & self.left.keys():
                    assert where is not None
                    left[where] = plus(left.get(where, self.left[where]), one.on(where))
                room = left[node]
            if not fits(need, room):
                return None
            left[node] = minus(room, need)
        return _Need(stage, manifests, tuple(chosen))

    def settle(self, need: _Need) -> None:
        """They go, and the replica has its place."""
        self.gone += need.chosen
        self._gone |= {one.pods[0].uid for one in need.chosen}
        for one in need.chosen:
            for where in {pod.node for pod in one.pods} & self.left.keys():
                assert where is not None
                self.left[where] = plus(self.left[where], one.on(where))
        self.left |= room_after(need.manifests, self.left) or {}


@dataclass(slots=True)
class _Stages:
    """How many replicas each stage has, by what they are doing."""

    size: Counter[Stage] = field(default_factory=Counter)  # planned, or there if that is more
    ready: Counter[Stage] = field(default_factory=Counter)
    coming: Counter[Stage] = field(default_factory=Counter)  # planned, there, not ready
    moving: set[Stage] = field(default_factory=set)  # something of it ends, or has just begun
    with_old: frozenset[Stage] = frozenset()
    mended: frozenset[str] = frozenset()  # keys of resources that lost replicas
    exceptions: Counter[Stage] = field(default_factory=Counter)  # how many more may go

    @classmethod
    def of(
        cls, waiting: Sequence[Leaving], desired: Mapping[PodName, Manifest], facts: ClusterFacts
    ) -> _Stages:
        """As things are now."""
        made = cls(with_old=frozenset((one.key, one.stage) for one in waiting))
        made.mended = _mended(facts)
        planned = {(stage_of(m), m["metadata"]["labels"][REPLICA]) for m in desired.values()}
        lacking = {
            (stage, _name(manifests)) for stage, manifests in absent_replicas(desired, facts)
        }
        there: dict[tuple[Stage, str], list[PodFacts]] = {}
        for pod in facts.pods:
            if is_engine(pod) and not pod.terminal:
                stage = stage_of_pod(pod)
                there.setdefault((stage, pod.labels.get(REPLICA, "")), []).append(pod)
                if pod.deleting and facts.now - pod.ends_at < PATIENCE_S:
                    made.moving.add(stage)
        alive = Counter((one.key, one.stage) for one in waiting)
        made.ready = Counter(alive)
        for one, pods in there.items():
            if one not in planned:
                continue
            stage = one[0]
            alive[stage] += 1
            if one not in lacking and all(pod.ready and not pod.deleting for pod in pods):
                made.ready[stage] += 1
            else:
                made.coming[stage] += 1
                if facts.now - max(pod.created_at for pod in pods) < PATIENCE_S:
                    made.moving.add(stage)
        made.size = Counter(stage for stage, _ in planned)
        for stage, number in alive.items():
            made.size[stage] = max(made.size[stage], number)
        return made

    def may(self, need: _Need) -> bool:
        """Whether it is this replica's turn, and no stage gives more than it can."""
        own = need.stage
        if own in self.with_old:
            if self.coming[own] >= a_quarter(self.size[own]):
                return False
        elif own[0] in self.mended:
            return True
        return all(self._can_give(stage, n, own) for stage, n in need.victims.items())

    def _can_give(self, stage: Stage, number: int, to: Stage) -> bool:
        left, size = self.ready[stage] - number, self.size[stage]
        if left <= 0 and stage != to and stage in self.moving:
            return False  # its last one, and what replaces that is on its way
        return left >= size - a_quarter(size)

    def comes(self, stage: Stage) -> None:
        """A replica of the stage has its place."""
        self.coming[stage] += 1
        self.moving.add(stage)

    def settle(self, need: _Need) -> None:
        """The replica comes, and those in its way go."""
        self.comes(need.stage)
        self.ready.subtract(need.victims)
        self.moving |= need.victims.keys()

    def begin_exceptions(self, deferred: Iterable[_Need]) -> None:
        """From here on a stage may give a quarter of what is ready, if nothing it waits for is on its way."""
        self.moving = _spread(self.moving, [{need.stage, *need.victims} for need in deferred])
        self.exceptions = Counter({stage: a_quarter(n) for stage, n in self.ready.items()})

    def may_by_exception(self, need: _Need) -> bool:
        """Whether the replica gets what it needs although that is more than a quarter."""
        own = need.stage
        if {own, *need.victims} & self.moving or (own in self.with_old and self.coming[own]):
            return False
        fresh = all(self.exceptions[s] == a_quarter(self.ready[s]) for s in need.victims)
        return fresh or all(self.exceptions[s] >= n for s, n in need.victims.items())

    def settle_exception(self, need: _Need) -> None:
        """It gets it."""
        self.exceptions.subtract(need.victims)


def _spread(moving: set[Stage], waiting: Iterable[set[Stage]]) -> set[Stage]:
    """Stages that move, and those that wait for one that does, for one that waits for it, and so on."""
    found, groups = set(moving), list(waiting)
    while reached := [group for group in groups if group & found]:
        found |= set().union(*reached)
        groups = [group for group in groups if group not in reached]
    return found


def _name(manifests: Sequence[Manifest]) -> str:
    return str(manifests[0]["metadata"]["labels"][REPLICA])


def _mended(facts: ClusterFacts) -> frozenset[str]:
    """Keys of the resources whose plan was last changed because replicas of them were lost."""
    found = []
    for resource in facts.resources:
        last = (resource.document.get("status") or {}).get("lastReplan") or {}
        if last.get("tier") == Tier.REPAIR and last.get("reason") in LOSSES:
            found.append(resource.key)
    return frozenset(found)
