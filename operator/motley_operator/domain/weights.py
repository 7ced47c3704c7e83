"""Weights that are fetched onto a volume: how far each Job is, as its object and its pods say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from motley_operator.domain.actions import Manifest
from motley_operator.domain.facts import ClusterFacts, Document, PodFacts
from motley_operator.domain.names import COMPONENT, INPUTS_HASH, STAGES, WEIGHTS, key_of
from motley_operator.domain.verdicts import Refusal, sort_of

COMPLETE, FAILED, FETCHING, WAITING, RETRYING, REFUSED = (
    "Complete", "Failed", "Fetching", "Waiting", "Retrying", "Refused",
)  # fmt: skip
RETRY_S = 600.0  # after which a Job that has given up is made anew
POD_WITHIN_S = 60.0  # of a Job that has none: after that the server is asked why


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
    refusal: Refusal | None = None  # why the API server takes no pod of it


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


def is_unfinished(document: Document) -> bool:
    """Whether an object is a Job that has weights to fetch yet, or again."""
    is_going = bool(document["metadata"].get("deletionTimestamp"))
    return is_weights_job(document) and not is_going and not is_complete(document)


def pod_of_job(job: Document) -> Manifest:
    """The pod that a Job is to make, under the Job's own name."""
    metadata, template = job["metadata"], job["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": dict((template.get("metadata") or {}).get("labels") or {}),
            "annotations": {INPUTS_HASH: metadata["name"]},  # which says what it was made of
            "ownerReferences": metadata.get("ownerReferences") or [],
        },
        "spec": template["spec"],
    }


def jobs_without_pod(facts: ClusterFacts) -> Iterator[Document]:
    """Jobs that should have had a pod for a while, and have none that lives."""
    late = [job for job in facts.owned.values() if _is_late(job, facts.now)]
    if not late:
        return
    alive = {pod.owner_uid for pod in facts.pods if not pod.terminal}
    yield from (job for job in late if job["metadata"]["uid"] not in alive)


def _is_late(job: Document, now: float) -> bool:
    """Whether an object is a Job that should have had a pod by now."""
    if job["kind"] != "Job" or not is_unfinished(job) or failed_at(job) is not None:
        return False
    return now - _unix(job["metadata"].get("creationTimestamp"), now) >= POD_WITHIN_S


def failed_at(document: Document) -> float | None:
    """When the Job gave up; None while it has not."""
    return _time_of(document, "Failed")


def fetched_weights(facts: ClusterFacts) -> Mapping[str, tuple[Weights, ...]]:
    """The weights of each resource that has such Jobs, by key."""
    found: dict[str, tuple[Weights, ...]] = {}
    pods: dict[str, list[PodFacts]] = {}
    late = {job["metadata"]["uid"] for job in jobs_without_pod(facts)}
    for pod in facts.pods:
        if pod.owner_uid is not None and pod.labels.get(COMPONENT) == WEIGHTS:
            pods.setdefault(pod.owner_uid, []).append(pod)
    for (kind, namespace, name), job in facts.owned.items():
        if kind == "Job" and is_weights_job(job) and not job["metadata"].get("deletionTimestamp"):
            key = key_of(job["metadata"].get("labels") or {}, namespace)
            progress = (facts.owned.get(("ConfigMap", namespace, name)) or {}).get("data") or {}
            mine = sorted(pods.get(job["metadata"]["uid"], ()), key=lambda p: p.created_at)
            weights = _weights(key, job, progress, mine)
            if job["metadata"]["uid"] in late:
                weights = _without_pod(weights, job, facts)
            found[key] = (*found.get(key, ()), weights)
    return found


def _without_pod(weights: Weights, job: Document, facts: ClusterFacts) -> Weights:
    """With what stops the Job's pod, as far as it is known."""
    verdict = (facts.verdicts or {}).get(sort_of(pod_of_job(job)))
    if verdict is not None and verdict.refusal is not None:
        words = verdict.words
        return replace(weights, state=REFUSED, message=words, refusal=verdict.refusal)
    if weights.state != WAITING:
        return weights
    name = job["metadata"]["name"]
    return replace(
        weights, message=f"its Job has made no pod; kubectl describe job {name} says why"
    )


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
    return _unix(row.get("lastTransitionTime"), 0.0)


def _unix(written: Any, default: float) -> float:
    """Unix seconds of an RFC 3339 time."""
    try:
        return datetime.fromisoformat(str(written)).timestamp()
    except ValueError:
        return default


def _words(job: Document) -> str:
    return str((_condition(job, "Failed") or {}).get("message") or "")


def _number(text: Any) -> int | None:
    """A count of bytes; None where somebody wrote something else."""
    written = str(text or "")
    return int(written) if written.isdigit() and len(written) < 20 else None
