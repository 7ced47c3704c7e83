"""Actions as HTTP requests, purely; what Motley may do to the cluster is this list.

Pods are created once by POST and never patched but for labels, what they say of their role and,
where they have none, the owner.
Everything else of ours is applied, forced, because the fields in our manifests are ours alone.
Deletions, patches of pods and applies carry the UID of the object that was seen, and statuses the
version, so that they never hit a successor of the same name. Applies carry the version, too, where
nobody but who edits an object changes it: what was meant for an earlier one is refused. (UID and
version are preconditions: server-side apply takes neither for a field that we own.)

What has no owner gets one only after the owner was asked for again (`owner_request`). An orphaning
deletion takes the owner off what it leaves while the resource is still there; one watch may tell of
that before the other tells of the deletion, and what is given back to the resource then ends with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from motley_operator.connection import KINDS, Sent
from motley_operator.connection.client import APPLY, MERGE
from motley_operator.domain.actions import (
    Action,
    AdoptPod,
    ApplyObject,
    ChangeRole,
    CreatePod,
    DeleteObject,
    DeletePod,
    EmitEvent,
    LabelPod,
    Manifest,
    PatchStatus,
    TryPod,
    Write,
)
from motley_operator.domain.names import COLUMN, UNIT
from motley_operator.settings import Settings

# Their status changes all the time, and with it their version.
_REPORTING = frozenset({"Deployment", "PodDisruptionBudget", "Job", "ProvisioningRequest"})


def request_for(action: Write, settings: Settings, version: int = 0) -> Sent:
    """The one request that carries out an action; `version` is the status' precondition."""
    match action:
        case CreatePod():
            return _create(action.manifest, settings)
        case TryPod():
            return _create(action.manifest, settings, {"dryRun": "All"})
        case DeletePod():
            return _delete("Pod", action.namespace, action.name, action.uid, action.grace_seconds)
        case DeleteObject():
            return _delete(action.kind, action.namespace, action.name, action.uid, None)
        case LabelPod():
            return _label(action, settings)
        case ChangeRole():
            told = {"labels": {COLUMN: action.column}, "annotations": {UNIT: action.unit}}
            return _merge(action, settings, told)
        case AdoptPod():
            return _adopt(action, settings)
        case ApplyObject():
            return _apply(action, settings)
        case PatchStatus():
            return _status(action, settings, version)


def given_to(action: Action) -> tuple[str, Manifest] | None:
    """Namespace and owner of what has no owner and gets one; None for other actions."""
    if isinstance(action, AdoptPod):
        return action.namespace, action.owner
    if isinstance(action, ApplyObject) and action.adopts:
        metadata = action.manifest["metadata"]
        return metadata["namespace"], metadata["ownerReferences"][0]
    return None


def owner_request(namespace: str, owner: Manifest) -> Sent:
    """What asks the server, and not a watch, for an owner."""
    kind = KINDS[owner["kind"]]
    named = {"fieldSelector": f"metadata.name={owner['name']}"}  # `list`: `get` is not granted
    return Sent("list", kind.plural, "GET", kind.path(namespace), named)


def is_going(owner: Manifest, answer: Mapping[str, Any]) -> bool:
    """Whether an owner that was asked for is being deleted, or is gone."""
    found = (item["metadata"] for item in answer.get("items") or ())
    return not any(m["uid"] == owner["uid"] and "deletionTimestamp" not in m for m in found)


def target_of(action: Action) -> tuple[str, str, str]:
    """Kind, namespace and name of what an action changes: two on one target keep their order."""
    match action:
        case CreatePod() | TryPod() | ApplyObject():
            metadata = action.manifest["metadata"]
            return action.manifest["kind"], metadata.get("namespace", ""), metadata["name"]
        case DeletePod() | LabelPod() | ChangeRole() | AdoptPod():
            return "Pod", action.namespace, action.name
        case EmitEvent():
            return "Event", action.namespace, f"{action.name}/{action.reason}"
        case _:
            return action.kind, action.namespace, action.name


def _create(
    manifest: Manifest, settings: Settings, more: Mapping[str, str] = MappingProxyType({})
) -> Sent:
    path = KINDS["Pod"].path(manifest["metadata"]["namespace"])
    params = {"fieldManager": settings.field_manager, **more}
    return Sent("create", "pods", "POST", path, params, manifest)


def _delete(kind: str, namespace: str, name: str, uid: str, grace_s: int | None) -> Sent:
    options: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }
    if grace_s is not None:
        options["gracePeriodSeconds"] = grace_s
    known = KINDS[kind]
    return Sent("delete", known.plural, "DELETE", known.path(namespace, name), body=options)


def _label(action: LabelPod, settings: Settings) -> Sent:
    return _merge(action, settings, {"labels": {action.label: action.value}})


def _adopt(action: AdoptPod, settings: Settings) -> Sent:
    return _merge(action, settings, {"ownerReferences": [action.owner]})


def _merge(
    action: LabelPod | ChangeRole | AdoptPod, settings: Settings, change: Mapping[str, Any]
) -> Sent:
    # A UID in a merge patch that is not the object's is refused: a precondition.
    metadata = {"uid": action.uid, **change}
    path = KINDS["Pod"].path(action.namespace, action.name)
    params = {"fieldManager": settings.field_manager}
    return Sent("patch", "pods", "PATCH", path, params, {"metadata": metadata}, MERGE)


def _apply(action: ApplyObject, settings: Settings) -> Sent:
    kind = KINDS[action.manifest["kind"]]
    metadata = action.manifest["metadata"]
    path = kind.path(metadata.get("namespace", ""), metadata["name"])
    params = {"fieldManager": settings.field_manager, "force": "true"}
    seen = {"uid": action.uid} if action.uid else {}
    if action.version and kind.name not in _REPORTING:
        seen["resourceVersion"] = action.version
    body = {**action.manifest, "metadata": {**metadata, **seen}} if seen else action.manifest
    return Sent("apply", kind.plural, "PATCH", path, params, body, APPLY)


def _status(action: PatchStatus, settings: Settings, version: int) -> Sent:
    kind = KINDS[action.kind]
    # The status subresource does not look at a UID, but at a version it does: a status never
    # lands on a successor of that name, nor does the write of one who has slept meanwhile.
    metadata = {"name": action.name, "resourceVersion": str(version)}
    if action.namespace:
        metadata["namespace"] = action.namespace
    body = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": metadata,
        "status": action.status,
    }
    path = kind.path(action.namespace, action.name, "status")
    params = {"fieldManager": settings.status_field_manager, "force": "true"}
    return Sent("apply", f"{kind.plural}/status", "PATCH", path, params, body, APPLY)
