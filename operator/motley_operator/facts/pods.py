"""A pod's JSON as PodFacts.

Of a foreign pod only what it takes of a node is kept: its labels, readiness and address plan
nothing, and thousands of them would be most of the operator's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from motley_operator.admission.counting import pod_use
from motley_operator.domain.facts import PodFacts, Room
from motley_operator.facts.nodes import room, unix_seconds

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "motley"
_ANNOTATION_PREFIX = "motley.dev/"
_MESSAGE_CHARACTERS = 300
# From there on the kubelet waits for minutes between two runs (10 s, doubled each time, 5 min at most).
# Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy
MANY_RESTARTS = 5


def is_ours(document: Mapping[str, Any]) -> bool:
    """True for an object that Motley made."""
    labels = document["metadata"].get("labels") or {}
    return bool(labels.get(MANAGED_BY) == MANAGER)


def parse_pod(document: Mapping[str, Any]) -> PodFacts:
    """The facts of one pod."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    status = document.get("status") or {}
    bound = spec.get("nodeName")
    ours = is_ours(document)
    return PodFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        labels=(metadata.get("labels") or {}) if ours else {},
        annotations=_annotations(metadata) if ours else {},
        node=bound or pinned_node(spec),
        bound=bool(bound),
        phase=_phase(status.get("phase") or "Pending", ours),
        reason=_reason(status) if ours else "",
        ready=ours and _is_ready(status),
        deleting="deletionTimestamp" in metadata,
        requests=requests(spec),
        created_at=unix_seconds(metadata.get("creationTimestamp")),
        owner_uid=_controller_uid(metadata),
        ip=status.get("podIP") if ours else None,
        use=pod_use(spec),
        unready_since=_unready_since(document) if ours else 0.0,
        message=_last_words(status) if ours else "",
        ends_at=unix_seconds(metadata.get("deletionTimestamp")) if ours else 0.0,
        last_run_s=_last_run_s(status) if ours else None,
    )


def pinned_node(spec: Mapping[str, Any]) -> str | None:
    """The one node that required node affinity on metadata.name leaves, or None."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    named = [_named_nodes(term) for term in required.get("nodeSelectorTerms") or ()]
    # Terms are alternatives: only if each names the same single node is the pod pinned.
    if named and all(nodes is not None and nodes == named[0] for nodes in named):
        only = named[0] or frozenset()
        return next(iter(only)) if len(only) == 1 else None
    return None


def _named_nodes(term: Mapping[str, Any]) -> frozenset[str] | None:
    for field in term.get("matchFields") or ():
        if field.get("key") == "metadata.name" and field.get("operator") == "In":
            return frozenset(field.get("values") or ())
    return None


def requests(spec: Mapping[str, Any]) -> Room:
    """What the scheduler counts for the pod.

    max(sum of containers + sidecars, each init container + sidecars started before it) + overhead;
    CPU and memory given for the whole pod win over its containers'.
    Source: Kubernetes KEP-753 (sidecar containers) and KEP-2837 (pod level resources).
    """
    running = [room(_amounts(c)) for c in spec.get("containers") or ()]
    sidecars: list[Room] = []
    peaks: list[Room] = []
    for container in spec.get("initContainers") or ():
        needed = room(_amounts(container))
        if container.get("restartPolicy") == "Always":
            sidecars.append(needed)
            peaks.append(_sum(sidecars))
        else:
            peaks.append(_sum([*sidecars, needed]))
    steady = _sum([*running, *sidecars])
    total = [max(column) for column in zip(*map(_numbers, [steady, *peaks]), strict=True)]
    whole_pod = _amounts(spec)
    stated = _numbers(room(whole_pod))
    for i, name in ((1, "cpu"), (2, "memory")):
        if name in whole_pod:
            total[i] = stated[i]
    overhead = room(spec.get("overhead") or {})
    gpus, cpu, memory, ephemeral, _ = _numbers(_sum([Room(*total), overhead]))
    return Room(gpus, cpu, memory, ephemeral, pods=1)


def _amounts(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Requests of a container or pod; where only a limit is given it is the request as well."""
    resources = holder.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def _sum(rooms: Iterable[Room]) -> Room:
    return Room(*map(sum, zip(*map(_numbers, [Room(), *rooms]), strict=True)))


def _numbers(r: Room) -> tuple[int, ...]:
    return (r.gpus, r.cpu_milli, r.memory_bytes, r.ephemeral_bytes, r.pods)


def _annotations(metadata: Mapping[str, Any]) -> dict[str, str]:
    annotations = metadata.get("annotations") or {}
    return {k: v for k, v in annotations.items() if k.startswith(_ANNOTATION_PREFIX)}


def _phase(phase: str, ours: bool) -> str:
    """The phase; of a foreign pod only whether it has finished."""
    if ours or phase in ("Succeeded", "Failed"):
        return phase
    return "Running"


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(
        c.get("type") == "Ready" and c.get("status") == "True"
        for c in status.get("conditions") or ()
    )


def _unready_since(document: Mapping[str, Any]) -> float:
    """Since when the pod has not been ready: at the longest since it was made; 0 while it is."""
    status = document.get("status") or {}
    if _is_ready(status):
        return 0.0
    rows = status.get("conditions") or ()
    told = (c for c in rows if c.get("type") == "Ready")
    flipped = unix_seconds(next((c.get("lastTransitionTime") for c in told), None))
    # One that waited for a node has had no time to start before it was bound.
    bound = (c for c in rows if c.get("type") == "PodScheduled" and c.get("status") == "True")
    bound_at = unix_seconds(next((c.get("lastTransitionTime") for c in bound), None))
    return flipped or bound_at or unix_seconds(document["metadata"].get("creationTimestamp"))


def _reason(status: Mapping[str, Any]) -> str:
    """Why a pod of ours is not running, in one word: its own reason, or a container's."""
    if status.get("reason"):
        return str(status["reason"])
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return str(waiting["reason"])
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "Unschedulable")
    return ""


def _last_words(status: Mapping[str, Any]) -> str:
    """What a failed pod said last: a container's termination message, else the pod's own."""
    if status.get("phase") != "Failed":
        return ""
    ends = [(c.get("state") or {}).get("terminated") or {} for c in _containers(status)]
    said = [str(end["message"]) for end in ends if end.get("exitCode") and end.get("message")]
    return (said[0] if said else str(status.get("message") or "")).strip()[-_MESSAGE_CHARACTERS:]


def _last_run_s(status: Mapping[str, Any]) -> float | None:
    """The shortest of the last runs of containers that were restarted MANY_RESTARTS times.

    The number of restarts is told nowhere else: another one is no news.
    """
    runs = []
    for container in _containers(status):
        last = (container.get("lastState") or {}).get("terminated") or {}
        began, ended = last.get("startedAt"), last.get("finishedAt")
        if int(container.get("restartCount") or 0) >= MANY_RESTARTS and began and ended:
            runs.append(max(0.0, unix_seconds(ended) - unix_seconds(began)))
    return min(runs, default=None)


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = ("initContainerStatuses", "containerStatuses")
    return [container for part in parts for container in status.get(part) or ()]


def _controller_uid(metadata: Mapping[str, Any]) -> str | None:
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("uid"))
    return None
