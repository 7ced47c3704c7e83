"""Replicas that run now, read back from their pods alone.

A replica goes on only if every one of its pods is alive on a node that is still there. Whatever
else carries our labels (pods being deleted, failed ones, part of a gang) holds its name until it
is gone, so that no two pods ever share one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from motley_operator.domain.facts import ClusterFacts, NodeFacts, PodFacts, ResourceFacts
from motley_operator.domain.names import RANK, REPLICA, UNIT, key_of, unit_id
from motley_operator.domain.notices import Notice, notice_of
from motley_operator.translate.room import is_engine
from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.fragments import ReplicaFragment

_FRESH_S = 3.0  # the API's times are whole seconds; a kubelet says NotReady as it registers


@dataclass(frozen=True, slots=True)
class Running:
    """What runs, whose pods they are, and which names are taken."""

    units: tuple[RunningUnit, ...]
    pod_uids: frozenset[str]  # of those units
    reserved: frozenset[str]  # unit ids that pods on their way out still hold
    leaving: tuple[PodFacts, ...] = ()  # pods that will go: their room is planned, not yet used
    holding: frozenset[str] = frozenset()  # of the reserved ones, those whose room is not planned


def is_lost(node: NodeFacts, now: float, loss_seconds: float) -> bool:
    """A node counts as lost once it has not been ready for `loss_seconds`.

    One that has not been ready since it was made is not waited for: nothing runs there yet.
    """
    since = node.not_ready_since
    if node.ready or since is None:
        return not node.ready
    return now - since >= loss_seconds or since - node.created_at <= _FRESH_S


def lost_nodes(facts: ClusterFacts, loss_seconds: float) -> frozenset[str]:
    """Nodes on which nothing is known to run any more, although pods there may still say so."""
    lost = {
        node.name
        for node in facts.nodes
        if is_lost(node, facts.now, loss_seconds) or notice_of(node) == Notice.GONE
    }
    there = {node.name for node in facts.nodes}
    gone = {pod.node for pod in facts.pods if pod.bound and pod.node and is_engine(pod)} - there
    return frozenset(lost | gone)


def pods_by_key(facts: ClusterFacts) -> dict[str, list[PodFacts]]:
    """Engine pods of each resource that is there."""
    owners = {resource.key: resource.uid for resource in facts.resources}
    pods: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        key = key_of(pod.labels, pod.namespace)
        if is_engine(pod) and pod.belongs_to(owners.get(key)):
            pods.setdefault(key, []).append(pod)
    return pods


def running_units(
    facts: ClusterFacts,
    keys: AbstractSet[str],
    standing: AbstractSet[str],
    broken: Collection[str] = (),
) -> Running:
    """Live replicas of the resources in `keys` on the nodes in `standing`.

    A replica with a pod whose UID is in `broken` is not one of them.
    """
    owners = {resource.key: resource for resource in facts.resources}
    replicas: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        if is_engine(pod):
            key = key_of(pod.labels, pod.namespace)
            replicas.setdefault(unit_id(key, pod.labels.get(REPLICA, "")), []).append(pod)
    units, uids, reserved, holding = [], set[str](), set[str](), set[str]()
    leaving: list[PodFacts] = []
    for name in sorted(replicas):
        pods = sorted(replicas[name], key=_rank)
        key = key_of(pods[0].labels, pods[0].namespace)
        whole = _belongs(pods, owners.get(key)) and not any(pod.uid in broken for pod in pods)
        unit = _unit(name, key, pods, standing) if whole else None
        if unit is not None and key in keys:
            units.append(unit)
            uids.update(pod.uid for pod in pods)
        else:
            reserved.add(name)
            goes = key in keys and _belongs(pods, owners.get(key))
            leaving += [p for p in pods if not p.terminal and (p.deleting or goes)]
            if not all(p.terminal or p.deleting or goes for p in pods):
                holding.add(name)
    found = tuple(units), frozenset(uids), frozenset(reserved), tuple(leaving)
    return Running(*found, frozenset(holding))


def _belongs(pods: list[PodFacts], owner: ResourceFacts | None) -> bool:
    """Pods of an earlier resource of the same name are not this one's."""
    return owner is not None and all(pod.belongs_to(owner.uid) for pod in pods)


def _rank(pod: PodFacts) -> int:
    text = pod.labels.get(RANK, "0")
    return int(text) if text.isdigit() else 0


def _unit(
    name: str, key: str, pods: list[PodFacts], standing: AbstractSet[str]
) -> RunningUnit | None:
    """The replica, or None if it is not whole and alive."""
    described = read_unit(pods[0].annotations)
    if described is None or [_rank(pod) for pod in pods] != list(range(described["fragments"])):
        return None
    nodes = tuple(pod.node or "" for pod in pods)
    if any(pod.terminal or pod.deleting for pod in pods) or not set(nodes) <= standing:
        return None
    return RunningUnit(
        id=name,
        key=key,
        stage=described["stage"],
        role=described["role"],
        gpu=described["gpu"],
        tensor_parallel=described["tensor_parallel"],
        operating_batch=described["operating_batch"],
        model=described["model"],
        precision=described["precision"],
        nodes=nodes,
        pipeline=tuple(ReplicaFragment(*fragment) for fragment in described["pipeline"]),
        phase=described["phase"],
        kv_scale=described["kv_scale"],
    )


_PHASES = ("both", "prefill", "decode")
_LONGEST_KEPT = 2000  # characters; anybody may have written them
_FIELDS: Mapping[str, type] = {
    "gpu": str,
    "tensor_parallel": int,
    "operating_batch": int,
    "model": str,
    "precision": str,
    "role": str,
    "stage": str,
}


def read_unit(annotations: Mapping[str, str]) -> dict[str, Any] | None:
    """What the annotation `motley.dev/unit` says; None if it was damaged."""
    text = annotations.get(UNIT, "")
    read = _described if len(text) <= _LONGEST_KEPT else _described.__wrapped__
    described = read(text)
    return dict(described) if described is not None else None


@lru_cache(maxsize=1024)  # thousands of pods are of a few kinds
def _described(text: str) -> Mapping[str, Any] | None:
    try:
        described = json.loads(text)
    except ValueError:
        return None
    if not isinstance(described, dict):
        return None
    if any(not isinstance(described.get(name), kind) for name, kind in _FIELDS.items()):
        return None
    fragments = described.get("fragments", 1)
    if not isinstance(fragments, int) or fragments < 1:
        return None
    pipeline = described.get("pipeline", [])
    if not _is_pipeline(pipeline) or (pipeline and len(pipeline) != fragments):
        return None
    phase, kv_scale = described.get("phase", "both"), described.get("kv_scale", 1.0)
    if phase not in _PHASES or not isinstance(kv_scale, int | float) or not 0 < kv_scale <= 1:
        return None
    told = {"fragments": fragments, "pipeline": pipeline, "phase": phase, "kv_scale": kv_scale}
    return {**described, **told}


def _is_pipeline(value: Any) -> bool:
    """A list of [GPU id, GPUs, layers]."""
    return isinstance(value, list) and all(
        isinstance(one, list) and [type(field) for field in one] == [str, int, int] for one in value
    )
