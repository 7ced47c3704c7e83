"""Statuses and events that differ from what the resources have.

A status is written when its hash, a condition or a count of ready replicas changes; figures that
change with every solve are no reason to write.
"""

from __future__ import annotations

import logging
from typing import Any

from motley_operator import lifecycle
from motley_operator.api import (
    ModelCascade,
    Quantity,
    Resource,
    ResourceStatus,
    RLJob,
    ServingPool,
)
from motley_operator.api.ignored import not_acted_on
from motley_operator.api.status import Condition
from motley_operator.demand import Settled
from motley_operator.domain.actions import Action, EmitEvent, PatchStatus
from motley_operator.domain.facts import ClusterFacts, ResourceFacts
from motley_operator.domain.names import REPLAN_REQUESTED, gateway_name
from motley_operator.domain.replans import Shown, is_replan, replan_of
from motley_operator.domain.standing import Held
from motley_operator.domain.translation import Translation
from motley_operator.errors import ResourceFailed, about
from motley_operator.status.checkpoints import saving
from motley_operator.status.conditions import conditions, flipped, shortened, timestamp
from motley_operator.status.empties import without_empty_maps
from motley_operator.status.fleet import fleet_statuses
from motley_operator.status.inputs import frozen_inputs
from motley_operator.status.observed import Observed, observe
from motley_operator.status.planned import plan_status
from motley_operator.status.proposed import ROLLED_BACK, Preview, approval
from motley_operator.status.recorded import preview_of, record_events, recorded
from motley_operator.status.refused import Pods
from motley_operator.status.statements import Case, statements
from motley_operator.status.suspects import suspect_events, suspect_row, waiting
from motley_operator.status.weights import UNDER_WAY
from motley_planner.domain.plan import Plan, Slice

TOLD = (
    "Accepted", "Planned", "Approved", "Ready", "DemandMeasured", "WeightsReady", "Queued", "Checkpointing", "Complete", "Failed", "Suspended",
)  # fmt: skip
_QUIET = ("Accepted", "Planned", "Measured", "Idle", "WarmingUp", "NotRunning")
# A spec that cannot be read takes none of these from what runs on.
_STAYS = ("address", "failures", "progress", "startTime", "completionTime", "record")
_NOTHING_HELD = Held()
_ALL_TAKEN = Pods()

logger = logging.getLogger(__name__)


def statuses(
    plan: Plan,
    translation: Translation,
    facts: ClusterFacts,
    held: Held = _NOTHING_HELD,
    pods: Pods = _ALL_TAKEN,
) -> tuple[Action, ...]:
    """PatchStatus and EmitEvent of every resource, and of the Fleet, that has news."""
    observed = observe(facts)
    slices = {part.key: part for part in plan.slices}
    actions: list[Action] = []
    for resource in facts.resources:
        if resource.deleting:
            continue
        part = slices.get(resource.key)
        try:
            with about(resource.key):
                place = (resource.kind, resource.namespace, resource.name)
                preview = preview_of(place, resource.key, translation, held)
                view = (translation, observed[resource.key], facts.now)
                actions += _resource(resource, part, plan, (*view, preview, pods))
        except ResourceFailed:
            if resource.key not in translation.set_aside:
                raise
            logger.exception("%s cannot even be told that it is set aside", resource.key)
    return (*actions, *fleet_statuses(plan, translation, facts))


