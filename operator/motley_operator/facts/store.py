"""The operator's view of the cluster: collections kept true by reflectors.

The store wakes the cycle when something changed that a plan can depend on, and only then: a node's
heartbeat parses to equal NodeFacts, and a foreign pod matters only on a node with GPUs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from motley_operator.connection import CUSTOM, KINDS, OLDER, OPTIONAL, Client, owned_kinds
from motley_operator.domain.facts import NodeFacts, PodFacts, SliceFacts
from motley_operator.domain.quotas import LimitRangeFacts, QuotaFacts
from motley_operator.facts.collection import Collection
from motley_operator.facts.heartbeats import node_gist
from motley_operator.facts.nodes import parse_node
from motley_operator.facts.pods import MANAGED_BY, MANAGER, parse_pod
from motley_operator.facts.quotas import parse_limit_range, parse_quota
from motley_operator.facts.reflector import Reflector, Scope
from motley_operator.facts.resources import config_map_references, planned_part, trimmed
from motley_operator.facts.slices import parse_slice
from motley_operator.settings import Settings

_CLUSTER_KINDS = ("Fleet", "PriorityClass")
_OURS = {"labelSelector": f"{MANAGED_BY}={MANAGER}"}

Document = Mapping[str, Any]
Reference = tuple[str, str]  # namespace and name of a ConfigMap


class Store:
    """Everything a cycle may look at; `wake(cause)` is called for each planned change."""

    def __init__(self, client: Client, settings: Settings, wake: Callable[[str], None]) -> None:
        self.settings = settings
        self._client, self._wake = client, wake
        self.owned = owned_kinds(settings.network_policies, settings.provisioning_requests)
        self._gpu_nodes: Counter[str] = Counter()  # by name: two of one name while a LIST is taken
        self.nodes: Collection[NodeFacts] = Collection(parse_node, self._node_changed)
        self.pods: Collection[PodFacts] = Collection(parse_pod, self._pod_changed)
        self._reflectors = list(self._make_reflectors())
        self._uses: Counter[Reference] = Counter()
        self._planned_in: Counter[str] = Counter()  # resources by namespace
        self._references: dict[Reference, Reflector] = {}
        self._following: dict[Reference, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for reflector in self._reflectors:
                group.create_task(reflector.run(), name=f"reflect {reflector.kind.plural}")

    def documents(self, kind: str) -> Iterator[Document]:
        """Every object of a kind that is kept whole."""
        for reflector in self._reflectors:
            if reflector.kind.name == kind:
                yield from reflector.collection.values()

    def values(self, kind: str) -> Iterator[Any]:
        """Every object of a kind that is kept as facts (ResourceQuota, LimitRange, ResourceSlice)."""
        return self.documents(kind)

    def config_maps(self) -> dict[Reference, Mapping[str, str]]:
        """Data of the ConfigMaps that resources refer to; those not found are absent."""
        return {
            reference: document.get("data") or {}
            for reference, reflector in self._references.items()
            for document in reflector.collection.values()
        }

    def problems(self) -> list[str]:
        """Why the view is not whole, one sentence a collection; empty when it is."""
        stale_s = self.settings.stale_after_s
        found = [
            f"{r.kind.plural}: {r.error or 'not read yet'}"
            for r in self._reflectors
            if not r.collection.complete or r.failing_for_s() > stale_s
        ]
        # A ConfigMap that may not be read counts as not found: one resource's mistake must not
        # hold up all others. Only the moment before the first answer counts as not whole.
        return found + [
            f"configmap {namespace}/{name}: not read yet"
            for (namespace, name), r in self._references.items()
            if not r.collection.complete and r.failed == 0
        ]

    def absorb(self, kind: str, document: Document) -> None:
        """Take the server's answer to a write of ours, so that the next gather has it."""
        namespace = document["metadata"].get("namespace") or ""
        for reflector in self._reflectors:
            if reflector.kind.name == kind and reflector.namespace in ("", namespace):
                reflector.collection.absorb(document)

    def version(self, kind: str, uid: str) -> int:
        """The resourceVersion of what is known of an object; 0 if nothing is."""
        known = (r.collection.version(uid) for r in self._reflectors if r.kind.name == kind)
        return max(known, default=0)

    def is_behind(self, kind: str, document: Document) -> bool:
        """True if `document` is news to us."""
        namespace = document["metadata"].get("namespace") or ""
        return any(
            r.collection.is_behind(document)
            for r in self._reflectors
            if r.kind.name == kind and r.namespace in ("", namespace)
        )

    def forget(self, kind: str, uid: str) -> None:
        """Drop an object of which the server says that it is gone."""
        for reflector in self._reflectors:
            if reflector.kind.name == kind:
                known = reflector.collection.forget(uid)
                if kind in CUSTOM and known is not None:
                    self._count(known, -1)  # its deletion, when it is heard, is no news

    def served(self) -> frozenset[str]:
        """Optional kinds of ours that the server has and shows."""
        kinds = [r for r in self._reflectors if r.kind.name in OPTIONAL]
        return frozenset(r.kind.name for r in kinds) - {r.kind.name for r in kinds if r.absent}

    def lists(self) -> int:
        """LISTs made so far; at rest this stands still."""
        return sum(r.lists for r in (*self._reflectors, *self._references.values()))

    def _make_reflectors(self) -> Iterator[Reflector]:
        # Nodes and pods are read cluster-wide in every mode: other people's pods take room too.
        yield self._reflector(self.nodes, Scope(KINDS["Node"], gist=node_gist))
        yield self._reflector(self.pods, Scope(KINDS["Pod"]))
        slices: Collection[Any] = Collection(parse_slice, self._slice_changed)
        yield self._reflector(
            slices, Scope(KINDS["ResourceSlice"], optional=True, older=OLDER["ResourceSlice"])
        )
        for kind in _CLUSTER_KINDS:
            yield self._whole(Scope(KINDS[kind]))
        for namespace in self.settings.namespaces or ("",):
            for kind in CUSTOM:
                yield self._whole(Scope(KINDS[kind], namespace))
            for kind in self.owned:
                yield self._whole(Scope(KINDS[kind], namespace, _OURS, kind in OPTIONAL))
            for kind, parse in (("ResourceQuota", parse_quota), ("LimitRange", parse_limit_range)):
                limits: Collection[Any] = Collection(parse, self._limits_changed)
                yield self._reflector(limits, Scope(KINDS[kind], namespace))

    def _reflector(self, collection: Collection[Any], scope: Scope) -> Reflector:
        return Reflector(self._client, collection, scope, lambda: self._wake("Contact"))

    def _whole(self, scope: Scope) -> Reflector:
        kind = scope.kind

        def changed(old: Document | None, new: Document | None) -> None:
            self._document_changed(kind.name, old, new)

        return self._reflector(Collection(lambda d: trimmed(kind, d), changed), scope)

    def _node_changed(self, old: NodeFacts | None, new: NodeFacts | None) -> None:
        had = old is not None and old.gpu_resource is not None
        has = new is not None and new.gpu_resource is not None
        for node, is_one, by in ((old, had, -1), (new, has, +1)):
            if node is not None and is_one:
                _count(self._gpu_nodes, node.name, by)
        told = new is not None and bool(new.refused or new.aside)
        if (had or has or told) and old != new:
            self._wake("Node")

    def _pod_changed(self, old: PodFacts | None, new: PodFacts | None) -> None:
        if old == new:
            return
        for pod in (old, new):
            if pod and (pod.labels or pod.node in self._gpu_nodes or self._is_limited(pod)):
                self._wake("Pod")
                return

    def _slice_changed(self, old: SliceFacts | None, new: SliceFacts | None) -> None:
        """Only other GPUs are news; drivers publish their slices anew all the time."""
        devices = [one.devices if one is not None else frozenset() for one in (old, new)]
        if devices[0] != devices[1]:
            self._wake("Devices")

    def _is_limited(self, pod: PodFacts) -> bool:
        """Whether the pod takes of a quota that some resource is planned under."""
        return self._planned_in[pod.namespace] > 0 and any(
            quota.namespace == pod.namespace for quota in self.values("ResourceQuota")
        )

    def _limits_changed(
        self, old: QuotaFacts | LimitRangeFacts | None, new: QuotaFacts | LimitRangeFacts | None
    ) -> None:
        """What is used counts as well: a pod that waits for room in a quota may come now."""
        known = new or old
        if known is not None and old != new and self._planned_in[known.namespace] > 0:
            self._wake("Quota")

    def _document_changed(self, kind: str, old: Document | None, new: Document | None) -> None:
        if kind in CUSTOM:
            for document, by in ((old, -1), (new, +1)):
                if document:
                    self._count(document, by)
        before = planned_part(kind, old) if old else None
        if before != (planned_part(kind, new) if new else None):
            self._wake(kind)

    def _count(self, document: Document, by: int) -> None:
        """Count a resource in, or out, of its namespace and of what it refers to."""
        _count(self._planned_in, document["metadata"].get("namespace") or "", by)
        self._count_references(document, by)

    def _count_references(self, document: Document, by: int) -> None:
        """Follow each ConfigMap that a resource refers to, one watch a name, and no others."""
        for reference in config_map_references(document):
            self._uses[reference] += by
            if self._uses[reference] > 0 and reference not in self._references:
                self._follow(reference)
            elif self._uses[reference] <= 0:
                # An edit takes the old reference off before it puts the new one on, so the watch
                # of a ConfigMap that stays in use is looked at again when the loop is free.
                asyncio.get_running_loop().call_soon(self._drop_unused, reference)

    def _follow(self, reference: Reference) -> None:
        namespace, name = reference
        selector = {"fieldSelector": f"metadata.name={name}"}
        reflector = self._whole(Scope(KINDS["ConfigMap"], namespace, selector))
        self._references[reference] = reflector
        if self._group:
            self._following[reference] = self._group.create_task(reflector.run())

    def _drop_unused(self, reference: Reference) -> None:
        if self._uses[reference] <= 0:
            del self._uses[reference]
            self._references.pop(reference, None)
            if task := self._following.pop(reference, None):
                task.cancel()


def _count(counts: Counter[str], name: str, by: int) -> None:
    """Count in or out; of what is gone nothing is kept."""
    counts[name] += by
    if not counts[name]:
        del counts[name]
