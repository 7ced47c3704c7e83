"""What a resource says of pods that wait behind a scheduling gate: the condition Queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from motley_operator.domain.facts import PodFacts
from motley_operator.domain.names import QUEUE, STAGE
from motley_operator.status.conditions import Statement

QUEUED, GATED = "Queued", "SchedulingGated"


def queued(pods: Iterable[PodFacts]) -> tuple[Statement, ...]:
    """How many pods wait for somebody to take a gate off; nothing where none does."""
    gated = [p for p in pods if p.reason == GATED and not (p.deleting or p.terminal or p.bound)]
    if not gated:
        return ()
    counts = sorted(Counter(p.labels.get(STAGE, "") for p in gated).items())
    names = sorted({p.labels[QUEUE] for p in gated if QUEUE in p.labels})
    where = f" of queue {', '.join(names)}" if names else ""
    words = ", ".join(f"{n} of {stage}" for stage, n in counts)
    message = (
        f"pods behind a scheduling gate{where}: {words}; they hold their places and fail nothing"
    )
    return (Statement(QUEUED, "True", GATED, message),)
