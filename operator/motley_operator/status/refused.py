"""What a resource says of pods that the API server does not take, in Stalled, Reconciling and Ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from motley_operator.domain.names import REPLAN_REQUESTED
from motley_operator.domain.verdicts import Refusal, Refused
from motley_operator.status.conditions import Statement

POD_REFUSED = "PodRefused"
LIFTS: Mapping[Refusal, str] = {
    Refusal.INVALID: "mend podTemplate, or what else of the spec the pod is made of",
    Refusal.FORBIDDEN: f"change that rule, or podTemplate so that it is kept; {REPLAN_REQUESTED} asks again at once",
    Refusal.OVER_QUOTA: "raise the quota, or stop what else takes of it",
}


@dataclass(frozen=True, slots=True)
class Pods:
    """Stages whose pods the server refuses, and those of which it is being asked; by resource key."""

    refused: Mapping[str, Sequence[Refused]] = field(default_factory=dict)
    tried: Mapping[str, frozenset[str]] = field(default_factory=dict)


def refused_for_good(refused: Sequence[Refused]) -> Statement | None:
    """Stalled, where nothing more happens until somebody changes the spec or a rule."""
    held = [one for one in refused if one.verdict.holds]
    return Statement("Stalled", "True", POD_REFUSED, _told(held)) if held else None


def refused_for_now(refused: Sequence[Refused], tried: frozenset[str]) -> Statement | None:
    """Reconciling, where pods wait for room in a quota, or for the server's first answer."""
    if refused:
        return Statement("Reconciling", "True", POD_REFUSED, _told(refused))
    if tried:
        words = f"{', '.join(sorted(tried))}: pods are tried before what runs makes way for them"
        return Statement("Reconciling", "True", "Progressing", words)
    return None


def _told(refused: Sequence[Refused]) -> str:
    return "; ".join(
        f"{one.stage}: the API server refuses its pods, and nothing makes way for them: "
        f"{one.verdict.words} (lift: {LIFTS[one.verdict.refusal or Refusal.INVALID]})"
        for one in refused
    )
