"""Pods that wait for nodes, asked for by ProvisioningRequests: all nodes of a resource, or none.

A request refers to PodTemplates, one for each sort of pod of each claim, with what the scheduler looks
at and nothing else: no environment, no arguments. The pods name the request they consume, so
that cluster-autoscaler adds nothing for them besides. A request cannot be edited. One that is there
goes on while a pod of its claims waits; claims that none names get a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from motley_operator.api.shapes import NodeShape
from motley_operator.domain.claims import CLAIM, node_of, shape_of
from motley_operator.domain.facts import ClusterFacts, Document
from motley_operator.domain.names import COMPONENT, REPLICA, key_of
from motley_operator.domain.purchases import (
    CLAIMS,
    CLASS,
    CONSUMES,
    REQUEST,
    TEMPLATE,
    live_requests,
)
from motley_operator.manifests.frame import Manifest, digest, sealed

NODES = "nodes"
MOST_SETS = 32  # of one request; source: its CRD
_OURS = ".autoscaling.x-k8s.io"  # classes that cluster-autoscaler itself has
_PARTS = ("image", "resources", "restartPolicy")
_PLACING = ("nodeSelector", "affinity", "tolerations", "priorityClassName", "runtimeClassName")


def with_requests(
    manifests: Sequence[Manifest], shapes: Mapping[str, NodeShape], facts: ClusterFacts
) -> list[Manifest]:
    """The manifests, with requests before the pods that consume them."""
    asking = [m for m in manifests if _shape(m, shapes) is not None]
    if not asking:
        return list(manifests)
    live = live_requests(facts)
    requests: dict[tuple[str, str], Manifest] = {}
    names: dict[tuple[str, str], str] = {}
    uncovered: dict[tuple[str, str], list[Manifest]] = {}
    for pod in asking:
        at = (_key(pod), _claim(pod))
        if at in live:
            found = dict(live[at])
            names[at] = found["metadata"]["name"]
            requests[_place(found)] = found
            requests |= _templates_of(found, facts)
        else:
            shape = shape_of(node_of(at[1]))
            uncovered.setdefault((at[0], shape), []).append(pod)
    for (key, name), pods in sorted(uncovered.items()):
        for request, templates in _requests(pods, shapes[name]):
            requests |= {_place(m): m for m in (*templates, request)}
            for claim in request["metadata"]["annotations"][CLAIMS].split(","):
                names[key, claim] = request["metadata"]["name"]
    annotated = [_consuming(m, shapes, names) for m in manifests]
    return [*requests.values(), *annotated]


def _shape(manifest: Manifest, shapes: Mapping[str, NodeShape]) -> NodeShape | None:
    """The shape that a pod waits for, if such are asked for by requests."""
    if manifest["kind"] != "Pod" or not (claim := _claim(manifest)):
        return None
    shape = shapes.get(shape_of(node_of(claim)))
    return shape if shape is not None and shape.provision == REQUEST else None


def _consuming(
    pod: Manifest, shapes: Mapping[str, NodeShape], names: Mapping[tuple[str, str], str]
) -> Manifest:
    shape = _shape(pod, shapes)
    if shape is None:
        return pod
    metadata = pod["metadata"]
    more = {CONSUMES: names[_key(pod), _claim(pod)], CLASS: shape.provisioning_class}
    annotations = {**metadata.get("annotations", {}), **more}
    return {**pod, "metadata": {**metadata, "annotations": annotations}}


def _requests(
    pods: Sequence[Manifest], shape: NodeShape
) -> Iterable[tuple[Manifest, list[Manifest]]]:
    """Requests of one resource for nodes of one shape, as few as their limit of sets allows."""
    claims: dict[str, dict[str, list[Manifest]]] = {}
    for pod in pods:
        template = _template(pod)
        claims.setdefault(_claim(pod), {}).setdefault(digest(template), []).append(template)
    batch: list[str] = []
    sets = 0
    for claim in sorted(claims):
        if batch and sets + len(claims[claim]) > MOST_SETS:
            yield _request(pods[0], shape, {c: claims[c] for c in batch})
            batch, sets = [], 0
        batch.append(claim)
        sets += len(claims[claim])
    yield _request(pods[0], shape, {c: claims[c] for c in batch})


def _request(
    pod: Manifest, shape: NodeShape, claims: Mapping[str, Mapping[str, Sequence[Manifest]]]
) -> tuple[Manifest, list[Manifest]]:
    metadata = pod["metadata"]
    sorts = [(claim, alike) for claim in claims for alike in claims[claim].values()]
    stem = f"{metadata['labels']['motley.dev/resource']}-{NODES}"
    name = f"{stem}-{digest([(claim, len(alike), alike[0]) for claim, alike in sorts])[:8]}"
    labels = {**_common(metadata["labels"]), COMPONENT: NODES}
    common = {
        "namespace": metadata["namespace"],
        "labels": labels,
        "ownerReferences": metadata["ownerReferences"],
    }
    templates = [
        sealed(
            {
                "apiVersion": "v1",
                "kind": TEMPLATE,
                "metadata": {**common, "name": f"{name}-{i}"},
                "template": alike[0],
            }
        )
        for i, (_, alike) in enumerate(sorts)
    ]
    spec: Manifest = {
        "provisioningClassName": shape.provisioning_class,
        "podSets": [
            {"podTemplateRef": {"name": f"{name}-{i}"}, "count": len(alike)}
            for i, (_, alike) in enumerate(sorts)
        ],
    }
    if shape.provisioning_class.endswith(_OURS):
        spec["parameters"] = {"ValidUntilSeconds": str(int(shape.patience_s))}
    annotations = {CLAIMS: ",".join(claims)}
    request = {
        "apiVersion": "autoscaling.x-k8s.io/v1",
        "kind": REQUEST,
        "metadata": {**common, "name": name, "annotations": annotations},
        "spec": spec,
    }
    return sealed(request), templates


def _template(pod: Manifest) -> Manifest:
    """What the scheduler looks at of a pod."""
    spec = pod["spec"]
    made: dict[str, Any] = {name: spec[name] for name in _PLACING if name in spec}
    for group in ("initContainers", "containers"):
        if spec.get(group):
            made[group] = [
                {"name": c["name"], **{part: c[part] for part in _PARTS if part in c}}
                for c in spec[group]
            ]
    labels = {CLAIM: _claim(pod), **_common(pod["metadata"]["labels"])}
    return {"metadata": {"labels": labels}, "spec": made}


def _common(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of everything of a resource; those of one replica would make it look like one."""
    one = (CLAIM, REPLICA, COMPONENT)
    kept = ("app.kubernetes.io/", "motley.dev/resource", "motley.dev/kind")
    return {k: v for k, v in labels.items() if k.startswith(kept) and k not in one}


def _templates_of(request: Document, facts: ClusterFacts) -> dict[tuple[str, str], Manifest]:
    namespace = request["metadata"]["namespace"]
    names = [each["podTemplateRef"]["name"] for each in request["spec"]["podSets"]]
    places = [(TEMPLATE, namespace, name) for name in names]
    there = (dict(facts.owned[place]) for place in places if place in facts.owned)
    return {_place(template): template for template in there}


def _place(manifest: Document) -> tuple[str, str]:
    return (manifest["kind"], f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}")


def _key(manifest: Document) -> str:
    return key_of(manifest["metadata"]["labels"], manifest["metadata"]["namespace"])


def _claim(manifest: Document) -> str:
    return str(manifest["metadata"].get("labels", {}).get(CLAIM, ""))
