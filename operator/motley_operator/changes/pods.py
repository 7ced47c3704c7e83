"""Pods: which go, which come, and which must wait until there is room.

Rules. A pod's spec is never edited. A pod that goes is taken out of its Service first. A replica
is created whole or not at all, and only where the requests of everything that is bound or pinned
to its nodes at this moment leave room: a replica that takes the place of another waits until that
one is gone. One whose place is not needed goes on until its replacement is ready (rollout.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from motley_operator.changes import rollout
from motley_operator.changes.budgets import BudgetRoom, Transition
from motley_operator.changes.budgets import Seen as Money
from motley_operator.changes.gangs import Graces
from motley_operator.changes.judging import (
    NO_TROUBLE,
    NODE_LOST,
    NOT_IN_PLAN,
    Going,
    Seen,
    Trouble,
    judge,
)
from motley_operator.changes.quotas import QuotaRoom
from motley_operator.changes.requests import room_after
from motley_operator.changes.turns import PodName, absent_replicas, stage_of_pod
from motley_operator.domain.actions import Action, CreatePod, DeletePod, LabelPod, Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import ROLE, SERVING, TRAINER
from motley_operator.translate.room import is_engine, room_left


@dataclass(frozen=True, slots=True)
class PodChanges:
    """What happens to pods now, and who goes on although the plan no longer has it."""

    actions: tuple[Action, ...]
    standing_by: tuple[PodFacts, ...] = ()


def pod_changes(
    desired: Mapping[PodName, Manifest],
    ours: Mapping[str, Sequence[PodFacts]],
    facts: ClusterFacts,
    trouble: Trouble = NO_TROUBLE,
) -> PodChanges:
    """Labels off, deletions, creations; `ours` are the engine pods of the resources in question."""
    going = Going()
    quotas = QuotaRoom(facts)
    last = judge(desired, ours, Seen(facts, trouble, quotas), going)
    unplanned = frozenset(uid for uid, reason in going.reasons.items() if reason == NOT_IN_PLAN)
    leaving_ = [one for pods in ours.values() for one in rollout.leaving_replicas(pods, unplanned)]
    startable = trouble.may_start(desired)
    uids = frozenset(going.reasons)
    waiting = set(rollout.standing_by(leaving_, desired, facts, startable, uids, trouble.lost))
    for uid in waiting:
        del going.reasons[uid]
    budgets = Money(trouble.budgets, desired, facts, trouble.kept)
    staying = [one for one in leaving_ if waiting.issuperset(pod.uid for pod in one.pods)]
    staying += rollout.leaving_replicas(last, frozenset(pod.uid for pod in last))
    at_stake = Transition(budgets, startable, frozenset(going.reasons))
    for one in at_stake.in_the_way(staying):
        going.add(one.pods, NOT_IN_PLAN)
        waiting -= {pod.uid for pod in one.pods}
    everyone = sorted(
        (p for pods in ours.values() for p in pods), key=lambda p: (p.namespace, p.name)
    )
    leaving = [pod for pod in everyone if pod.uid in going.reasons]
    room = _Rooms(quotas, BudgetRoom(budgets))
    grace = Graces(facts, trouble.lost_nodes)
    actions = (*_removals(leaving, going.reasons, grace), *_creations(startable, facts, room))
    last = [pod for pod in last if pod.uid not in going.reasons]
    return PodChanges(actions, (*(pod for pod in everyone if pod.uid in waiting), *last))


def stranded(pods: Iterable[PodFacts], facts: ClusterFacts) -> tuple[Action, ...]:
    """Removal of the pods whose node object is gone, whatever else is to stay as it is.

    Those that ran there say that they are ready, and would for the minute until the garbage collector
    takes them; they serve nobody. Those that were still to be bound to it would wait for ever.
    """
    nodes = {node.name for node in facts.nodes}
    lost = [pod for pod in pods if pod.node is not None and pod.node not in nodes]
    return _removals(lost, {pod.uid: NODE_LOST for pod in lost}, Graces(facts))


def _removals(
    leaving: Sequence[PodFacts], reasons: Mapping[str, str], graces: Graces
) -> tuple[Action, ...]:
    """Out of their Services first, then deleted; trainers find each other by theirs to the end."""
    labels = [
        LabelPod(p.namespace, p.name, p.uid, SERVING, None)
        for p in leaving
        if SERVING in p.labels and not p.terminal and p.labels.get(ROLE) != TRAINER
    ]
    deletions = [
        DeletePod(p.namespace, p.name, p.uid, reasons[p.uid], graces.of(p)) for p in leaving
    ]
    return (*labels, *deletions)


@dataclass(frozen=True, slots=True)
class _Rooms:
    """What may still be created, beside nodes."""

    quotas: QuotaRoom
    budgets: BudgetRoom

    def take(self, manifests: Sequence[Manifest]) -> bool:
        """Take room for one replica's pods, in both or in none."""
        if not self.budgets.take(manifests):
            return False
        if self.quotas.take(manifests):
            return True
        self.budgets.untake(manifests)
        return False


def _creations(
    desired: Mapping[PodName, Manifest], facts: ClusterFacts, rooms: _Rooms
) -> list[Action]:
    """Absent pods for which there is room now, on nodes, in quotas and budgets, replica by replica.

    Stages that have made way come first, so that nobody else takes what they freed.
    """
    absent = absent_replicas(desired, facts)
    ending = {stage_of_pod(pod) for pod in facts.pods if pod.deleting and is_engine(pod)}
    absent.sort(key=lambda one: one[0] not in ending)
    left = dict(room_left(facts))
    creations: list[Action] = []
    for _, manifests in absent:
        after = room_after(manifests, left)
        if after is not None and rooms.take(manifests):
            left.update(after)
            creations += [CreatePod(manifest) for manifest in manifests]
    return creations
