"""Which records in a resource's ConfigMap `<name>-plan` are the operator's own.

Whoever may write ConfigMaps could write another spec into the record of what stands, and pods would
be built from it. So the status, which only the operator writes, tells the hash of the text that was
recorded and of the spec in it. Another text is not read. What runs is then recorded anew with the
resource's spec, if that is the spec of the lost record; else nothing is built until a plan of the
present spec was approved. A status is written before the ConfigMap, so for as long as the
ConfigMap has the text before, the status tells that one's hash, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from motley_operator.api import ResourceStatus
from motley_operator.domain.facts import ClusterFacts, ResourceFacts
from motley_operator.domain.names import PROPOSED_KEY, STANDING_KEY, plan_name
from motley_operator.domain.standing import (
    Record,
    fingerprint,
    read_record,
    recorded_spec,
    seal,
    spec_hash,
)


@dataclass(frozen=True, slots=True)
class Records:
    """What is recorded of a resource, and what is to be thought of it."""

    standing: Record | None = None
    proposed: Record | None = None
    accepted: str = ""  # fingerprint of the text in which what stands is on the cluster
    changed: bool = False  # somebody wrote another record of what stands
    unknown: bool = (
        False  # what runs was made from another spec than the present one, which is lost
    )
    spec_hash: str = ""  # of the spec that what runs was made from; empty where nothing tells


def records(resource: ResourceFacts, status: ResourceStatus, facts: ClusterFacts) -> Records:
    """The records of a resource; the status decides where a write came in between."""
    place = ("ConfigMap", resource.namespace, plan_name(resource.name))
    live = facts.owned.get(place) or {}
    owners = (live.get("metadata") or {}).get("ownerReferences") or ()
    data = (live.get("data") or {}) if any(o.get("uid") == resource.uid for o in owners) else {}
    text = data.get(STANDING_KEY) or ""
    standing, proposed = read_record(text), read_record(data.get(PROPOSED_KEY))
    if proposed is not None:
        # What comes before it is no part of its hash: only what is told beside it counts.
        sound = seal(proposed) == proposed.hash
        proposed = replace(proposed, before=None) if sound else None  # somebody wrote into it
    if standing is not None and status.record is None:
        standing = replace(standing, before=None)
    own = _is_own(text, standing, status)
    accepted = fingerprint(text) if own else ""
    if proposed is not None and status.plan is not None and status.plan.hash == proposed.hash:
        return Records(proposed.after(standing if own else None), accepted=accepted)
    if own:
        return Records(standing, proposed, accepted)
    told = status.record.spec_hash if status.record is not None else ""
    if not told and standing is not None:
        told = spec_hash(standing.spec)  # nothing better is known, and it is only held against it
    present = spec_hash(recorded_spec(resource.document))
    unknown = told not in ("", present)
    return Records(None, proposed, changed=bool(text), unknown=unknown, spec_hash=told)


def _is_own(text: str, standing: Record | None, status: ResourceStatus) -> bool:
    if standing is None:
        return False
    told = status.record
    if told is not None:
        return fingerprint(text) in (told.hash, told.previous_hash)
    # Recorded by a version that told no such hash: one that was proposed is sealed by the plan's.
    plan = status.plan
    return plan is not None and seal(standing) == standing.hash == plan.hash
