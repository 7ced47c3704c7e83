"""The store's content as one frozen value; nothing decides on a partial view."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from motley_operator.connection import CUSTOM
from motley_operator.domain.facts import ClusterFacts, Document, PodFacts, ResourceFacts
from motley_operator.domain.measurement import Reading
from motley_operator.errors import FactsIncomplete
from motley_operator.facts.pods import MANAGED_BY, MANAGER
from motley_operator.facts.quotas import default_priority_class
from motley_operator.facts.resources import parse_resource
from motley_operator.facts.store import Store

CLASS_ANNOTATION = "motley.dev/class"
_Owner = tuple[str, str, str]  # kind, namespace, name


def gather(store: Store, now: float | None = None, reading: Reading | None = None) -> ClusterFacts:
    """Everything one cycle looks at, in an order that does not depend on who came first.

    Pods and objects that belong to resources of another operator (another class, or a namespace
    out of scope) are handed on as foreign: they take room, and nobody here touches them. A Fleet of
    another class is read like one's own, and told of by the other operator.

    Raises: FactsIncomplete while any collection has not been read, or could not be for too long.
    """
    problems = store.problems()
    if problems:
        raise FactsIncomplete("; ".join(problems))
    every = [parse_resource(kind, d) for kind in CUSTOM for d in store.documents(kind)]
    own_class = store.settings.resource_class
    others = {_owner(r) for r in every if _class_of(r.annotations) != own_class}
    scope = _Scope(frozenset(store.settings.namespaces), frozenset(others))

    fleets = {d["metadata"]["name"]: d for d in store.documents("Fleet")}
    fleet = fleets.get("default")
    owned = [
        (kind, d) for kind in store.owned for d in store.documents(kind) if scope.has(d["metadata"])
    ]
    return ClusterFacts(
        now=time.time() if now is None else now,
        nodes=tuple(sorted(store.nodes.values(), key=lambda node: node.name)),
        pods=tuple(
            p if not p.labels or scope.covers(p.namespace, p.labels) else _foreign(p)
            for p in sorted(store.pods.values(), key=lambda pod: (pod.namespace, pod.name, pod.uid))
        ),
        resources=tuple(sorted((r for r in every if _owner(r) not in others), key=lambda r: r.key)),
        fleet=fleet,
        tells_fleet=fleet is not None
        and _class_of(fleet["metadata"].get("annotations") or {}) == own_class,
        owned={
            (kind, d["metadata"]["namespace"], d["metadata"]["name"]): d
            for kind, d in sorted(owned, key=lambda pair: _place(*pair))
        },
        priority_classes={
            d["metadata"]["name"]: int(d.get("value") or 0)
            for d in store.documents("PriorityClass")
        },
        default_priority_class=default_priority_class(store.documents("PriorityClass")),
        quotas=_sorted(store.values("ResourceQuota")),
        limit_ranges=_sorted(store.values("LimitRange")),
        slices=tuple(sorted(store.values("ResourceSlice"), key=lambda one: str(one.name))),
        config_maps=store.config_maps(),
        served=store.served(),
        reading=reading,
    )


def _sorted(limits: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(limits, key=lambda each: (each.namespace, each.name)))


@dataclass(frozen=True, slots=True)
class _Scope:
    namespaces: frozenset[str]  # empty: all
    others: frozenset[_Owner]

    def covers(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """True for what belongs to a resource that this operator plans."""
        owner = (
            labels.get("motley.dev/kind", ""),
            namespace,
            labels.get("motley.dev/resource", ""),
        )
        return owner not in self.others and (not self.namespaces or namespace in self.namespaces)

    def has(self, metadata: Mapping[str, Any]) -> bool:
        """The same of an object's metadata."""
        return self.covers(metadata.get("namespace") or "", metadata.get("labels") or {})


def _foreign(pod: PodFacts) -> PodFacts:
    labels = {k: v for k, v in pod.labels.items() if (k, v) != (MANAGED_BY, MANAGER)}
    kept = {k: v for k, v in labels.items() if not k.startswith("motley.dev/")}
    return replace(pod, labels=kept, annotations={})


def _class_of(annotations: Mapping[str, str]) -> str:
    return annotations.get(CLASS_ANNOTATION, "")


def _owner(resource: ResourceFacts) -> _Owner:
    return (resource.kind, resource.namespace, resource.name)


def _place(kind: str, document: Document) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return (kind, metadata.get("namespace") or "", metadata["name"])
