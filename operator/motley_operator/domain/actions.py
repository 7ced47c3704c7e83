"""What a cycle wants done, in order; `apply` is the only room that does any of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from motley_operator.domain.names import COMPONENT, PLAN
from motley_operator.domain.verdicts import Refusal

Manifest = dict[str, Any]


def is_record(manifest: Manifest) -> bool:
    """Whether an object of ours is the ConfigMap in which plans of a resource are remembered."""
    return bool((manifest["metadata"].get("labels") or {}).get(COMPONENT) == PLAN)


@dataclass(frozen=True, slots=True)
class CreatePod:
    """POST a pod; 409 means it is there already and is not an error."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class TryPod:
    """POST a pod as a dry run: nothing is made, and the server says whether it would take it."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete a pod with a UID precondition; 404 and 409 mean the world moved on."""

    namespace: str
    name: str
    uid: str
    reason: str
    grace_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class LabelPod:
    """Set (or, with None, take off) one label of a pod of ours."""

    namespace: str
    name: str
    uid: str
    label: str
    value: str | None


@dataclass(frozen=True, slots=True)
class ChangeRole:
    """Tell a running pod that it prefills from now on, or decodes: its process is the same.

    Column and unit are written in one request, so that it is read back in one role or the other.
    """

    namespace: str
    name: str
    uid: str
    column: str  # label motley.dev/column
    unit: str  # annotation motley.dev/unit


@dataclass(frozen=True, slots=True)
class AdoptPod:
    """Make a resource the owner of a pod that has none."""

    namespace: str
    name: str
    uid: str
    owner: Manifest


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Server-side apply an object of ours (field manager `motley`)."""

    manifest: Manifest
    uid: str = ""  # of the object that was seen; empty: there was none
    version: str = ""  # its resourceVersion
    adopts: bool = False  # it is there and has no owner

    @property
    def is_record(self) -> bool:
        """Whether it is what is remembered of a plan, which touches nothing that runs."""
        return is_record(self.manifest)


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete an object of ours that the plan no longer has."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class PatchStatus:
    """Server-side apply a resource's status (field manager `motley-status`)."""

    kind: str
    namespace: str  # "" for the Fleet
    name: str
    uid: str
    status: Manifest


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """A Kubernetes Event on a resource."""

    kind: str
    namespace: str
    name: str
    uid: str
    type: str  # Normal | Warning
    reason: str
    message: str


Write = (
    CreatePod
    | TryPod
    | DeletePod
    | LabelPod
    | ChangeRole
    | AdoptPod
    | ApplyObject
    | DeleteObject
    | PatchStatus
)
Action = Write | EmitEvent


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one action: done, conflict (the world moved) or failed, with the server's words.

    A pod that was tried is done once the server has answered, whatever it said.
    """

    action: Action
    result: str  # done | exists | conflict | failed
    message: str = ""
    refusal: Refusal | None = None  # of a pod: why the server will not have it


@dataclass(frozen=True, slots=True)
class CycleReport:
    """One cycle's outcome, for status, metrics and logs."""

    id: str
    started_at: float
    gather_seconds: float
    plan_seconds: float
    apply_seconds: float
    outcomes: tuple[Outcome, ...]
