"""What every object of a resource has: name, labels, owner, and a seal over what was wanted.

The resource owns the object (controller, so that only one can; not blocking, so that deleting a
resource never waits). Others may add labels, annotations and fields that are not written here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motley_operator.domain.facts import ResourceFacts
from motley_operator.domain.names import API_VERSION, INPUTS_HASH, resource_labels

Manifest = dict[str, Any]
LONGEST_VALUE = 63  # characters of a label's value; source: Kubernetes, "Labels and Selectors"


@dataclass(frozen=True, slots=True)
class Owner:
    """The resource that objects are made for."""

    kind: str
    namespace: str
    name: str
    uid: str

    @staticmethod
    def of(resource: ResourceFacts) -> Owner:
        """The owner that a resource is."""
        return Owner(resource.kind, resource.namespace, resource.name, resource.uid)

    def metadata(self, name: str, component: str) -> Manifest:
        """Metadata of an object of this resource."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": resource_labels(self.kind, self.name, component),
            "ownerReferences": [self.reference()],
        }

    def reference(self) -> Manifest:
        """The owner as the owned name it."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }

    def selector(self, component: str) -> dict[str, str]:
        """Labels that select the pods of one component; stable, because selectors never change."""
        from_all = resource_labels(self.kind, self.name, component)
        return {key: from_all[key] for key in sorted(from_all) if not key.endswith("/name")}


def digest(value: Any) -> str:
    """Twelve hex digits over a plain value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def label_value(text: str) -> str:
    """The text as a label's value; of one that is too long its beginning, and a digest of all of it."""
    if len(text) <= LONGEST_VALUE:
        return text
    mark = digest(text)
    return f"{text[: LONGEST_VALUE - 1 - len(mark)]}-{mark}"


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with a hash over itself, so that a field that is no longer wanted shows."""
    metadata = dict(manifest["metadata"])
    metadata["annotations"] = {**metadata.get("annotations", {}), INPUTS_HASH: digest(manifest)}
    return {**manifest, "metadata": metadata}


def pull_secrets(names: Sequence[str], given: Sequence[Mapping[str, Any]] = ()) -> Manifest:
    """The field imagePullSecrets of a pod, each name once, or nothing where there are none."""
    every = [*given, *({"name": name} for name in names)]
    once = {each.get("name"): dict(each) for each in every}
    return {"imagePullSecrets": list(once.values())} if once else {}