def _resource(
    resource: ResourceFacts,
    part: Slice | None,
    plan: Plan,
    view: tuple[Translation, Observed, float, Preview | None, Pods],
) -> list[Action]:
    translation, observed, now, preview, pods = view
    model, old = translation.parsed.get(resource.key), _old(resource)
    suspects = translation.suspicions.in_force(resource.key, now)
    case = Case(
        kind=resource.kind,
        part=waiting(part, suspects),
        observed=observed,
        rejected=translation.rejected.get(resource.key, ()),
        ignored=not_acted_on(model) if isinstance(model, Resource) else (),
        held=translation.frozen.get(resource.key, ""),
        phase=_phase(model, observed, now),
        solved=plan.status != "no_solution",
        measured=_settled(translation.demands.get(resource.key)),
        preview=preview,
        suspects=suspects,
        saving=saving(observed.engines, translation.lost_nodes),
        now=now,
        refused=pods.refused.get(resource.key, ()),
        tried=pods.tried.get(resource.key, frozenset()),
    )
    said = statements(case)
    if preview is not None and preview.is_preview and case.solved:
        said = (*said, approval(preview, old))
    made = conditions(said, old.conditions, resource.generation, now)
    status: dict[str, Any] = {
        "observedGeneration": resource.generation,
        "conditions": [_document(condition) for condition in made],
    }
    if part is not None and case.solved and not (_runs_on(part, observed, old) or case.waits):
        status["plan"] = _document(plan_status(part, observed, translation, old.plan))
    elif old.plan is not None and case.phase not in lifecycle.GONE:
        status["plan"] = _document(old.plan)
    changed = part if "plan" in status and status["plan"]["hash"] == _hash(part) else None
    if changed is not None and not is_replan(changed, plan, _shown(old)):
        changed = None
    cause = translation.suspicions.causes.get(resource.key, "")
    lately = translation.moved_lately.get(resource.key, 0)
    replan = _last_replan(changed, plan, old, (cause, lately, now))
    if replan is not None:
        status["lastReplan"] = replan
    status |= _extras(resource, model, case, (old, now)) | recorded(
        translation, case, (resource.key, old)
    )
    known = translation.suspicions.known.get(resource.key, ())
    if known:
        status["suspects"] = [suspect_row(one) for one in known]
    status = without_empty_maps(status)
    place = (resource.kind, resource.namespace, resource.name, resource.uid)
    warnings = record_events(place, preview)
    if _same(status, dict(resource.document.get("status") or {})):
        return [*warnings]
    events = [
        *warnings,
        *suspect_events(place, known, old, now),
        *_events(place, made, old, (status, changed)),
    ]
    return [PatchStatus(*place, status), *events]


def _settled(found: object) -> Settled | None:
    return found if isinstance(found, Settled) else None


def _shown(old: ResourceStatus) -> Shown | None:
    return Shown(old.plan.hash, old.plan.replicas) if old.plan is not None else None


def _hash(part: Slice | None) -> str | None:
    return part.hash if part is not None else None


def _runs_on(part: Slice, observed: Observed, old: ResourceStatus) -> bool:
    """A refused spec leaves the old plan running: that is then what the status shows."""
    if part.replicas or not part.refusals or old.plan is None:
        return False
    return any(not pod.deleting and not pod.terminal for pod in observed.engines)


def _phase(model: object, observed: Observed, now: float) -> str:
    return lifecycle.phase_of(model, observed.engines, now) if isinstance(model, RLJob) else ""


def _old(resource: ResourceFacts) -> ResourceStatus:
    try:
        return ResourceStatus.model_validate(resource.document.get("status") or {})
    except ValueError:
        return ResourceStatus()  # written by hand or by another version: write it anew


def _document(model: Any) -> dict[str, Any]:
    document: dict[str, Any] = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return document


def _last_replan(
    part: Slice | None, plan: Plan, old: ResourceStatus, about: tuple[str, int, float]
) -> dict[str, Any] | None:
    """The change of plan that a slice is; without one the last stays.

    `about` is the cause of a loss, how many were stopped for money lately, and the time.
    """
    cause, lately, now = about
    last = _document(old.last_replan) if old.last_replan is not None else None
    if part is None:
        return last
    made = replan_of(part, plan, cause)
    moved_at = (last or {}).get("movedAt")
    if made.stopped or (made.started and cause):
        moved_at = timestamp(now)
    told = {
        "tier": made.tier.value,
        "reason": made.reason,
        "message": f"{made.counts}, {made.cost}",
        "started": made.started,
        "stopped": made.stopped,
        "kept": made.kept,
        "flipped": made.flipped,
        "costDollars": Quantity.of(made.cost_usd, 2),
        "time": timestamp(now),
    }
    saved = {name: row for name, row in (last or {}).items() if name in ("savedAt", "savedStops")}
    if made.stopped and part.key in plan.saving:
        saved = {"savedAt": timestamp(now), "savedStops": lately + made.stopped}
    return told | ({"movedAt": moved_at} if moved_at else {}) | saved


