"""Where a pod goes: pinned to a node that is there, or asking for one that an autoscaler adds.

A pod that asks selects the shape's labels and is pinned to nothing, so the scheduler finds no node
and Karpenter or cluster-autoscaler adds one. Pods of one claim need the same node, and keep those
of other claims away from it, so that what the plan packs on a node comes to lie on one: else the
first pods on a new node could take the room that the plan gave to others. Both rules look at
labels of pods in all namespaces, since the plan packs over namespaces.

Pods that the scheduler places, these and those without a GPU, keep off nodes with `motley.dev/exclude`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from motley_operator.api import Fleet, read
from motley_operator.api.shapes import NodeShape
from motley_operator.domain.claims import CLAIM, HOSTNAME, claim_of, is_coming, shape_of
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import EXCLUDE
from motley_operator.manifests.frame import Manifest
from motley_planner.domain.plan import Plan

# Autoscalers consolidate by evicting; only the plan moves what serves.
UNDISTURBED: Final[Mapping[str, str]] = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def placed(node: str, shape: NodeShape | None) -> Manifest:
    """The fields of a pod's spec that say where it goes."""
    if is_coming(node):
        selector = shape.selector if shape is not None else {}
        affinity = {**off_excluded_nodes(), **_together(claim_of(node))}
        return {"nodeSelector": selector, "affinity": affinity}
    at = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"affinity": _on_nodes({"matchFields": [at]})}


def off_excluded_nodes() -> Manifest:
    """The affinity of a pod whose node the scheduler chooses: no node that opted out by label.

    The opt-out is the value "true" and nothing else (translate/nodes.py), so nodes without the label and
    ones that say "false" are taken. Affinity cannot see the annotation of that name.
    """
    out = {"key": EXCLUDE, "operator": "NotIn", "values": ["true"]}
    return _on_nodes({"matchExpressions": [out]})


def _on_nodes(term: Mapping[str, Any]) -> Manifest:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {"nodeAffinity": required}


def _together(claim: str) -> Manifest:
    same: Manifest = {"key": CLAIM, "operator": "In", "values": [claim]}
    others: list[Manifest] = [
        {"key": CLAIM, "operator": "Exists"},
        {"key": CLAIM, "operator": "NotIn", "values": [claim]},
    ]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    return {
        "podAffinity": {required: [_on_one_host([same])]},
        "podAntiAffinity": {required: [_on_one_host(others)]},
    }


def _on_one_host(expressions: Iterable[Mapping[str, Any]]) -> Manifest:
    return {
        "topologyKey": HOSTNAME,
        "namespaceSelector": {},
        "labelSelector": {"matchExpressions": list(expressions)},
    }


def shape_tolerations(shape: NodeShape | None) -> list[Manifest]:
    """Tolerations of the taints that nodes of a shape carry."""
    given = shape.tolerations if shape is not None else ()
    return [t.model_dump(by_alias=True, exclude_none=True) for t in given]


def shapes_by_node(plan: Plan, facts: ClusterFacts) -> Mapping[str, NodeShape]:
    """The shape of each node of the plan or the cluster that has one which may be bought."""
    fleet = read(facts.fleet)[0] if facts.fleet is not None else None
    shapes = [s for s in fleet.spec.shapes if s.buys] if isinstance(fleet, Fleet) else []
    if not shapes:
        return {}
    by_name = {shape.name: shape for shape in shapes}
    found = {
        node.name: next(shape for shape in shapes if shape.is_of(node.labels))
        for node in facts.nodes
        if any(shape.is_of(node.labels) for shape in shapes)
    }
    planned = {n for part in plan.slices for r in part.replicas for n in r.nodes}
    coming = {n: by_name[shape_of(n)] for n in planned if is_coming(n) and shape_of(n) in by_name}
    return {**found, **coming}
