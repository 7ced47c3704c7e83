"""Pods: which go, which come, and which must wait until there is room.

Rules. A pod's spec is never edited. A pod that goes is taken out of its Service first. A replica
is created whole or not at all, and only where the requests of everything that is bound or pinned
to its nodes at this moment leave room: a replica that takes the place of another waits until that
one is gone. One whose place is not needed goes on until its replacement is ready (rollout.py). Nothing makes way for a pod that the API server would refuse (trials.py).
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
from motley_operator.changes.leaving import Leaving
from motley_operator.changes.quotas import QuotaRoom
from motley_operator.changes.requests import room_after
from motley_operator.changes.trials import Trials
from motley_operator.changes.turns import (
    PodName,
    Stage,
    absent_replicas,
    stage_of,
    stage_of_pod,
)
from motley_operator.domain.actions import Action, CreatePod, DeletePod, LabelPod, Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import INPUTS_HASH, ROLE, ROLLOUT, SERVING, TRAINER
from motley_operator.domain.verdicts import sort_of
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
    going, quotas, trials = Going(), QuotaRoom(facts), Trials(facts)
    last = judge(desired, ours, Seen(facts, trouble, quotas, trials), going)
    _keep_jobs(desired, ours, going, trials)
    startable = trouble.may_start(desired)
    budgets = Money(trouble.budgets, desired, facts, trouble.kept)
    created = _creations(startable, facts, _Rooms(quotas, BudgetRoom(budgets)))
    unplanned = frozenset(uid for uid, reason in going.reasons.items() if reason == NOT_IN_PLAN)
    leaving_ = [one for pods in ours.values() for one in rollout.leaving_replicas(pods, unplanned)]
    at_last = rollout.leaving_replicas(last, frozenset(pod.uid for pod in last))
    may = rollout.may_stand_by(leaving_, desired, facts, trouble.lost)
    way = _Way(may, at_last, budgets, frozenset(going.reasons), desired)
    staying = way.staying(startable)
    if len(staying) < len(may) + len(at_last):  # only who is admitted is worth it
        staying = way.staying(trials.worth_room(startable, created))
    waiting = _uids(may) & _uids(staying)
    for uid in waiting:
        del going.reasons[uid]
    for one in at_last:
        if one not in staying:
            going.add(one.pods, NOT_IN_PLAN)
    everyone = sorted(
        (p for pods in ours.values() for p in pods), key=lambda p: (p.namespace, p.name)
    )
    leaving = [pod for pod in everyone if pod.uid in going.reasons]
    grace = Graces(facts, trouble.lost_nodes)
    actions = (*_removals(leaving, going.reasons, grace), *created, *trials.actions)
    last = [pod for pod in last if pod.uid not in going.reasons]
    return PodChanges(actions, (*(pod for pod in everyone if pod.uid in waiting), *last))


@dataclass(frozen=True, slots=True)
class _Way:
    """Ready replicas that the plan no longer has, and what may make them go."""

    may_stand_by: Sequence[Leaving]
    at_last: Sequence[Leaving]  # that go with their nodes
    budgets: Money
    going: frozenset[str]  # UIDs of pods that go unless they stand by
    desired: Mapping[PodName, Manifest]

    def staying(self, startable: Mapping[PodName, Manifest]) -> list[Leaving]:
        """The replicas whose place nothing that is `startable` needs."""
        gone_anyway = self.going - _uids(self.may_stand_by)
        staying = rollout.standing_by(
            self.may_stand_by, startable, self.desired, self.budgets.facts, gone_anyway
        )
        at_stake = Transition(self.budgets, startable, self.going - _uids(staying))
        staying += self.at_last
        gone = at_stake.in_the_way(staying)
        return [one for one in staying if one not in gone]


def _uids(replicas: Iterable[Leaving]) -> frozenset[str]:
    return frozenset(pod.uid for one in replicas for pod in one.pods)


def _keep_jobs(
    desired: Mapping[PodName, Manifest],
    ours: Mapping[str, Sequence[PodFacts]],
    going: Going,
    trials: Trials,
) -> None:
    """What runs of a job stands by for nothing, but goes on while the server takes nothing of its edit."""
    unplanned = [
        pod
        for pods in ours.values()
        for pod in pods
        if going.reasons.get(pod.uid) == NOT_IN_PLAN and pod.labels.get(ROLE) in (ROLLOUT, TRAINER)
    ]
    if not unplanned:
        return
    there = {(pod.namespace, pod.name) for pods in ours.values() for pod in pods}
    heirs: dict[Stage, Manifest] = {}
    for at, manifest in desired.items():
        if at not in there:
            heirs.setdefault(stage_of(manifest), manifest)
    for pod in unplanned:
        heir = heirs.get(stage_of_pod(pod))
        if heir is None or sort_of(heir).inputs == pod.annotations.get(INPUTS_HASH):
            continue
        if not trials.admits(heir):
            del going.reasons[pod.uid]


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
) -> list[CreatePod]:
    """Absent pods for which there is room now, on nodes, in quotas and budgets, replica by replica.

    Stages that have made way come first, so that nobody else takes what they freed.
    """
    absent = absent_replicas(desired, facts)
    ending = {stage_of_pod(pod) for pod in facts.pods if pod.deleting and is_engine(pod)}
    absent.sort(key=lambda one: one[0] not in ending)
    left = dict(room_left(facts))
    creations: list[CreatePod] = []
    for _, manifests in absent:
        after = room_after(manifests, left)
        if after is not None and rooms.take(manifests):
            left.update(after)
            creations += [CreatePod(manifest) for manifest in manifests]
    return creations
