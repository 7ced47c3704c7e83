"""What a pod template may not say, because the plan or the cluster's safety decides it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from motley_operator.api.findings import Finding, Path
from motley_operator.api.podsecurity import security_findings

# Fields of a pod's spec that Motley decides, and what to do instead.
_DECIDED: Mapping[str, str] = {
    "nodeName": "the plan chooses the node: use placement instead",
    "nodeSelector": "the plan chooses the node: use placement.nodeSelector instead",
    "affinity": "the plan chooses the node: use placement instead",
    "topologySpreadConstraints": "the plan chooses the node: use placement instead",
    "restartPolicy": "Motley decides when a pod restarts: remove it",
    "hostname": "Motley names the pods: remove it",
    "subdomain": "Motley names the pods: remove it",
    "setHostnameAsFQDN": "Motley names the pods: remove it",
    "priorityClassName": "all pods of a resource have one: use spec.priorityClassName instead",
    "priority": "all pods of a resource have one: use spec.priorityClassName instead",
    "preemptionPolicy": "all pods of a resource have one: use spec.priorityClassName instead",
    "schedulingGates": "the plan pins pods to nodes: remove it",
    "resourceClaims": "the plan gives GPUs: remove it",
    "resources": "the plan gives GPUs: set the container's cpu and memory instead",
    "activeDeadlineSeconds": "Motley decides when a pod ends: remove it",
    "ephemeralContainers": "they are added to running pods only: remove it",
}
_LISTS = ("containers", "initContainers", "volumes", "tolerations", "imagePullSecrets")
_GPUS = ("nvidia.com/", "amd.com/gpu", "gpu.intel.com/")
_OURS = ("motley.dev/", "app.kubernetes.io/")


def template_findings(
    template: Mapping[str, Any] | None, at: Path, allow: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """Each field of a template that is refused; `allow` is the Fleet's `podTemplates.allow`."""
    if template is None:
        return
    for key in template:
        if key not in ("metadata", "spec"):
            yield _refused((*at, key), f"podTemplate has no field {key}: write metadata or spec")
    yield from _metadata(template.get("metadata"), (*at, "metadata"))
    spec = template.get("spec")
    if isinstance(spec, Mapping):
        yield from _spec(spec, (*at, "spec"))
    elif spec is not None:
        yield _refused((*at, "spec"), "podTemplate.spec is not an object: write a pod spec")
    yield from security_findings(template, at, allow)


def _metadata(metadata: Any, at: Path) -> Iterator[Finding]:
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        yield _refused(at, "podTemplate.metadata is not an object: write labels and annotations")
        return
    for key, values in metadata.items():
        if key not in ("labels", "annotations"):
            fix = "give labels and annotations only"
            yield _refused((*at, key), f"podTemplate may not set metadata.{key}: {fix}")
        elif not isinstance(values, Mapping):
            yield _refused((*at, key), f"metadata.{key} is not an object: write key: value lines")
        else:
            for name, value in values.items():
                if str(name).startswith(_OURS):
                    message = f"podTemplate may not set {name}: it belongs to Motley, remove it"
                    yield _refused((*at, key, name), message)
                elif not isinstance(value, str):
                    yield _refused((*at, key, name), f"{name} is not a string: put it in quotes")


def _spec(spec: Mapping[str, Any], at: Path) -> Iterator[Finding]:
    for name, fix in _DECIDED.items():
        if name in spec:
            yield _refused((*at, name), f"podTemplate may not set {name}: {fix}")
    broken = [name for name in _LISTS if not _objects(spec.get(name))]
    for name in broken:
        yield _refused((*at, name), f"{name} is not a list of objects: write a list")
    if broken:
        return
    for group in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(group) or ()):
            yield from _container(container, (*at, group, i))


def _container(container: Mapping[str, Any], at: Path) -> Iterator[Finding]:
    if not isinstance(container.get("name"), str):
        yield _refused((*at, "name"), "a container has no name: name it (the engine's is engine)")
    resources = container.get("resources")
    for kind in ("requests", "limits"):
        wanted = resources.get(kind) if isinstance(resources, Mapping) else None
        for name in wanted if isinstance(wanted, Mapping) else ():
            if str(name).startswith(_GPUS) or str(name).endswith("/gpu"):
                yield _refused(
                    (*at, "resources", kind, name),
                    f"the plan sets {name}: remove it (parallelism steers how many GPUs a pod gets)",
                )


def _objects(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(item, Mapping) for item in value)
    )


def _refused(path: Path, message: str) -> Finding:
    return Finding(path, "pod template", message, "semantic", "PodTemplateRefused")
