"""When something did not work: what resources are told, and what is not done before they are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from motley_operator.apply import DONE
from motley_operator.apply.requests import target_of
from motley_operator.domain.actions import (
    Action,
    ApplyObject,
    CreatePod,
    DeletePod,
    EmitEvent,
    Outcome,
    PatchStatus,
    TryPod,
)
from motley_operator.domain.facts import ClusterFacts, ResourceFacts
from motley_operator.domain.verdicts import Refusal
from motley_operator.refusals import words_of
from motley_planner.errors import PlannerError, SolverError

STALLED = "Stalled"
UNCOUNTED = ("NotInPlan", "SpecChanged", "PeerLost", "Succeeded")  # deletions after no failure


def hold(facts: ClusterFacts, error: PlannerError) -> tuple[Action, ...]:
    """A Stalled condition and an Event for each resource that does not say so yet.

    Everything else in its status stays as it is: the plan there is the one that runs. The next
    cycle that has a plan writes the status anew, and Stalled goes.
    """
    reason = "SolverTimeLimit" if isinstance(error, SolverError) else "PlanningFailed"
    message = f"Keeping what runs, no new plan: {error}"
    actions: list[Action] = []
    for resource in facts.resources:
        if resource.deleting or _says(resource, reason):
            continue
        status = dict(resource.document.get("status") or {})
        abnormal = (STALLED, "Reconciling")  # kstatus takes the first that it finds
        others = [c for c in status.get("conditions") or () if c.get("type") not in abnormal]
        condition = {
            "type": STALLED,
            "status": "True",
            "reason": reason,
            "message": message,
            "observedGeneration": resource.generation,
            "lastTransitionTime": _rfc3339(facts.now),
        }
        status["conditions"] = [*others, condition]
        place = (resource.kind, resource.namespace, resource.name, resource.uid)
        actions.append(PatchStatus(*place, status))
        actions.append(EmitEvent(*place, "Warning", reason, message))
    return tuple(actions)


def complaints(outcomes: Iterable[Outcome]) -> tuple[Action, ...]:
    """An Event on the resource of each pod that the server refused, one for each distinct reason."""
    events: dict[EmitEvent, None] = {}
    for outcome in outcomes:
        action = outcome.action
        if not isinstance(action, CreatePod | TryPod) or not _is_refused(outcome):
            continue
        metadata = action.manifest["metadata"]
        for owner in metadata.get("ownerReferences") or ():
            place = (owner["kind"], metadata["namespace"], owner["name"], owner["uid"])
            words = words_of(action.manifest, outcome.message)
            events[EmitEvent(*place, "Warning", "PodRefused", words)] = None
    return tuple(events)


def _is_refused(outcome: Outcome) -> bool:
    """Whether no pod came of it; of one that was only tried, that none would, even with room."""
    if isinstance(outcome.action, TryPod):
        return outcome.refusal not in (None, Refusal.OVER_QUOTA)
    return outcome.result == "failed"


def remembered(actions: Iterable[Action], reported: Iterable[Outcome]) -> tuple[Action, ...]:
    """The actions without those that rest on a status which could not be written.

    Failures are counted in the status: a pod that failed is deleted only once that is so. And the
    status says which record of a plan is ours: no other is written before.
    """
    untold = {
        outcome.action.namespace
        for outcome in reported
        if isinstance(outcome.action, PatchStatus) and outcome.result != DONE
    }
    return tuple(
        a
        for a in actions
        if not (isinstance(a, DeletePod) and a.namespace in untold and a.reason not in UNCOUNTED)
        and not (isinstance(a, ApplyObject) and a.is_record and target_of(a)[1] in untold)
    )


def _says(resource: ResourceFacts, reason: str) -> bool:
    status: Mapping[str, Any] = resource.document.get("status") or {}
    return any(
        c.get("type") == STALLED and c.get("status") == "True" and c.get("reason") == reason
        for c in status.get("conditions") or ()
    )


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
