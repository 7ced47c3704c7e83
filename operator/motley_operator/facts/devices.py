"""What counts as a GPU of a node: whole ones that a pod of ours can ask for, and each only once.

Shared GPUs (time slices, MPS), partitions (MIG, AMD's CPX and the like), virtual ones and devices of
vendors that no engine here runs on are refused by name. A node's own count of its GPUs (the label of
feature discovery) bounds what may be planned: whoever offers more than there are shares them.

Sources: NVIDIA GPU feature discovery and device plugin (labels gpu.count, .replicas,
.sharing-strategy, .product, mig.strategy; resources gpu.shared, mig-<profile>); GKE's
cloud.google.com/gke-gpu-*; AMD's node labeller (gpu.product-name, gpu.compute-memory-partition); Intel's
NFD rules (gpu.intel.com/product, device.count).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motley_operator.admission.quantities import whole

# Whole GPUs, in the order in which they are looked for: resource -> labels that name the product.
WHOLE: Mapping[str, tuple[str, ...]] = {
    "nvidia.com/gpu": ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator"),
    "amd.com/gpu": (
        "amd.com/gpu.product-name",
        "beta.amd.com/gpu.product-name",
        "amd.com/gpu.device-id",
    ),
    "gpu.intel.com/xe": ("gpu.intel.com/product",),
}
_COUNTS = {
    "nvidia.com/gpu": "nvidia.com/gpu.count",
    "gpu.intel.com/xe": "gpu.intel.com/device.count",
}
_AMD_PARTITION = (
    "amd.com/gpu.compute-memory-partition",
    "beta.amd.com/gpu.compute-memory-partition",
)
# Accelerators, by how their resources are called, that are said to be there and are not planned.
_OTHERS: tuple[tuple[str, str], ...] = (
    ("nvidia.com/gpu.shared", "shared GPUs are not planned: they share one memory"),
    ("nvidia.com/mig-", "MIG slices are not planned: only whole GPUs are"),
    ("amd.com/", "GPU partitions are not planned: only whole GPUs are"),
    ("gpu.intel.com/i915", "engine pods ask for gpu.intel.com/xe"),
    ("habana.ai/", "no engine of the catalog runs on Gaudi"),
    ("google.com/tpu", "no engine of the catalog runs on TPUs"),
    ("aws.amazon.com/neuron", "no engine of the catalog runs on Neuron"),
    ("huawei.com/Ascend", "no engine of the catalog runs on Ascend"),
)
_NO_DEVICE = ("_monitoring", ".core", ".millicores", "/millicores", "/tiles", "/memory.max")


@dataclass(frozen=True, slots=True)
class Devices:
    """The GPUs of a node."""

    resource: str | None = None  # what pods ask for; None: nothing to be planned
    label: str | None = None  # the product, as the node says it
    count: int = 0
    refused: str = ""  # why the GPUs of that product are not planned
    aside: tuple[tuple[str, str], ...] = ()  # further resources and why they are not planned


def devices(allocatable: Mapping[str, Any], labels: Mapping[str, str]) -> Devices:
    """What of a node's allocatable resources counts as GPUs."""
    counts = {name: whole(allocatable[name]) for name in allocatable if "/" in name}
    offered = [name for name in WHOLE if counts.get(name, 0) > 0]
    aside = [(name, why) for name in sorted(counts) if counts[name] and (why := _why_aside(name))]
    if not offered:
        named = [name for names in WHOLE.values() for name in names if labels.get(name)]
        label = labels[named[0]] if named else None
        return Devices(label=label, aside=tuple(aside))
    first, *rest = sorted(offered, key=lambda name: _product(name, labels) is None)
    aside += [(name, f"the node's {first} are planned, and one kind a node") for name in rest]
    refused = _why_refused(first, counts[first], labels)
    label = _product(first, labels)
    if refused:
        return Devices(None, label or first, 0, refused, tuple(aside))
    return Devices(first, label, counts[first], "", tuple(aside))


def _product(resource: str, labels: Mapping[str, str]) -> str | None:
    return next((labels[name] for name in WHOLE[resource] if labels.get(name)), None)


def _why_aside(resource: str) -> str | None:
    if resource in WHOLE or resource.endswith(_NO_DEVICE):
        return None
    return next((why for start, why in _OTHERS if resource.startswith(start)), None) or (
        "no such resource is known to the planner" if _is_like_a_gpu(resource) else None
    )


def _is_like_a_gpu(resource: str) -> bool:
    return resource.rpartition("/")[2] in ("gpu", "vgpu", "vgpu-number", "npu", "dcu", "mlu")


def _why_refused(resource: str, count: int, labels: Mapping[str, str]) -> str:
    """Why whole GPUs are none; empty where they are."""
    if resource == "nvidia.com/gpu":
        found = _why_no_nvidia(labels)
    else:
        found = _why_no_amd(labels) if resource == "amd.com/gpu" else ""
    there = _number(labels.get(_COUNTS.get(resource, "")))
    if not found and there is not None and count > there:
        return f"{count} are offered of {there} GPUs: shared GPUs are not planned"
    return found


def _why_no_nvidia(labels: Mapping[str, str]) -> str:
    strategy = labels.get("nvidia.com/gpu.sharing-strategy", "none")
    shared = labels.get("cloud.google.com/gke-gpu-sharing-strategy", strategy)
    replicas = _number(labels.get("nvidia.com/gpu.replicas")) or 1
    if shared not in ("", "none") or replicas > 1:
        how = shared if shared not in ("", "none") else "several a GPU"
        return f"shared GPUs ({how}) are not planned: they share one memory"
    slice_ = labels.get("cloud.google.com/gke-gpu-partition-size", "")
    if slice_ or "nvidia.com/gpu.slices.gi" in labels:
        return "MIG slices are not planned: only whole GPUs are"
    if labels.get("nvidia.com/vgpu.present") == "true":
        return "virtual GPUs are not planned: only whole GPUs are"
    return ""


def _why_no_amd(labels: Mapping[str, str]) -> str:
    partition = next((labels[name] for name in _AMD_PARTITION if labels.get(name)), "spx")
    if not partition.casefold().startswith("spx"):
        return f"GPU partitions ({partition}) are not planned: only whole GPUs are"
    return ""


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
