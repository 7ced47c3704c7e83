"""Weights that are fetched onto a volume: how far each Job is, as its object and its pods say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from motley_operator.domain.facts import ClusterFacts, Document, PodFacts
from motley_operator.domain.names import COMPONENT, STAGES, WEIGHTS, key_of

COMPLETE, FAILED, FETCHING, WAITING, RETRYING = (
    "Complete", "Failed", "Fetching", "Waiting", "Retrying",
)  # fmt: skip
RETRY_S = 600.0  # after which a Job that has given up is made anew


@dataclass(frozen=True, slots=True)
class Weights:
    """One Job's weights."""

    key: str  # of the resource
    stages: tuple[str, ...]
    state: str
    done_bytes: int | None = None
    total_bytes: int | None = None
    message: str = ""  # the last words of the pod that failed last, or why one waits
    failed_at: float | None = None  # Unix seconds; once it has given up


def is_weights_job(document: Document) -> bool:
    """Whether an object of ours is a Job that fetches weights."""
    labels = document["metadata"].get("labels") or {}
    return bool(document["kind"] == "Job" and labels.get(COMPONENT) == WEIGHTS)


def stages_of_job(document: Document) -> tuple[str, ...]:
    """The stages whose weights a Job fetches."""
    annotations = document["metadata"].get("annotations") or {}
    return tuple(filter(None, str(annotations.get(STAGES, "")).split(",")))


def is_complete(document: Document | None) -> bool:
    """Whether the Job has done its work."""
    return document is not None and _time_of(document, "Complete") is not None


def failed_at(document: Document) -> float | None:
    """When the Job gave up; None while it has not."""
    return _time_of(document, "Failed")


def fetched_weights(facts: ClusterFacts) -> Mapping[str, tuple[Weights, ...]]:
    """The weights of each resource that has such Jobs, by key."""
    found: dict[str, tuple[Weights, ...]] = {}
    pods: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        if pod.owner_uid is not None and pod.labels.get(COMPONENT) == WEIGHTS:
            pods.setdefault(pod.owner_uid, []).append(pod)
    for (kind, namespace, name), job in facts.owned.items():
        if kind == "Job" and is_weights_job(job) and not job["metadata"].get("deletionTimestamp"):
            key = key_of(job["metadata"].get("labels") or {}, namespace)
            progress = (facts.owned.get(("ConfigMap", namespace, name)) or {}).get("data") or {}
            mine = sorted(pods.get(job["metadata"]["uid"], ()), key=lambda p: p.created_at)
            found[key] = (*found.get(key, ()), _weights(key, job, progress, mine))
    return found


def _weights(key: str, job: Document, progress: Mapping[str, Any], pods: list[PodFacts]) -> Weights:
    stages = stages_of_job(job)
    done, total = (_number(progress.get(name)) for name in ("doneBytes", "totalBytes"))
    last = next((p.message or p.reason for p in reversed(pods) if p.phase == "Failed"), "")
    if is_complete(job):
        return Weights(key, stages, COMPLETE, done, total)
    if (at := failed_at(job)) is not None:
        return Weights(key, stages, FAILED, done, total, last or _words(job), at)
    alive = next((p for p in pods if not p.terminal and not p.deleting), None)
    if alive is not None and alive.phase == "Running":
        return Weights(key, stages, FETCHING, done, total, last)
    if alive is None and last:
        return Weights(key, stages, RETRYING, done, total, last)
    why = alive.reason if alive is not None else ""
    return Weights(key, stages, WAITING, done, total, why or "its pod has not started")


def _condition(job: Document, kind: str) -> Mapping[str, Any] | None:
    rows = (job.get("status") or {}).get("conditions") or ()
    return next((r for r in rows if r.get("type") == kind and r.get("status") == "True"), None)


def _time_of(job: Document, kind: str) -> float | None:
    row = _condition(job, kind)
    if row is None:
        return None
    try:
        return datetime.fromisoformat(str(row.get("lastTransitionTime"))).timestamp()
    except ValueError:
        return 0.0


def _words(job: Document) -> str:
    return str((_condition(job, "Failed") or {}).get("message") or "")


def _number(text: Any) -> int | None:
    """A count of bytes; None where somebody wrote something else."""
    written = str(text or "")
    return int(written) if written.isdigit() and len(written) < 20 else None
