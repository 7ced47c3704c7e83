"""Custom resources and objects of ours: kept whole, less what no decision reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from motley_operator.connection import Kind
from motley_operator.domain.facts import ResourceFacts
from motley_operator.facts.pods import MANAGER, is_ours

# Content of another system: what looks like a reference in there is none of ours.
_OPAQUE = frozenset({"podTemplate", "config", "architecture"})
# The Deployment controller counts its revisions here.
_NOISE = "deployment.kubernetes.io/"


def trimmed(kind: Kind, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without most of managedFields, which are most of its size.

    Of what is ours other managers' are kept: nobody has any there but who takes what is ours.
    Items of a LIST do not say what they are; here every document does.
    """
    metadata = {k: v for k, v in document["metadata"].items() if k != "managedFields"}
    rows = document["metadata"].get("managedFields") or () if is_ours(document) else ()
    if others := [row for row in rows if _is_anothers(row)]:
        metadata["managedFields"] = others
    return {"apiVersion": kind.api_version, "kind": kind.name, **document, "metadata": metadata}


def _is_anothers(row: Mapping[str, Any]) -> bool:
    """Whether an entry of managedFields is neither ours nor a controller's of some status."""
    return row.get("manager") != MANAGER and row.get("subresource") != "status"


def parse_resource(kind: str, document: Mapping[str, Any]) -> ResourceFacts:
    """The facts of one custom resource."""
    metadata = document["metadata"]
    return ResourceFacts(
        kind=kind,
        namespace=metadata.get("namespace") or "",
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        generation=int(metadata.get("generation") or 1),
        deleting="deletionTimestamp" in metadata,
        annotations=metadata.get("annotations") or {},
        document=document,
    )


def config_map_references(document: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """(namespace, name) of each ConfigMap that a resource's spec reads."""
    namespace = document["metadata"].get("namespace") or ""
    return frozenset((namespace, name) for name in _names(document.get("spec") or {}))


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for field, inner in value.items():
            if field in ("configMapKeyRef", "configMapRef") and isinstance(inner, Mapping):
                if inner.get("name"):
                    yield str(inner["name"])
            elif field not in _OPAQUE:
                yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def planned_part(kind: str, document: Mapping[str, Any]) -> tuple[Any, ...]:
    """The part of a document whose change is worth a cycle.

    Status counts where someone else's status is our fact: a Deployment's ready replicas, and a
    custom resource's own status, which must say what we last wrote.
    """
    metadata = document["metadata"]
    content = {k: v for k, v in document.items() if k not in ("metadata", "status")}
    status: Any = document.get("status")
    if kind == "Deployment":
        names = ("observedGeneration", "replicas", "readyReplicas", "updatedReplicas")
        status = tuple((status or {}).get(name) for name in names)
    elif kind == "Job":
        told = status or {}
        rows = [(c.get("type"), c.get("status")) for c in told.get("conditions") or ()]
        status = (rows, *(told.get(name) for name in ("active", "failed", "succeeded")))
    elif kind in ("PodDisruptionBudget", "Service"):
        status = None
    return (
        metadata.get("labels"),
        {k: v for k, v in (metadata.get("annotations") or {}).items() if not k.startswith(_NOISE)},
        metadata.get("ownerReferences"),
        "deletionTimestamp" in metadata,
        content,
        status,
    )
