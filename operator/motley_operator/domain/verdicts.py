"""Whether the API server takes pods of a sort: its answer when one was made, or tried without being made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from motley_operator.domain.names import COLUMN, COMPONENT, INPUTS_HASH, STAGE, key_of


class Refusal(StrEnum):
    """Why no pod of a sort is taken."""

    INVALID = "Invalid"  # the pod itself makes no sense to the server
    FORBIDDEN = (
        "Forbidden"  # a rule: Pod Security, a LimitRange, a policy, a webhook, a missing right
    )
    OVER_QUOTA = "OverQuota"  # a full ResourceQuota: that ends when another pod goes


class Sort(NamedTuple):
    """Pods that the server judges alike: they differ in their names and nodes."""

    key: str  # of the resource
    stage: str  # or the component, of pods that are of no stage
    column: str
    inputs: str  # hash of what they are built from


def sort_of(manifest: Mapping[str, Any]) -> Sort:
    """The sort of a pod that is to be."""
    metadata = manifest["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    stage = labels.get(STAGE) or labels.get(COMPONENT, "")
    key, inputs = key_of(labels, metadata["namespace"]), annotations.get(INPUTS_HASH, "")
    return Sort(key, stage, labels.get(COLUMN, ""), inputs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the server said of a sort of pods."""

    until: float  # Unix seconds; from then on it is asked again
    refusal: Refusal | None = None  # None: it takes them
    words: str = ""  # the server's, without the pod's name
    is_made: bool = False  # one was to be made, and not only tried

    @property
    def holds(self) -> bool:
        """Whether nothing that runs may make way for such a pod: it would never come."""
        return self.refusal in (Refusal.INVALID, Refusal.FORBIDDEN)


class Refused(NamedTuple):
    """A stage of which pods are wanted that the server does not take."""

    stage: str
    verdict: Verdict
