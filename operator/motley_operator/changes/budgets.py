"""Budgets at this very moment: what must wait for money or GPUs, and who makes way for it.

Theory of operation. The plan keeps to the budgets when it is carried out. On the way there old and new
replicas are paid at once, so a replica is created only while all live pods, those that are ending
too, stay within each budget, and never above what the plan itself takes: then something is freed
whenever everything that is not planned has gone, and no rollout is stuck.

Where a replica does not fit, it waits while others are on their way whose old ones will make
enough room; that needs no gap. Nobody is waited for longer than PATIENCE_S. Otherwise as few old
replicas as must make way, of its own stage first, and a quarter of a stage at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from motley_operator.changes.leaving import Leaving
from motley_operator.changes.quotas import QuotaRoom
from motley_operator.changes.requests import pinned_node, pod_requests, room_after
from motley_operator.changes.turns import (
    PATIENCE_S,
    PodName,
    Stage,
    a_quarter,
    absent_replicas,
    making_way,
    stage_of,
    stage_of_pod,
)
from motley_operator.domain.actions import Manifest
from motley_operator.domain.budgets import Amount, Budgets, Limit
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import REPLICA, key_of
from motley_operator.translate.budgets import amount_of, live_pods
from motley_operator.translate.room import room_left
from motley_planner.remembering import Memory, Same

_GPUS: Memory[int] = Memory(65_536)  # of manifests, which are never edited


@dataclass(frozen=True, slots=True)
class Seen:
    """What is looked at: budgets, all desired pods, facts, and resources whose pods stay as they are."""

    budgets: Budgets
    desired: Mapping[PodName, Manifest]
    facts: ClusterFacts
    kept: frozenset[str] = frozenset()


class BudgetRoom:
    """What the budgets leave; taking changes it."""

    def __init__(self, seen: Seen, given_back: frozenset[str] = frozenset()) -> None:
        """Without what the pods with the UIDs of `given_back` take."""
        self._budgets = seen.budgets
        self._left: dict[Limit, Amount] = {}
        _GPUS.keep(seen.desired.__contains__)
        if not seen.budgets.limits:
            return
        wanted, taken = dict[str, Amount](), dict[str, Amount]()
        for manifest in seen.desired.values():
            _add(wanted, stage_of(manifest)[0], self._of(manifest))
        for pod in live_pods(seen.facts):
            key, amount = key_of(pod.labels, pod.namespace), amount_of(pod, self._budgets)
            if pod.uid not in given_back:
                _add(taken, key, amount)
            if key in seen.kept:
                _add(wanted, key, amount)
        planned, held = self._budgets.over(wanted), self._budgets.over(taken)
        self._left = {limit: limit.most.or_more(planned[limit]) - held[limit] for limit in planned}

    def take(self, manifests: Sequence[Manifest]) -> bool:
        """Take room for pods of one resource; False, and nothing is taken, where they do not fit."""
        if not self._left:
            return True
        need = sum((self._of(m) for m in manifests), Amount())
        limits = self._of_key(stage_of(manifests[0])[0])
        if not all(need.within(self._left[limit]) for limit in limits):
            return False
        for limit in limits:
            self._left[limit] -= need
        return True

    def untake(self, manifests: Sequence[Manifest]) -> None:
        """The opposite of a `take` that was answered with True."""
        if self._left:
            for limit in self._of_key(stage_of(manifests[0])[0]):
                self._left[limit] += sum((self._of(m) for m in manifests), Amount())

    def give(self, pods: Iterable[PodFacts]) -> None:
        """What these pods take is free again."""
        self._move(pods, 1)

    def take_back(self, pods: Iterable[PodFacts]) -> None:
        """The opposite of `give`."""
        self._move(pods, -1)

    def would_hold(self, manifests: Sequence[Manifest], without: Sequence[Leaving]) -> bool:
        """Whether these pods would fit without those replicas; nothing is taken."""
        need = sum((self._of(m) for m in manifests), Amount())
        for one in without:
            self.give(one.pods)
        limits = self._of_key(stage_of(manifests[0])[0])
        fits = all(need.within(self._left[limit]) for limit in limits)
        for one in without:
            self.take_back(one.pods)
        return fits

    def _move(self, pods: Iterable[PodFacts], sign: int) -> None:
        for pod in pods:
            amount = amount_of(pod, self._budgets)
            for limit in self._of_key(key_of(pod.labels, pod.namespace)):
                left = self._left[limit]
                self._left[limit] = left + amount if sign > 0 else left - amount

    def _of_key(self, key: str) -> list[Limit]:
        return [limit for limit in self._left if limit.covers(key)]

    def _of(self, manifest: Manifest) -> Amount:
        metadata = manifest["metadata"]
        place = (metadata["namespace"], metadata["name"])
        gpus = _GPUS.get(place, Same(manifest), lambda: pod_requests(manifest).gpus)
        told = metadata["labels"], metadata["annotations"]
        return self._budgets.of_pod(pinned_node(manifest), gpus, *told)


def _add(total: dict[str, Amount], key: str, amount: Amount) -> None:
    total[key] = total.get(key, Amount()) + amount


@dataclass(frozen=True, slots=True)
class Transition:
    """Where things stand: what is seen, what may start, and who goes already."""

    seen: Seen
    startable: Mapping[PodName, Manifest]
    going: frozenset[str] = frozenset()  # UIDs of pods that go now

    def in_the_way(self, waiting: Sequence[Leaving]) -> list[Leaving]:
        """Of those that stand by, the ones that take of a budget what an absent replica needs."""
        if not waiting or not self.seen.budgets.limits:
            return []
        facts = self.seen.facts
        absent = absent_replicas(self.startable, facts)
        ending = self.going | {pod.uid for pod in facts.pods if pod.deleting}
        money, quotas = BudgetRoom(self.seen, ending), QuotaRoom(facts, ending)
        rooms = dict(room_left(facts, ending))
        coming, sizes = self._coming(), self._sizes(waiting)
        gone: list[Leaving] = []
        for stage, manifests in absent:
            after = room_after(manifests, rooms)
            if after is None or not quotas.take(manifests):
                continue  # it would win nothing
            held = [one for one in waiting if one not in gone]
            on_the_way = [one for one in held if coming[_stage(one)] > 0 and _stage(one) != stage]
            if not money.take(manifests):
                if on_the_way and money.would_hold(manifests, on_the_way):
                    continue
                turn = coming[stage] < a_quarter(sizes[stage])
                chosen = making_way(manifests, _nearest(held, stage) if turn else [], money)
                if chosen is None:
                    continue
                gone += chosen
            rooms |= after
            coming[stage] += 1
        return gone

    def _coming(self) -> Counter[Stage]:
        """How many planned replicas of each stage are there, young, and not ready yet; or have just got a place."""
        found: dict[Stage, set[str]] = {}
        for pod in self.seen.facts.pods:
            if pod.uid in self.going and pod.ready and not pod.deleting:
                found.setdefault(stage_of_pod(pod), set()).add(pod.labels.get(REPLICA, ""))
            young = self.seen.facts.now - pod.created_at < PATIENCE_S
            wanted = (pod.namespace, pod.name) in self.seen.desired
            if wanted and young and not (pod.ready or pod.terminal or pod.deleting):
                found.setdefault(stage_of_pod(pod), set()).add(pod.labels.get(REPLICA, ""))
        return Counter({stage: len(names) for stage, names in found.items()})

    def _sizes(self, waiting: Sequence[Leaving]) -> Counter[Stage]:
        """How many replicas of each stage are there, planned or standing by."""
        sizes = Counter(_stage(one) for one in waiting)
        for pod in self.seen.facts.pods:
            if not pod.terminal and (pod.namespace, pod.name) in self.seen.desired:
                sizes[stage_of_pod(pod)] += 1
        return sizes


def _stage(one: Leaving) -> Stage:
    return (one.key, one.stage)


def _nearest(held: Sequence[Leaving], stage: Stage) -> list[Leaving]:
    """Of the stage itself first, then of its resource, and the smallest first."""
    return sorted(
        held,
        key=lambda one: (
            _stage(one) != stage,
            one.key != stage[0],
            sum(pod.requests.gpus for pod in one.pods),
            one.pods[0].name,
        ),
    )


def can_overlap(budgets: Budgets, key: str, more: Amount, planned: Mapping[str, Amount]) -> bool:
    """Whether each budget leaves room for `more` of a resource beside all that is planned.

    Where it does, a successor comes to its turn; where it does not, it never would.
    """
    totals = budgets.over(planned)
    return all((totals[limit] + more).within(limit.most) for limit in totals if limit.covers(key))
