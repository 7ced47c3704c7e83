"""What a podTemplate may not say: the plan's own decisions, and ways out of the container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from motley_planner.domain.plan import Refusal

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe")
# Fields of a pod's spec that Motley decides, and what to use instead.
_DECIDED: Mapping[str, str] = {
    "nodeName": "use placement",
    "nodeSelector": "use placement.nodeSelector",
    "affinity": "use placement",
    "topologySpreadConstraints": "use placement",
    "restartPolicy": "leave it out",
    "hostname": "leave it out",
    "subdomain": "leave it out",
    "setHostnameAsFQDN": "leave it out",
    "priorityClassName": "use spec.priorityClassName",
    "priority": "use spec.priorityClassName",
    "preemptionPolicy": "use spec.priorityClassName",
    "schedulingGates": "leave it out",
    "resourceClaims": "leave it out",
    "resources": "set the container's resources",
    "activeDeadlineSeconds": "leave it out",
}
_HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")
_CONTAINER_DANGERS = ("privileged", "allowPrivilegeEscalation")
_LISTS = (
    "containers",
    "initContainers",
    "volumes",
    "tolerations",
    "imagePullSecrets",
    "ephemeralContainers",
)
_PREFIX = "motley.dev/"


def template_refusals(path: str, template: Mapping[str, Any] | None) -> Iterator[Refusal]:
    """Why a pod template is refused, field by field; nothing where it may be merged."""
    if template is None:
        return
    for key in template:
        if key not in ("metadata", "spec"):
            yield _invalid(f"{path}.{key}", "is no field of a pod template", "use metadata or spec")
    yield from _metadata(f"{path}.metadata", template.get("metadata"))
    spec = template.get("spec")
    if spec is None:
        return
    if not isinstance(spec, Mapping):
        yield _invalid(f"{path}.spec", "is not an object", "write a pod spec")
        return
    yield from _spec(f"{path}.spec", spec)


def _metadata(path: str, metadata: Any) -> Iterator[Refusal]:
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        yield _invalid(path, "is not an object", "write labels and annotations")
        return
    for key, values in metadata.items():
        if key not in ("labels", "annotations"):
            yield _invalid(f"{path}.{key}", "is decided by Motley", "give labels and annotations")
        elif not isinstance(values, Mapping):
            yield _invalid(f"{path}.{key}", "is not an object", "write key: value lines")
        else:
            for name, value in values.items():
                if str(name).startswith((_PREFIX, "app.kubernetes.io/")):
                    yield _invalid(f"{path}.{key}[{name}]", "belongs to Motley", "leave it out")
                elif not isinstance(value, str):
                    yield _invalid(f"{path}.{key}[{name}]", "is not a string", "put it in quotes")


def _spec(path: str, spec: Mapping[str, Any]) -> Iterator[Refusal]:
    for field, instead in _DECIDED.items():
        if field in spec:
            yield _invalid(f"{path}.{field}", "is decided by the plan", instead)
    for field in _HOST_FIELDS:
        if spec.get(field) not in (None, False):
            yield _forbidden(f"{path}.{field}")
    broken = [f for f in _LISTS if not _objects(spec.get(f))]
    for field in broken:
        yield _invalid(f"{path}.{field}", "is not a list of objects", "write a list")
    if broken:
        return
    for index, volume in enumerate(spec.get("volumes") or ()):
        if "hostPath" in volume:
            yield _forbidden(f"{path}.volumes[{index}].hostPath")
    for name in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(name) or ()):
            yield from _container(f"{path}.{name}[{index}]", container)


def _container(path: str, container: Mapping[str, Any]) -> Iterator[Refusal]:
    if not isinstance(container.get("name"), str):
        yield _invalid(f"{path}.name", "is missing", "name the container (the engine's is engine)")
    security = container.get("securityContext")
    if isinstance(security, Mapping):
        for field in _CONTAINER_DANGERS:
            if security.get(field) not in (None, False):
                yield _forbidden(f"{path}.securityContext.{field}")
        added = (security.get("capabilities") or {}).get("add")
        if added and set(added) - {"IPC_LOCK"}:
            yield _forbidden(f"{path}.securityContext.capabilities.add")
    resources = container.get("resources")
    for side in ("requests", "limits"):
        amounts = resources.get(side) if isinstance(resources, Mapping) else None
        for name in amounts if isinstance(amounts, Mapping) else ():
            if name in GPU_RESOURCES:
                field = f"{path}.resources.{side}[{name}]"
                yield _invalid(field, "is decided by the plan", "leave it out")
    if any("hostPort" in p for p in container.get("ports") or () if isinstance(p, Mapping)):
        yield _forbidden(f"{path}.ports.hostPort")


def _objects(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(item, Mapping) for item in value)
    )


def _invalid(field: str, problem: str, lift: str) -> Refusal:
    return Refusal("InvalidSpec", field, f"{field.rpartition('.')[2]} {problem}", lift)


def _forbidden(field: str) -> Refusal:
    name = field.rpartition(".")[2]
    return Refusal("InvalidSpec", field, f"{name} lets a pod out of its container", "leave it out")
