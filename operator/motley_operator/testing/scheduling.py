"""The scheduler for pods without a pin, as far as Motley writes such: selector, taints, room, affinity.

An independent reading of the pods' specs as Kubernetes documents them; it knows nothing of claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from motley_operator.domain.facts import NodeFacts, PodFacts
from motley_operator.testing.world import World
from motley_operator.translate.room import fits, held, room_left

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_OPERATORS = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, values: value is not None,
}


def schedule(world: World) -> dict[str, str]:
    """Bind every waiting pod without a pin that fits a node now; pod -> node of those bound."""
    bound = {}
    for place, pod in sorted(world.pods.items()):
        spec = world.specs.get(place)
        if spec is None or pod.node is not None or pod.deleting or pod.terminal:
            continue
        for name in sorted(world.nodes):
            if _admits(world, world.nodes[name], pod, spec):
                world.pods[place] = replace(pod, node=name, bound=True, phase="Running", ready=True)
                bound[pod.name] = name
                break
    return bound


def _admits(world: World, node: NodeFacts, pod: PodFacts, spec: Mapping[str, Any]) -> bool:
    selected = spec.get("nodeSelector", {}).items() <= node.labels.items()
    tolerated = all(
        any(
            t.get("key") == taint.key and t.get("effect") in (None, taint.effect)
            for t in spec["tolerations"]
        )
        for taint in node.taints
    )
    usable = node.ready and not node.unschedulable
    room = room_left(world.facts())[node.name]
    placed = usable and selected and tolerated and _wanted(node, spec)
    return placed and fits(held(pod), room) and _near(world, node, spec)


def _wanted(node: NodeFacts, spec: Mapping[str, Any]) -> bool:
    """Required node affinity: any of its terms."""
    required = spec["affinity"].get("nodeAffinity", {}).get(_REQUIRED, {})
    terms = required.get("nodeSelectorTerms")
    return terms is None or any(
        all(
            _OPERATORS[e["operator"]](node.labels.get(e["key"]), e.get("values", ()))
            for e in term["matchExpressions"]
        )
        for term in terms
    )


def _near(world: World, node: NodeFacts, spec: Mapping[str, Any]) -> bool:
    """Required pod affinity and anti-affinity by host, both over all namespaces."""
    live = [p for p in world.pods.values() if p.node is not None and not p.terminal]
    here = [p for p in live if p.node == node.name]
    affinity = spec["affinity"]
    for term in affinity.get("podAffinity", {}).get(_REQUIRED, ()):
        # The first pod of all that match may go anywhere; it must match its own term, as ours do.
        if any(_matches(term, p) for p in live) and not any(_matches(term, p) for p in here):
            return False
    return not any(
        _matches(term, p)
        for term in affinity.get("podAntiAffinity", {}).get(_REQUIRED, ())
        for p in here
    )


def _matches(term: Mapping[str, Any], pod: PodFacts) -> bool:
    assert term["namespaceSelector"] == {} and term["topologyKey"] == "kubernetes.io/hostname"
    return all(
        _OPERATORS[e["operator"]](pod.labels.get(e["key"]), e.get("values", ()))
        for e in term["labelSelector"]["matchExpressions"]
    )
