"""Conditions: statements with an enumerated reason; the time changes only when the status flips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from motley_operator.api.status import Condition

LONGEST_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Statement:
    """A condition without its time."""

    type: str
    status: str  # True | False | Unknown
    reason: str
    message: str = ""


def timestamp(unix_s: float) -> str:
    """RFC 3339, to the second."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(
    statements: Iterable[Statement], old: Sequence[Condition], generation: int, now: float
) -> tuple[Condition, ...]:
    """The statements as conditions, each with the time of its last flip."""
    before = {condition.type: condition for condition in old}
    made = []
    for statement in statements:
        known = before.get(statement.type)
        same = known is not None and known.status == statement.status
        made.append(
            Condition.model_validate(
                {
                    "type": statement.type,
                    "status": statement.status,
                    "reason": statement.reason,
                    "message": shortened(statement.message),
                    "lastTransitionTime": known.last_transition_time
                    if same and known is not None
                    else timestamp(now),
                    "observedGeneration": generation,
                }
            )
        )
    return tuple(made)


def flipped(
    new: Sequence[Condition], old: Sequence[Condition], kinds: Sequence[str]
) -> list[Condition]:
    """Conditions of these kinds whose status or reason differs from before."""
    before = {c.type: (c.status, c.reason) for c in old}
    return [c for c in new if c.type in kinds and before.get(c.type) != (c.status, c.reason)]


def shortened(text: str, limit: int = LONGEST_MESSAGE) -> str:
    """The text, cut where it is too long for a status."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
