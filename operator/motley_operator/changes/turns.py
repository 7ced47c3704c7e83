"""Who makes way for whom where something is counted: shared by quotas and budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from motley_operator.changes.leaving import Leaving
from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import REPLICA, STAGE, key_of

PATIENCE_S = 900.0  # a replica that takes longer to get ready is waited for by no other stage

PodName = tuple[str, str]
Stage = tuple[str, str]  # resource key and stage


class Rooms(Protocol):
    """What is left of something that is counted; taking changes it."""

    def take(self, manifests: Sequence[Manifest]) -> bool:
        """Take room for pods; False, and nothing is taken, where they do not fit."""

    def give(self, pods: Iterable[PodFacts]) -> None:
        """What these pods take is free again."""

    def take_back(self, pods: Iterable[PodFacts]) -> None:
        """The opposite of `give`."""


def making_way(
    manifests: Sequence[Manifest], left: Sequence[Leaving], rooms: Rooms
) -> list[Leaving] | None:
    """As few of the first as must go for these pods, which then have their place; None: in vain."""
    chosen: list[Leaving] = []
    for one in left:
        if rooms.take(manifests):
            return chosen
        chosen.append(one)
        rooms.give(one.pods)
    if rooms.take(manifests):
        return chosen
    for one in chosen:  # not ours to solve: others hold it
        rooms.take_back(one.pods)
    return None


def absent_replicas(
    desired: Mapping[PodName, Manifest], facts: ClusterFacts
) -> list[tuple[Stage, list[Manifest]]]:
    """Desired pods that are not there, replica by replica."""
    there = {(pod.namespace, pod.name) for pod in facts.pods}
    found: dict[tuple[Stage, str], list[Manifest]] = {}
    for place, manifest in desired.items():
        if place not in there:
            labels = manifest["metadata"]["labels"]
            found.setdefault((stage_of(manifest), labels[REPLICA]), []).append(manifest)
    return [(stage, manifests) for (stage, _), manifests in found.items()]


def stage_of(manifest: Manifest) -> Stage:
    """The stage that a desired pod is of."""
    metadata = manifest["metadata"]
    return (key_of(metadata["labels"], metadata["namespace"]), metadata["labels"][STAGE])


def stage_of_pod(pod: PodFacts) -> Stage:
    """The stage that a pod is of."""
    return (key_of(pod.labels, pod.namespace), pod.labels.get(STAGE, ""))


def turns(
    waiting: Sequence[Leaving], desired: Mapping[PodName, Manifest], facts: ClusterFacts
) -> Counter[Stage]:
    """How many replicas of each stage may be on their way: a quarter, less those not ready yet."""
    size = Counter((one.key, one.stage) for one in waiting)
    there: dict[Stage, set[str]] = {}
    coming: dict[Stage, set[str]] = {}
    for pod in facts.pods:
        stage = stage_of_pod(pod)
        if stage in size and not pod.terminal and (pod.namespace, pod.name) in desired:
            there.setdefault(stage, set()).add(pod.labels.get(REPLICA, ""))
            if not pod.ready:
                coming.setdefault(stage, set()).add(pod.labels.get(REPLICA, ""))
    return Counter(
        {s: a_quarter(n + len(there.get(s, ()))) - len(coming.get(s, ())) for s, n in size.items()}
    )


def a_quarter(replicas: int) -> int:
    """How many of so many replicas may be missing at a time while they are replaced: at least one."""
    return max(1, replicas // 4)
