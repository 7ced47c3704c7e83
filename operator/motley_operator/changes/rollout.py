"""Make before break: replicas that go on serving until what replaces them is ready.

Theory of operation. A plan may put other replicas in the place of ready ones (a cheaper node, another
GPU). A ready replica that the plan no longer has *stands by* while its stage has planned replicas
that are not ready yet. It goes earlier only if its room, or what it takes of a quota, is needed: then just as many go, smallest
first, as make room for a planned replica that cannot be created without, and a quarter of a stage at a time (makeway.py). Nothing is remembered: which
replicas stand by follows from the pods, so a restart in the middle changes nothing. A replacement that never becomes
ready leaves the old replicas serving.

What is lost, failed, finished or no longer allowed stands by for nobody, and neither do jobs: a
trainer's gang is one, and rollouts can be lost at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from motley_operator import lifecycle
from motley_operator.changes import makeway, quotas
from motley_operator.changes.leaving import Leaving
from motley_operator.changes.turns import PodName, Stage
from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import REPLICA, ROLE, SERVE, STAGE, key_of


def may_stand_by(
    leaving: Sequence[Leaving],
    desired: Mapping[PodName, Manifest],
    facts: ClusterFacts,
    lost: frozenset[Stage] = frozenset(),
) -> list[Leaving]:
    """The replicas that stay for now unless their room is needed.

    A stage that lost what its plan has is not whole either.
    """
    if not leaving:
        return []
    unready = _unready_stages(desired, facts) | lost
    return [one for one in leaving if (one.key, one.stage) in unready]


def standing_by(
    waiting: Sequence[Leaving],
    startable: Mapping[PodName, Manifest],
    desired: Mapping[PodName, Manifest],
    facts: ClusterFacts,
    going: frozenset[str] = frozenset(),
) -> list[Leaving]:
    """Of the replicas that may, those that do; only what is `startable` can take their room.

    `going` are UIDs of pods that go whatever stands by.
    """
    staying = list(waiting)
    for_nodes = makeway.in_the_way(staying, startable, desired, facts, going)
    for one in for_nodes:
        staying.remove(one)
    for one in quotas.in_the_way(staying, startable, facts, for_nodes):
        staying.remove(one)
    return staying


def leaving_replicas(pods: Sequence[PodFacts], uids: frozenset[str]) -> list[Leaving]:
    """The serving replicas of one resource that are whole, ready and among the given pods."""
    ready = lifecycle.ready_replicas(pods)
    replicas: dict[str, list[PodFacts]] = {}
    for pod in pods:
        if pod.uid in uids and pod.labels.get(ROLE) == SERVE:
            replicas.setdefault(pod.labels.get(REPLICA, ""), []).append(pod)
    return [
        Leaving(key_of(members[0].labels, members[0].namespace), _stage(members[0]), tuple(members))
        for name, members in sorted(replicas.items())
        if ready[name]
    ]


def _stage(pod: PodFacts) -> str:
    return pod.labels.get(STAGE, "")


def _unready_stages(desired: Mapping[PodName, Manifest], facts: ClusterFacts) -> frozenset[Stage]:
    """Stages with a planned pod that is absent or not ready."""
    ready = {
        (pod.namespace, pod.name)
        for pod in facts.pods
        if pod.ready and not pod.deleting and not pod.terminal
    }
    found = set()
    for place, manifest in desired.items():
        labels = manifest["metadata"]["labels"]
        if place not in ready:
            found.add((key_of(labels, place[0]), labels[STAGE]))
    return frozenset(found)
