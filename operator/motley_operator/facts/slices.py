"""ResourceSlices as facts: the GPUs that drivers of dynamic resource allocation offer on a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator.domain.facts import SliceFacts

_GPU_DRIVERS = ("gpu", "gaudi")  # how the first label of a GPU driver's name reads


def parse_slice(document: Mapping[str, Any]) -> SliceFacts:
    """The facts of one ResourceSlice (resource.k8s.io/v1, v1beta2 or v1beta1).

    A GPU and its partitions are devices of one list; only what is a GPU as a whole counts, each
    UUID once. Slices of no single node, and of drivers of other things, count nothing.
    """
    spec = document.get("spec") or {}
    driver, pool = str(spec.get("driver") or ""), spec.get("pool") or {}
    is_gpus = driver.partition(".")[0] in _GPU_DRIVERS
    return SliceFacts(
        name=document["metadata"]["name"],
        node=str(spec.get("nodeName") or ""),
        driver=driver,
        pool=str(pool.get("name") or ""),
        generation=int(pool.get("generation") or 0),
        gpus=frozenset(_gpu_ids(spec.get("devices") or ())) if is_gpus else frozenset(),
    )


def _gpu_ids(devices: Any) -> list[str]:
    found = []
    for device in devices:
        said = device.get("basic") or device  # v1beta1 has a device's attributes one level down
        attributes = {
            name.rpartition("/")[2]: value for name, value in (said.get("attributes") or {}).items()
        }
        kind = (attributes.get("type") or {}).get("string", "gpu")
        if kind == "gpu":
            uuid = (attributes.get("uuid") or {}).get("string")
            found.append(str(uuid or device.get("name")))
    return found
