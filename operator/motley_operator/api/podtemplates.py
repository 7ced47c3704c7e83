"""What a pod template may not say, because the plan or the cluster's safety decides it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from motley_operator.api.findings import Finding, Path

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
_HOST_FIELDS: Mapping[str, str] = {
    "hostNetwork": "pods do not share the node's network: remove it",
    "hostPID": "pods do not see the node's processes: remove it",
    "hostIPC": "pods do not share the node's IPC: remove it",
    "hostUsers": "pods do not share the node's users: remove it",
}
_LISTS = ("containers", "initContainers", "volumes", "tolerations", "imagePullSecrets")
_GPUS = ("nvidia.com/", "amd.com/gpu", "gpu.intel.com/")
_OURS = ("motley.dev/", "app.kubernetes.io/")
_HARMLESS_CAPABILITIES = frozenset(("IPC_LOCK",))


def template_findings(template: Mapping[str, Any] | None, at: Path) -> Iterator[Finding]:
    """Each field of a template that is refused."""
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
    for name, fix in _HOST_FIELDS.items():
        if spec.get(name) not in (None, False):
            yield _refused((*at, name), f"podTemplate may not set {name}: {fix}")
    broken = [name for name in _LISTS if not _objects(spec.get(name))]
    for name in broken:
        yield _refused((*at, name), f"{name} is not a list of objects: write a list")
    if broken:
        return
    for i, volume in enumerate(spec.get("volumes") or ()):
        if "hostPath" in volume:
            yield _refused(
                (*at, "volumes", i, "hostPath"),
                "podTemplate may not mount the node's disk: use a PersistentVolumeClaim or emptyDir",
            )
    for group in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(group) or ()):
            yield from _container(container, (*at, group, i))


def _container(container: Mapping[str, Any], at: Path) -> Iterator[Finding]:
    if not isinstance(container.get("name"), str):
        yield _refused((*at, "name"), "a container has no name: name it (the engine's is engine)")
    yield from _security(container.get("securityContext"), (*at, "securityContext"))
    resources = container.get("resources")
    for kind in ("requests", "limits"):
        wanted = resources.get(kind) if isinstance(resources, Mapping) else None
        for name in wanted if isinstance(wanted, Mapping) else ():
            if str(name).startswith(_GPUS) or str(name).endswith("/gpu"):
                yield _refused(
                    (*at, "resources", kind, name),
                    f"the plan sets {name}: remove it (parallelism steers how many GPUs a pod gets)",
                )
    ports = container.get("ports")
    for i, port in enumerate(ports if isinstance(ports, list | tuple) else ()):
        if isinstance(port, Mapping) and port.get("hostPort"):
            fix = "use the resource's gateway"
            message = f"podTemplate may not take a port of the node: {fix}"
            yield _refused((*at, "ports", i, "hostPort"), message)


def _security(security: Any, at: Path) -> Iterator[Finding]:
    if not isinstance(security, Mapping):
        return
    if security.get("privileged") not in (None, False):
        message = "podTemplate may not ask for privileged containers: remove it"
        yield _refused((*at, "privileged"), message)
    if security.get("allowPrivilegeEscalation") not in (None, False):
        message = "podTemplate may not let a process gain privileges: remove it"
        yield _refused((*at, "allowPrivilegeEscalation"), message)
    capabilities = security.get("capabilities")
    added = capabilities.get("add") if isinstance(capabilities, Mapping) else None
    names = added if isinstance(added, list | tuple) else () if added is None else (added,)
    more = [str(name) for name in names if str(name) not in _HARMLESS_CAPABILITIES]
    if more:
        message = f"podTemplate may not add the capability {', '.join(more)}: remove it"
        yield _refused((*at, "capabilities", "add"), message)


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
