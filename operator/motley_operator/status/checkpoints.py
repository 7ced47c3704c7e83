"""What a job says while its trainers save before they end: the condition Checkpointing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from motley_operator.domain.facts import PodFacts
from motley_operator.domain.names import CHECKPOINT, ROLE, TRAINER
from motley_operator.lifecycle import Phase
from motley_operator.status.conditions import Statement, timestamp

CHECKPOINTING = "Checkpointing"
LATE_S = 30.0  # beyond its grace, which a kubelet may take to clear up after a pod
_ENDING = {Phase.SUSPENDED: "Suspending", Phase.COMPLETE: "JobEnding", Phase.FAILED: "JobEnding"}


def saving(pods: Iterable[PodFacts], lost_nodes: Collection[str]) -> tuple[PodFacts, ...]:
    """Of a job's pods, the trainers that were asked to end and save first, where anything runs."""
    return tuple(
        pod
        for pod in pods
        if CHECKPOINT in pod.annotations
        and pod.labels.get(ROLE) == TRAINER
        and pod.deleting
        and pod.bound
        and not pod.terminal
        and pod.node not in lost_nodes
    )


def checkpointing(
    pods: Sequence[PodFacts], phase: str, is_planned: bool, now: float
) -> tuple[Statement, ...]:
    """Who saves, until when, and why; nothing where nobody does.

    `is_planned` says whether the plan has a trainer, `now` is in Unix seconds.
    """
    if not pods:
        return ()
    ends_at = max(pod.ends_at for pod in pods)
    count = f"trainer pods that save before they end: {len(pods)}"
    by = f" by {timestamp(ends_at)}" if ends_at else ""
    if ends_at and now > ends_at + LATE_S:
        message = (
            f"{count}; they had to be gone{by} and still hold their GPUs: see the events of pods "
            "and nodes, and force-delete them only once nothing of them runs any more"
        )
        return (Statement(CHECKPOINTING, "True", "NotEnding", message),)
    reason = _ENDING.get(Phase(phase)) if phase else None
    reason = reason or ("TrainerReplaced" if is_planned else "Preempted")
    message = (
        f"{count}; they run checkpoint.command and are gone{by} at the latest. Until then their "
        "GPUs are given to nobody, and no other trainer of the job starts"
    )
    return (Statement(CHECKPOINTING, "True", reason, message),)
