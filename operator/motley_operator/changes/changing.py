"""Desired against observed: the ordered actions of one cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from motley_operator import lifecycle
from motley_operator.api import RLJob, read
from motley_operator.changes.contained import is_contained
from motley_operator.changes.gangs import waiting_gangs
from motley_operator.changes.judging import NO_TROUBLE, Trouble
from motley_operator.changes.keeping import kept_keys
from motley_operator.changes.pods import pod_changes, stranded
from motley_operator.changes.roles import role_changes
from motley_operator.changes.routing import with_standing_by
from motley_operator.changes.weights import given_up, refused_jobs, waiting_stages
from motley_operator.domain.actions import (
    Action,
    AdoptPod,
    ApplyObject,
    DeleteObject,
    EmitEvent,
    Manifest,
    is_record,
)
from motley_operator.domain.facts import ClusterFacts, Document, PodFacts
from motley_operator.domain.names import MANAGED_BY, OURS, key_of
from motley_operator.domain.purchases import REQUEST, TEMPLATE, why_over
from motley_operator.manifests.frame import Owner
from motley_operator.translate.room import is_engine
from motley_planner.domain.plan import Plan
from motley_planner.remembering import Memory, Same

Place = tuple[str, str, str]  # kind, namespace, name
_MADE_ONCE = frozenset(
    {"Job", TEMPLATE, REQUEST}
)  # cannot be edited; what it is made of is in its name
_THERE: Memory[bool] = Memory(65_536)  # of manifests and documents, which are never edited


def changes(
    desired: Sequence[Manifest],
    facts: ClusterFacts,
    plan: Plan,
    trouble: Trouble = NO_TROUBLE,
) -> tuple[Action, ...]:
    """What to do now: roles, objects, pods out of Services, deletions, creations, leftovers, old jobs.

    A second run on a world in which this was done gives nothing. Without a solution nothing is
    done at all: what runs goes on.
    """
    if plan.status == "no_solution":
        return ()
    ours = _engine_pods(facts)
    kept = kept_keys(facts, plan, ours)
    wanted = {_place(m): m for m in desired if _key(m) not in kept or is_record(m)}
    pods = {place[1:]: m for place, m in wanted.items() if place[0] == "Pod"}
    moving = {key: found for key, found in ours.items() if key not in kept}
    short = trouble.short | {part.key for part in plan.slices if part.refusals}
    ending = waiting_gangs(pods, facts, trouble)
    waiting = waiting_stages(wanted.values(), facts) | ending
    trouble = replace(trouble, short=short, waiting=waiting, kept=kept)
    moved = pod_changes(pods, moving, facts, trouble)
    lost = stranded((pod for key in sorted(kept) for pod in ours.get(key, ())), facts)
    others = {
        place: with_standing_by(m, facts.owned.get(place), moved.standing_by)
        for place, m in wanted.items()
        if place[0] != "Pod"
    }
    applied = [
        ApplyObject(manifest, *_seen(live := facts.owned.get(place)), _adopts(manifest, live))
        for place, manifest in others.items()
        if not _is_there(place, manifest, facts.owned.get(place))
    ]
    _THERE.keep(others.__contains__)
    return (
        *_adoptions(ours, facts),
        *role_changes(pods, (pod for each in moving.values() for pod in each)),
        *applied,
        *moved.actions,
        *lost,
        *_leftovers(others, facts, kept | {key for key, _ in ending}),
        *given_up(wanted.values(), facts),
        *refused_jobs(wanted.values(), facts),
        *_expired(facts),
    )


def _owners(facts: ClusterFacts) -> dict[str, str]:
    """UIDs by key of the resources that stay.

    One that is being deleted waits for finalizers, and what it owned may outlive it (`--cascade=orphan`):
    as with Deployments, the garbage collector does what the deletion asked for.
    """
    return {r.key: r.uid for r in facts.resources if not r.deleting}


def _engine_pods(facts: ClusterFacts) -> dict[str, list[PodFacts]]:
    """Engine pods by resource; those of one that is gone or going are the garbage collector's."""
    owners = _owners(facts)
    ours: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        key = key_of(pod.labels, pod.namespace)
        if is_engine(pod) and pod.belongs_to(owners.get(key)):
            ours.setdefault(key, []).append(pod)
    return ours


