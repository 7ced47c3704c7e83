"""RLJob phases as one transition table.

The phase before is read from the job's conditions, the signal from its pods and spec; both come
back as facts after a restart, so nothing is remembered here. Complete and Failed are final: their
rows are empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from motley_operator.api import RLJob
from motley_operator.domain.facts import PodFacts
from motley_operator.domain.names import ATTEMPT, REPLICA, ROLE, ROLLOUT, TRAINER


class Phase(StrEnum):
    """Where a job is in its life."""

    PENDING = "Pending"  # no pod yet
    STARTING = "Starting"  # pods exist, the gang or its rollouts are not ready
    RUNNING = "Running"
    RESTARTING = "Restarting"  # the gang broke; another attempt follows
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Signal(StrEnum):
    """What pods and spec say now; the first that holds, in this order, is taken."""

    SUCCEEDED = "every trainer pod succeeded"
    SUSPEND = "spec.suspend is true"
    EXHAUSTED = "the trainer failed more often than backoffLimit"
    OVERDUE = "activeDeadlineSeconds have passed"
    BROKEN = "a trainer pod failed"
    READY = "the trainer gang and enough rollout replicas are ready"
    PLACED = "pods exist"
    IDLE = "no pods"


_ALIVE: Mapping[Signal, Phase] = {
    Signal.SUCCEEDED: Phase.COMPLETE,
    Signal.SUSPEND: Phase.SUSPENDED,
    Signal.EXHAUSTED: Phase.FAILED,
    Signal.OVERDUE: Phase.FAILED,
    Signal.BROKEN: Phase.RESTARTING,
    Signal.READY: Phase.RUNNING,
    Signal.PLACED: Phase.STARTING,
    Signal.IDLE: Phase.PENDING,
}
TRANSITIONS: Mapping[Phase, Mapping[Signal, Phase]] = {
    Phase.PENDING: _ALIVE,
    Phase.STARTING: _ALIVE,
    Phase.RUNNING: _ALIVE,
    Phase.RESTARTING: {**_ALIVE, Signal.PLACED: Phase.RESTARTING, Signal.IDLE: Phase.RESTARTING},
    # Time and failures stand still while suspended.
    Phase.SUSPENDED: {
        **_ALIVE,
        Signal.EXHAUSTED: Phase.FAILED,
        Signal.BROKEN: Phase.PENDING,
    },
    Phase.COMPLETE: {},
    Phase.FAILED: {},
}
FINAL = frozenset((Phase.COMPLETE, Phase.FAILED))
GONE = frozenset((Phase.COMPLETE, Phase.FAILED, Phase.SUSPENDED))  # takes part in no plan


def phase_of(job: RLJob, pods: Sequence[PodFacts], now: float) -> Phase:
    """The job's phase now; `pods` are its own engine pods, `now` is in Unix seconds."""
    before = phase_before(job)
    return TRANSITIONS[before].get(signal_of(job, pods, now), before)


def phase_before(job: RLJob) -> Phase:
    """The phase that the job's conditions tell."""
    for kind, phase in (
        ("Complete", Phase.COMPLETE),
        ("Failed", Phase.FAILED),
        ("Suspended", Phase.SUSPENDED),
    ):
        condition = job.status.condition(kind)
        if condition is not None and condition.status == "True":
            return phase
    ready = job.status.condition("Ready")
    if ready is None:
        return Phase.PENDING
    if ready.status == "True":
        return Phase.RUNNING
    return Phase.RESTARTING if ready.reason == "TrainerRestarting" else Phase.STARTING


def signal_of(job: RLJob, pods: Sequence[PodFacts], now: float) -> Signal:
    """The first signal that holds."""
    trainers = [p for p in pods if p.labels.get(ROLE) == TRAINER]
    spec = job.spec
    held = (
        (Signal.SUCCEEDED, bool(trainers) and all(map(_has_succeeded, trainers))),
        (Signal.SUSPEND, spec.suspend),
        (Signal.EXHAUSTED, failures(job, pods) > spec.backoff_limit),
        (Signal.OVERDUE, _overdue(job, now)),
        (Signal.BROKEN, any(map(_has_failed, trainers))),
        (Signal.READY, _ready(job, pods, trainers)),
        (Signal.PLACED, bool(pods)),
    )
    return next((signal for signal, holds in held if holds), Signal.IDLE)


def failures(job: RLJob, pods: Iterable[PodFacts]) -> int:
    """Trainer failures so far.

    A trainer pod carries the number of failures before it was made, so a failed pod counts once
    however often it is seen, and however often the operator restarts.
    """
    seen = [
        int(text) + 1
        for pod in pods
        if pod.labels.get(ROLE) == TRAINER and _has_failed(pod)
        if (text := pod.annotations.get(ATTEMPT, "0")).isdigit()
    ]
    return max([job.status.failures, *seen])


def _has_succeeded(pod: PodFacts) -> bool:
    """A pod that ended by itself.

    What is asked to end ends as Succeeded or Failed, too, by the code with which it leaves after
    SIGTERM; neither says anything of the job. One of ours that failed is deleted only once that is counted.
    """
    return pod.phase == "Succeeded" and not pod.deleting


def _has_failed(pod: PodFacts) -> bool:
    return pod.phase == "Failed" and not pod.deleting


def ready_replicas(pods: Iterable[PodFacts]) -> Mapping[str, bool]:
    """Whether every pod of a replica is ready, by replica name."""
    ready: dict[str, bool] = {}
    for pod in pods:
        name = pod.labels.get(REPLICA, "")
        ready[name] = ready.get(name, True) and pod.ready and not pod.deleting and not pod.terminal
    return ready


def _ready(job: RLJob, pods: Sequence[PodFacts], trainers: Sequence[PodFacts]) -> bool:
    rollouts = ready_replicas(p for p in pods if p.labels.get(ROLE) == ROLLOUT)
    gang = ready_replicas(trainers)
    return any(gang.values()) and sum(rollouts.values()) >= job.spec.rollout.min_replicas


def is_expired(job: RLJob, now: float) -> bool:
    """Whether a finished job has been there for its ttlSecondsAfterFinished."""
    at = _expires_at(job)
    return at is not None and now >= at


def due_at(job: RLJob) -> float | None:
    """Unix seconds at which time alone ends a running job, or takes a finished one away."""
    if phase_before(job) in FINAL:
        return _expires_at(job)
    return None if job.spec.suspend else _overdue_at(job)


def _expires_at(job: RLJob) -> float | None:
    ttl_s, ended = job.spec.ttl_seconds_after_finished, job.status.completion_time
    if ttl_s is None or not ended or phase_before(job) not in FINAL:
        return None
    return datetime.fromisoformat(ended).timestamp() + ttl_s


def _overdue(job: RLJob, now: float) -> bool:
    at = _overdue_at(job)
    return at is not None and now > at


def _overdue_at(job: RLJob) -> float | None:
    limit, started = job.spec.active_deadline_seconds, job.status.start_time
    if limit is None or not started:
        return None
    return datetime.fromisoformat(started).timestamp() + limit
