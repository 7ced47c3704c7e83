"""A node's JSON as NodeFacts: only what a plan can depend on, so that heartbeats change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from sys import intern
from typing import Any

from motley_operator.admission.quantities import milli, whole
from motley_operator.domain.facts import NodeFacts, Room, Taint
from motley_operator.facts.devices import WHOLE, devices

# Annotations of agents (CNI, CSI, node problem detector) change all the time and plan nothing.
_ANNOTATION_PREFIX = "motley.dev/"


def parse_node(document: Mapping[str, Any]) -> NodeFacts:
    """The facts of one node."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    status = document.get("status") or {}
    labels = metadata.get("labels") or {}
    allocatable = status.get("allocatable") or {}
    gpus = devices(allocatable, labels)
    ready, since = _readiness(status, metadata)
    return NodeFacts(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        # Thousands of nodes say the same sixty things.
        labels={intern(name): intern(value) for name, value in labels.items()},
        annotations=_ours(metadata.get("annotations") or {}),
        taints=tuple(
            Taint(t["key"], t.get("value") or "", t["effect"]) for t in spec.get("taints") or ()
        ),
        unschedulable=bool(spec.get("unschedulable")),
        ready=ready,
        not_ready_since=since,
        deleting="deletionTimestamp" in metadata,
        allocatable=replace(room(allocatable), gpus=gpus.count),
        gpu_resource=gpus.resource,
        gpu_label=gpus.label,
        refused=gpus.refused,
        aside=gpus.aside,
        created_at=unix_seconds(metadata.get("creationTimestamp")),
    )


def room(amounts: Mapping[str, Any]) -> Room:
    """A resource list (allocatable, requests) as numbers; whole GPUs of all vendors count alike."""
    return Room(
        gpus=sum(whole(amounts[r]) for r in WHOLE if r in amounts),
        cpu_milli=milli(amounts.get("cpu")),
        memory_bytes=whole(amounts.get("memory")),
        ephemeral_bytes=whole(amounts.get("ephemeral-storage")),
        pods=whole(amounts.get("pods")),
    )


def unix_seconds(timestamp: str | None) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0 where there is none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0


def _ours(annotations: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in annotations.items() if k.startswith(_ANNOTATION_PREFIX)}


def _readiness(status: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[bool, float | None]:
    """Whether the node is ready and, if not, since when.

    A node that has not reported yet is not ready since it was made.
    """
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready":
            if condition.get("status") == "True":
                return True, None
            return False, _at_latest(condition.get("lastTransitionTime"))
    return False, _at_latest(metadata.get("creationTimestamp"))


def _at_latest(timestamp: str | None) -> float:
    """The end of the second that the API's time names: a flap is given all the time that it may have."""
    return unix_seconds(timestamp) + 1.0 if timestamp else 0.0