def _extras(
    resource: ResourceFacts, model: object, case: Case, context: tuple[ResourceStatus, float]
) -> dict[str, Any]:
    old, now = context
    extras: dict[str, Any] = {"inputs": frozen_inputs(case.observed, old.inputs)}
    requested = resource.annotations.get(REPLAN_REQUESTED)
    if requested:
        extras["lastHandledReplanAt"] = requested[:64]
    elif old.last_handled_replan_at:
        extras["lastHandledReplanAt"] = old.last_handled_replan_at
    if isinstance(model, ServingPool | ModelCascade):
        host = f"{gateway_name(resource.name)}.{resource.namespace}.svc"
        extras["address"] = {"url": f"http://{host}:{model.spec.gateway.port}"}
        demand = case.measured.demand if case.measured is not None else model.status.demand
        if demand is not None and model.spec.workload.demand == "Measured":
            extras["demand"] = _document(demand)
    if isinstance(model, RLJob):
        extras |= _job_extras(model, case, now)
    if model is None:
        written = resource.document.get("status")
        before = written if isinstance(written, dict) else {}
        extras |= {name: before[name] for name in _STAYS if name in before}
    return extras


def _job_extras(job: RLJob, case: Case, now: float) -> dict[str, Any]:
    status = job.status
    extras: dict[str, Any] = {"failures": lifecycle.failures(job, case.observed.engines)}
    if status.progress is not None:
        extras["progress"] = _document(status.progress)
    started = status.start_time or (
        timestamp(now) if case.phase == lifecycle.Phase.RUNNING else None
    )
    if started:
        extras["startTime"] = started
    if case.phase in lifecycle.FINAL:
        extras["completionTime"] = status.completion_time or timestamp(now)
    return extras


def _same(new: dict[str, Any], old: dict[str, Any]) -> bool:
    return _significant(new) == _significant(old)


def _significant(status: dict[str, Any]) -> dict[str, Any]:
    known = without_empty_maps(status)
    kept = {k: v for k, v in known.items() if k != "lastReplan" and v not in (None, [])}
    if isinstance(kept.get("plan"), dict):
        kept["plan"] = {k: v for k, v in kept["plan"].items() if v not in (None, [])}
    return kept


def _events(
    place: tuple[str, str, str, str],
    made: tuple[Condition, ...],
    old: ResourceStatus,
    news: tuple[dict[str, Any], Slice | None],
) -> list[EmitEvent]:
    """One event a flip, and one a change of plan."""
    status, part = news
    events = []
    for condition in flipped(made, old.conditions, TOLD):
        bad = condition.type == "Failed" or condition.reason == ROLLED_BACK
        bad = bad or (
            condition.status == "False"
            and condition.type in ("Accepted", "Planned", "DemandMeasured", "WeightsReady")
            and condition.reason not in UNDER_WAY
        )
        kind = "Warning" if bad else "Normal"
        if condition.type == "Ready" and condition.status == "True":
            events.append(EmitEvent(*place, kind, "Ready", condition.message))
        elif condition.type != "Ready" and (bad or condition.reason not in _QUIET):
            message = shortened(condition.message or condition.type, 1000)
            events.append(EmitEvent(*place, kind, condition.reason, message))
    if part is not None:
        replan = status["lastReplan"]
        told = f"{replan['tier']}: {replan['message']} ({replan['reason']})"
        message = f"{told}; {part.price_usd_per_hour:.2f} $/h"
        events.append(EmitEvent(*place, "Normal", "Replanned", message))
    return events
