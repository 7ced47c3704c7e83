"""Room in the quotas of namespaces at this very moment: what must wait, and who makes way for it.

The plan keeps to the quotas when it is carried out; on the way there, old replicas still take what
new ones need. Nothing is created that the API server would refuse. Of what the server says is used
and what the pods take by our own count the larger one holds: after a deletion the server's figure is
late, after a creation our view of it may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from motley_operator.admission.containers import sized
from motley_operator.admission.counting import charged, not_set, use_of
from motley_operator.admission.limitranges import filled_in, refused_by
from motley_operator.changes.leaving import Leaving
from motley_operator.changes.requests import room_after
from motley_operator.changes.turns import PodName, Stage, absent_replicas, making_way, turns
from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import COMPONENT, GATEWAY, INSTANCE
from motley_operator.domain.quotas import PodUse, QuotaFacts
from motley_operator.translate.room import room_left

_Amounts = dict[tuple[str, str], int]  # by quota and resource


class QuotaRoom:
    """What the quotas of each namespace leave; taking changes it."""

    def __init__(self, facts: ClusterFacts, given_back: frozenset[str] = frozenset()) -> None:
        """Without what the pods with the UIDs of `given_back` take."""
        self._quotas: dict[str, list[QuotaFacts]] = {}
        for quota in facts.quotas:
            self._quotas.setdefault(quota.namespace, []).append(quota)
        self._ranges = facts.limit_ranges
        self._default_class = facts.default_priority_class
        pods: dict[str, list[PodFacts]] = {}
        for pod in facts.pods:
            if pod.namespace in self._quotas:
                pods.setdefault(pod.namespace, []).append(pod)
        self._left: dict[str, _Amounts] = {
            namespace: self._leaves(namespace, pods.get(namespace, []), facts, given_back)
            for namespace in self._quotas
        }

    def is_limited(self, namespace: str) -> bool:
        """Whether anything here could refuse a pod of the namespace."""
        return namespace in self._left or any(r.namespace == namespace for r in self._ranges)

    def take(self, manifests: Sequence[Manifest]) -> bool:
        """Take room for pods of one namespace; False, and nothing is taken, where they do not fit."""
        needed: _Amounts = {}
        for manifest in manifests:
            amounts = self._needs(manifest)
            if amounts is None:
                return False
            _add(needed, amounts, 1)
        left = self._left.get(manifests[0]["metadata"]["namespace"], {})
        if any(amount > left.get(at, 0) for at, amount in needed.items()):
            return False
        _add(left, needed, -1)
        return True

    def give(self, pods: Iterable[PodFacts]) -> None:
        """What these pods take is free again."""
        for pod in pods:
            if pod.namespace in self._left and not pod.terminal:
                _add(self._left[pod.namespace], self._takes(pod), 1)

    def take_back(self, pods: Iterable[PodFacts]) -> None:
        """The opposite of `give`."""
        for pod in pods:
            if pod.namespace in self._left and not pod.terminal:
                _add(self._left[pod.namespace], self._takes(pod), -1)

    def replaces(self, pod: PodFacts, manifest: Manifest) -> bool:
        """Whether the manifest would be admitted once the pod is gone."""
        if not self.is_limited(pod.namespace):
            return True
        needed, freed = self._needs(manifest), self._takes(pod)
        left = self._left.get(pod.namespace, {})
        return needed is not None and all(
            amount <= left.get(at, 0) + freed.get(at, 0) for at, amount in needed.items()
        )

    def _leaves(
        self,
        namespace: str,
        pods: Sequence[PodFacts],
        facts: ClusterFacts,
        given_back: frozenset[str],
    ) -> _Amounts:
        left: _Amounts = {}
        coming = list(_gateways_to_come(namespace, pods, facts))
        for quota in self._quotas[namespace]:
            counted = dict.fromkeys(quota.hard, 0)
            returned = dict.fromkeys(quota.hard, 0)
            for pod in pods:
                if pod.use is None:
                    continue
                for name, amount in charged(quota, pod.use, pod.terminal).items():
                    counted[name] += amount
                    returned[name] += amount if pod.uid in given_back else 0
            for use, number in coming:
                for name, amount in charged(quota, use).items():
                    returned[name] -= amount * number
            for name, hard in quota.hard.items():
                most = min(hard, quota.enforced.get(name, hard))
                taken = max(counted[name], quota.used.get(name, 0))
                left[quota.name, name] = most - taken + returned[name]
        return left

    def _needs(self, manifest: Manifest) -> _Amounts | None:
        """What a pod would take; None where it would not be admitted whatever is free."""
        namespace, spec = manifest["metadata"]["namespace"], manifest["spec"]
        if not self.is_limited(namespace):
            return {}
        ranges = [r for r in self._ranges if r.namespace == namespace]
        pod = filled_in(sized(spec), ranges)
        named = spec.get("priorityClassName") or self._default_class
        use = use_of(pod, {**spec, "priorityClassName": named})
        quotas = self._quotas.get(namespace, ())
        if refused_by(pod, ranges) or any(not_set(quota, pod, use) for quota in quotas):
            return None
        return self._charged(quotas, use)

    def _takes(self, pod: PodFacts) -> _Amounts:
        if pod.use is None:
            return {}
        return self._charged(self._quotas.get(pod.namespace, ()), pod.use)

    def _charged(self, quotas: Iterable[QuotaFacts], use: PodUse) -> _Amounts:
        return {
            (quota.name, name): amount
            for quota in quotas
            for name, amount in charged(quota, use).items()
        }


def _gateways_to_come(
    namespace: str, pods: Sequence[PodFacts], facts: ClusterFacts
) -> Iterable[tuple[PodUse, int]]:
    """Gateway pods that their Deployments still have to create, by what each takes."""
    for (kind, where, _), live in facts.owned.items():
        labels = live["metadata"].get("labels") or {}
        if (kind, where, labels.get(COMPONENT)) != ("Deployment", namespace, GATEWAY):
            continue
        there = [
            pod
            for pod in pods
            if (pod.labels.get(COMPONENT), pod.labels.get(INSTANCE))
            == (GATEWAY, labels.get(INSTANCE))
        ]
        spec = live["spec"]["template"]["spec"]
        use = next((p.use for p in there if p.use), None) or use_of(sized(spec), spec)
        yield use, max(0, int(live["spec"].get("replicas") or 0) - len(there))


def in_the_way(
    waiting: Sequence[Leaving],
    desired: Mapping[PodName, Manifest],
    facts: ClusterFacts,
    going: Sequence[Leaving] = (),
) -> list[Leaving]:
    """Of those that stand by, the ones that take of a quota what an absent replica needs.

    A quarter of a stage makes way at a time, at least one, with those that are `going` already for
    room on nodes: the next go when those that came are ready. A replica whose nodes have no room for it would win nothing. Its own stage makes way
    first, and of that the smallest. Pods that are ending count as gone: what they take comes back.
    """
    absent = absent_replicas(desired, facts)
    if not waiting or not absent or not facts.quotas:
        return []
    ending = frozenset(pod.uid for pod in facts.pods if pod.deleting)
    quotas, rooms = QuotaRoom(facts, ending), dict(room_left(facts, ending))
    left_to_go = turns((*waiting, *going), desired, facts)
    left_to_go.subtract((one.key, one.stage) for one in going)
    gone: list[Leaving] = []
    for stage, manifests in absent:
        after = room_after(manifests, rooms)
        if after is None:
            continue
        left = [one for one in _nearest(waiting, stage) if one not in gone]
        chosen = making_way(manifests, left if left_to_go[stage] > 0 else [], quotas)
        if chosen is not None:
            rooms |= after
            gone += chosen
            left_to_go[stage] -= 1  # one that comes: its place is free, or somebody's turn has come
    return gone


def _nearest(waiting: Sequence[Leaving], stage: Stage) -> list[Leaving]:
    """Replicas of the same namespace: of the stage itself first, then the smallest."""
    namespace = stage[0].split("/")[1]
    return sorted(
        (one for one in waiting if one.pods[0].namespace == namespace),
        key=lambda one: (
            (one.key, one.stage) != stage,
            sum(pod.requests.gpus for pod in one.pods),
            one.pods[0].name,
        ),
    )


def _add(total: _Amounts, amounts: Mapping[tuple[str, str], int], times: int) -> None:
    for at, amount in amounts.items():
        total[at] = total.get(at, 0) + times * amount
