"""Make before break: replicas that go on serving until what replaces them is ready.

Theory of operation. A plan may put other replicas in the place of ready ones (a cheaper node, another
GPU). A ready replica that the plan no longer has *stands by* while its stage has planned replicas
that are not ready yet. It goes earlier only if its room, or what it takes of a quota, is needed: then just as many go, smallest
first, as make room for a planned replica that cannot be created without. Nothing is remembered: which
replicas stand by follows from the pods, so a restart in the middle changes nothing. A replacement that never becomes
ready leaves the old replicas serving.

What is lost, failed, finished or no longer allowed stands by for nobody, and neither do jobs: a
trainer's gang is one, and rollouts can be lost at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from motley_operator import lifecycle
from motley_operator.changes import quotas
from motley_operator.changes.leaving import Leaving
from motley_operator.changes.requests import pinned_node, pod_requests
from motley_operator.changes.turns import PodName, Stage
from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import REPLICA, ROLE, SERVE, STAGE, key_of
from motley_operator.translate.room import fits, minus, plus, room_left


def may_stand_by(
    leaving: Sequence[Leaving], desired: Mapping[PodName, Manifest], facts: ClusterFacts
) -> list[Leaving]:
    """The replicas that stay for now unless their room is needed."""
    if not leaving:
        return []
    unready = _unready_stages(desired, facts)
    return [one for one in leaving if (one.key, one.stage) in unready]


def standing_by(
    waiting: Sequence[Leaving], startable: Mapping[PodName, Manifest], facts: ClusterFacts
) -> list[Leaving]:
    """Of the replicas that may, those that do; only what is `startable` can take their room."""
    staying = list(waiting)
    for one in _in_the_way(staying, startable, facts):
        staying.remove(one)
    for one in quotas.in_the_way(staying, startable, facts):
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


def _in_the_way(
    waiting: Sequence[Leaving], desired: Mapping[PodName, Manifest], facts: ClusterFacts
) -> list[Leaving]:
    """Of those that stand by, the ones whose room an absent planned pod needs.

    Pods that are ending count as gone: their room comes by itself.
    """
    there = {(pod.namespace, pod.name) for pod in facts.pods}
    ending = frozenset(pod.uid for pod in facts.pods if pod.deleting)
    left = dict(room_left(facts, given_back=ending))
    gone: list[Leaving] = []
    for place, manifest in desired.items():
        node = pinned_node(manifest)
        if place in there or node is None or node not in left:
            continue
        need, room = pod_requests(manifest), left[node]
        here = [one for one in waiting if one not in gone and one.on(node).gpus > 0]
        here.sort(key=lambda one: (one.on(node).gpus, one.pods[0].name))
        chosen: list[Leaving] = []
        for one in here:
            if fits(need, room):
                break
            chosen.append(one)
            room = plus(room, one.on(node))
        if not fits(need, room):
            continue  # not ours to solve: something else holds the node
        gone += chosen
        for one in chosen:
            for where in Counter(pod.node for pod in one.pods if pod.node in left):
                assert where is not None
                left[where] = plus(left[where], one.on(where))
        left[node] = minus(left[node], need)
    return gone