def _adoptions(ours: Mapping[str, list[PodFacts]], facts: ClusterFacts) -> list[Action]:
    """Pods that a resource of the same name left behind; other objects are applied with an owner."""
    owners = {r.key: Owner.of(r).reference() for r in facts.resources if not r.deleting}
    return [
        AdoptPod(pod.namespace, pod.name, pod.uid, owners[key])
        for key, pods in sorted(ours.items())
        for pod in pods
        if pod.owner_uid is None and not pod.deleting and key in owners
    ]


def _leftovers(
    wanted: Mapping[Place, Manifest], facts: ClusterFacts, kept: frozenset[str]
) -> list[Action]:
    """Objects of living resources that no plan wants any more.

    Those of a job stay while its trainers end: they find each other by its Services.
    """
    owners = _owners(facts)
    leftovers: list[Action] = []
    for place, live in sorted(facts.owned.items()):
        metadata = live["metadata"]
        key = _key(live)
        if place in wanted or key in kept or metadata.get("deletionTimestamp"):
            continue
        if metadata.get("labels", {}).get(MANAGED_BY) != OURS or key not in owners:
            continue
        if _owner(live) not in (owners[key], None):
            continue
        if place[0] == REQUEST and (why := why_over(live)):
            leftovers.append(_said(live, why))
        leftovers.append(DeleteObject(*place, metadata["uid"]))
    return leftovers


def _said(request: Document, why: str) -> EmitEvent:
    """The autoscaler's answer, on the resource: the request itself goes."""
    metadata = request["metadata"]
    kind, namespace, name = _key(request).split("/", 2)
    words = f"ProvisioningRequest {metadata['name']}: {why}"
    place = (kind, namespace, name, str(_owner(request) or ""))
    return EmitEvent(*place, "Warning", "NodesNotProvisioned", words)


def _expired(facts: ClusterFacts) -> list[Action]:
    """Jobs that have been finished for their ttlSecondsAfterFinished; what they own goes with them."""
    expired: list[Action] = []
    for resource in facts.resources:
        if resource.kind != "RLJob" or resource.deleting:
            continue
        model = read(resource.document)[0]
        if isinstance(model, RLJob) and lifecycle.is_expired(model, facts.now):
            place = (resource.kind, resource.namespace, resource.name)
            expired.append(DeleteObject(*place, resource.uid))
    return expired


def _is_there(place: Place, manifest: Manifest, live: Document | None) -> bool:
    if live is None or place[0] in _MADE_ONCE:
        return live is not None
    compared = (Same(manifest), Same(live))
    return _THERE.get(place, compared, lambda: is_contained(manifest, live))


def _seen(live: Document | None) -> tuple[str, str]:
    """UID and version of an object: what is written goes to this one, or to none."""
    metadata = live["metadata"] if live is not None else {}
    return metadata.get("uid", ""), metadata.get("resourceVersion", "")


def _adopts(manifest: Manifest, live: Document | None) -> bool:
    """Whether an object that nobody owns any more is to be somebody's."""
    return live is not None and _owner(live) is None and _owner(manifest) is not None


def _place(manifest: Manifest) -> Place:
    metadata = manifest["metadata"]
    return (manifest["kind"], metadata["namespace"], metadata["name"])


def _key(document: Document) -> str:
    metadata = document["metadata"]
    return key_of(metadata.get("labels") or {}, metadata["namespace"])


def _owner(document: Document) -> str | None:
    references = document["metadata"].get("ownerReferences") or ()
    return next((r["uid"] for r in references if r.get("controller")), None)
