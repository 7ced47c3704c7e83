"""Pods in a queue of Kueue: the label by which it takes them, and a group for those that belong together.

Who labels a resource `kueue.x-k8s.io/queue-name` has its pods queued: Kueue gates each until its quota
has room. A replica over several nodes is one group, admitted whole or not at all; what serves is
marked so that Kueue lets single pods of it be replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from motley_operator.domain.facts import ClusterFacts, queues
from motley_operator.domain.names import QUEUE, REPLICA, RESOURCE, ROLE, TRAINER, key_of
from motley_operator.manifests.frame import Manifest, label_value

# Source: kueue v0.19, pkg/controller/jobs/pod/constants.
GROUP: Final = "kueue.x-k8s.io/pod-group-name"
GROUP_COUNT: Final = "kueue.x-k8s.io/pod-group-total-count"
GROUP_SERVING: Final = "kueue.x-k8s.io/pod-group-serving"


def with_queues(manifests: Sequence[Manifest], facts: ClusterFacts) -> list[Manifest]:
    """The manifests, with the pods of queued resources in their queues."""
    known = queues(facts)
    if not known:
        return list(manifests)
    sizes = Counter(_replica(m) for m in manifests if m["kind"] == "Pod")
    return [_queued(m, known, sizes) if m["kind"] == "Pod" else m for m in manifests]


def _queued(
    pod: Manifest, known: Mapping[str, str], sizes: Mapping[tuple[str, str], int]
) -> Manifest:
    metadata = pod["metadata"]
    replica = _replica(pod)
    queue = known.get(replica[0])
    if queue is None:
        return pod
    labels, annotations = {QUEUE: queue}, {}
    if sizes[replica] > 1:
        labels[GROUP] = label_value(f"{metadata['labels'][RESOURCE]}-{replica[1]}")
        annotations[GROUP_COUNT] = str(sizes[replica])
        if metadata["labels"][ROLE] != TRAINER:
            annotations[GROUP_SERVING] = "true"
    metadata = {
        **metadata,
        "labels": {**metadata["labels"], **labels},
        "annotations": {**metadata["annotations"], **annotations},
    }
    return {**pod, "metadata": metadata}


def _replica(pod: Manifest) -> tuple[str, str]:
    labels = pod["metadata"]["labels"]
    return (key_of(labels, pod["metadata"]["namespace"]), labels[REPLICA])
