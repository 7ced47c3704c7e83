"""A person's pod template over a built pod: strategic merge, as kubectl would do it.

Objects merge key by key; lists of named things merge by their key; other lists and scalars are
replaced. Labels and annotations that Motley writes win, and tolerations are added. What a template
may not say at all was refused before (`api.podtemplates`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
}


def with_template(pod: dict[str, Any], template: Mapping[str, Any] | None) -> dict[str, Any]:
    """The pod with a template merged over it."""
    if not template:
        return pod
    metadata, given = dict(pod["metadata"]), template.get("metadata") or {}
    for name in ("labels", "annotations"):
        metadata[name] = {**(given.get(name) or {}), **metadata.get(name, {})}
    spec = dict(template.get("spec") or {})
    added = spec.pop("tolerations", None) or []
    merged = _merged(pod["spec"], spec)
    merged["tolerations"] = [*merged.get("tolerations", ()), *added]
    return {**pod, "metadata": metadata, "spec": merged}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = _merged(old, value)
        elif key in _MERGE_KEYS and isinstance(value, list | tuple):
            result[key] = _merged_list(old or [], value, _MERGE_KEYS[key])
        elif value is not None:
            result[key] = value
    return result


def _merged_list(base: Any, over: Any, key: str) -> list[Any]:
    result = [dict(item) for item in base]
    at = {item.get(key): index for index, item in enumerate(result)}
    for item in over:
        index = at.get(item.get(key))
        if index is None:
            result.append(dict(item))
        else:
            result[index] = _one(result[index], item)
    return result


def _one(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = _merged(base, over)
    # An env entry has a value or a source, never both.
    if "value" in over:
        merged.pop("valueFrom", None)
    elif "valueFrom" in over:
        merged.pop("value", None)
    return merged
