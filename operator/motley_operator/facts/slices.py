"""ResourceSlices as facts: the GPUs that drivers of dynamic resource allocation offer on a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator.domain.facts import Device, SliceFacts

_GPU_DRIVERS = ("gpu", "gaudi")  # how the first label of a GPU driver's name reads
# What a driver calls a GPU as a whole: most, and gpu.amd.com (its docs/driver-attributes.md).
_WHOLE = ("gpu", "amdgpu")
_GPU_IDS = ("uuid", "pciBusID", "pciAddr")  # pciAddr: AMD's GPUs that are partitioned on demand


def parse_slice(document: Mapping[str, Any]) -> SliceFacts:
    """The facts of one ResourceSlice (resource.k8s.io/v1, v1beta2 or v1beta1).

    A GPU, its partitions, and the same GPU passed through to a virtual machine are devices of one
    list. Drivers of other things have none here.
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
        devices=frozenset(map(_device, spec.get("devices") or ())) if is_gpus else frozenset(),
    )


def _device(device: Mapping[str, Any]) -> Device:
    said = device.get("basic") or device  # v1beta1 has a device's attributes one level down
    attributes = {
        name.rpartition("/")[2]: value.get("string")
        for name, value in (said.get("attributes") or {}).items()
    }
    kind, name = str(attributes.get("type") or _WHOLE[0]), str(device.get("name"))
    # A MIG device has a UUID of its own, and says its GPU's.
    parent = attributes.get("parentUUID")
    known = (
        (parent, *map(attributes.get, _GPU_IDS[1:])) if parent else map(attributes.get, _GPU_IDS)
    )
    gpu_ids = frozenset(str(each) for each in known if each)
    return Device(name, "" if kind in _WHOLE else kind, gpu_ids or frozenset({name}))
