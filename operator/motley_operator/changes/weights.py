"""Stages that wait for their weights, and Jobs that fetch them and have given up."""

from __future__ import annotations

from collections.abc import Iterable

from motley_operator.changes.trials import Trials
from motley_operator.changes.turns import Stage
from motley_operator.domain.actions import DeleteObject, Manifest, TryPod
from motley_operator.domain.facts import ClusterFacts, asked_anew
from motley_operator.domain.names import key_of
from motley_operator.domain.weights import (
    RETRY_S,
    failed_at,
    is_complete,
    is_weights_job,
    jobs_without_pod,
    pod_of_job,
    stages_of_job,
)


def waiting_stages(desired: Iterable[Manifest], facts: ClusterFacts) -> frozenset[Stage]:
    """Stages of which nothing is started, since their weights are not on the volume yet."""
    found = set()
    for job in filter(is_weights_job, desired):
        metadata = job["metadata"]
        live = facts.owned.get(("Job", metadata["namespace"], metadata["name"]))
        if not is_complete(live):
            key = key_of(metadata["labels"], metadata["namespace"])
            found |= {(key, stage) for stage in stages_of_job(job)}
    return frozenset(found)


def given_up(desired: Iterable[Manifest], facts: ClusterFacts) -> list[DeleteObject]:
    """Jobs that failed for good, after a while, or when somebody asks for a plan: made anew then."""
    asked = asked_anew(facts)
    found = []
    for job in filter(is_weights_job, desired):
        metadata = job["metadata"]
        place = ("Job", metadata["namespace"], metadata["name"])
        live = facts.owned.get(place)
        since = failed_at(live) if live is not None else None
        if live is None or since is None or live["metadata"].get("deletionTimestamp"):
            continue
        key = key_of(metadata["labels"], metadata["namespace"])
        if facts.now - since >= RETRY_S or key in asked:
            found.append(DeleteObject(*place, live["metadata"]["uid"]))
    return found


def refused_jobs(desired: Iterable[Manifest], facts: ClusterFacts) -> tuple[TryPod, ...]:
    """Trials of the pods that Jobs should have had by now: what the server says goes to a condition.

    The Job controller is told the same, and only in events that nobody here reads.
    """
    wanted = {
        (job["metadata"]["namespace"], job["metadata"]["name"])
        for job in filter(is_weights_job, desired)
    }
    trials = Trials(facts)
    for job in jobs_without_pod(facts) if wanted else ():
        if (job["metadata"]["namespace"], job["metadata"]["name"]) in wanted:
            trials.admits(pod_of_job(job))
    return trials.actions
