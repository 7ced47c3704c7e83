"""What a pod template may not say, because the plan or the cluster's safety decides it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from motley_operator.api.findings import Finding, Path

_PLANNED = {
    "nodeName": "the plan chooses the node: use placement instead",
    "hostNetwork": "pods do not share the node's network: remove it",
    "hostPID": "pods do not see the node's processes: remove it",
    "hostIPC": "pods do not share the node's IPC: remove it",
    "restartPolicy": "Motley decides when a pod restarts: remove it",
}


def template_findings(template: Mapping[str, Any] | None, at: Path) -> Iterator[Finding]:
    """Each field of a template that is refused."""
    spec = (template or {}).get("spec")
    if not isinstance(spec, Mapping):
        return
    at = (*at, "spec")
    for name, fix in _PLANNED.items():
        if spec.get(name):
            yield _refused((*at, name), f"podTemplate may not set {name}: {fix}")
    for i, volume in enumerate(_rows(spec, "volumes")):
        if "hostPath" in volume:
            yield _refused(
                (*at, "volumes", i, "hostPath"),
                "podTemplate may not mount the node's disk: use a PersistentVolumeClaim or emptyDir",
            )
    for group in ("initContainers", "containers"):
        for i, container in enumerate(_rows(spec, group)):
            yield from _container(container, (*at, group, i))


def _container(container: Mapping[str, Any], at: Path) -> Iterator[Finding]:
    security = container.get("securityContext")
    if isinstance(security, Mapping) and security.get("privileged"):
        yield _refused(
            (*at, "securityContext", "privileged"),
            "podTemplate may not ask for privileged containers: remove it",
        )
    resources = container.get("resources")
    for kind in ("requests", "limits"):
        wanted = resources.get(kind) if isinstance(resources, Mapping) else None
        for name in wanted if isinstance(wanted, Mapping) else ():
            if str(name).endswith("/gpu"):
                yield _refused(
                    (*at, "resources", kind, name),
                    f"the plan sets {name}: remove it (parallelism steers how many GPUs a pod gets)",
                )


def _rows(spec: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = spec.get(name)
    return [r for r in rows if isinstance(r, Mapping)] if isinstance(rows, list) else []


def _refused(path: Path, message: str) -> Finding:
    return Finding(path, "pod template", message, "semantic", "PodTemplateRefused")
