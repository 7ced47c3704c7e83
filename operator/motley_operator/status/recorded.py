"""Of a resource that holds still: the plan that waits, and what tells its own record from any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator.api import ResourceStatus
from motley_operator.api.status import RecordStatus
from motley_operator.domain.actions import EmitEvent
from motley_operator.domain.names import plan_name
from motley_operator.domain.standing import Held, Proposal, fingerprint, spec_hash, written
from motley_operator.domain.translation import Translation
from motley_operator.status.planned import plan_status
from motley_operator.status.proposed import ROLLED_BACK, Preview, proposed_status
from motley_operator.status.statements import Case


def preview_of(
    place: tuple[str, str, str], key: str, translation: Translation, held: Held
) -> Preview | None:
    """What is known of a resource in Preview or Disabled; None of any other."""
    standing = translation.standing.get(key)
    if standing is None:
        return None
    proposal = held.proposals.get(key, Proposal())
    return Preview(standing, proposal, place, held.records.get(key))


def recorded(
    translation: Translation, case: Case, old: tuple[str, ResourceStatus]
) -> dict[str, Any]:
    """The plan that waits, the last approval that was looked at, and the record of what stands."""
    key, status = old
    told: dict[str, Any] = {}
    preview = case.preview
    if preview is not None and preview.record is not None:
        part = preview.record.part
        shown = plan_status(part, case.observed, translation, None)
        told["proposedPlan"] = _document(proposed_status(preview, shown))
    handled = status.last_handled_approval
    if preview is not None and preview.standing.verdict:
        handled = preview.standing.request or handled
    if handled:
        told["lastHandledApproval"] = handled
    if preview is not None and preview.stands is not None:
        told["record"] = _record(preview)
    elif preview is not None and preview.standing.unknown:
        told["record"] = {"hash": "", "specHash": preview.standing.spec_hash}
    elif status.record is not None and (preview is not None or _waits(key, translation)):
        told["record"] = _document(status.record)
    return told


def _waits(key: str, translation: Translation) -> bool:
    """Whether the resource is not planned now, for whatever reason; its record stays."""
    return key in translation.frozen or key in translation.rejected


def _record(preview: Preview) -> Mapping[str, Any]:
    assert preview.stands is not None
    text, before = fingerprint(written(preview.stands)), preview.standing.accepted
    row = {"hash": text, "specHash": spec_hash(preview.stands.spec)}
    return row | ({"previousHash": before} if before not in ("", text) else {})


def record_events(place: tuple[str, str, str, str], preview: Preview | None) -> list[EmitEvent]:
    """Somebody wrote what only the operator writes; or what was approved is given up."""
    if preview is None:
        return []
    if preview.standing.verdict == ROLLED_BACK and not preview.is_preview:  # else a condition does
        words = f"{preview.standing.refusal}: the plan before is back in force"
        return [EmitEvent(*place, "Warning", ROLLED_BACK, words)]
    if not preview.standing.changed:
        return []
    then = "what runs is recorded anew"
    if preview.standing.unknown:
        then = "what runs is kept as it is until a plan of the present spec is approved"
    words = f"the record in ConfigMap {plan_name(place[2])} is not what was recorded: {then}"
    return [EmitEvent(*place, "Warning", "RecordChanged", words)]


def _document(model: RecordStatus | Any) -> dict[str, Any]:
    document: dict[str, Any] = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return document
