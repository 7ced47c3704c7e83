"""What the pods that Motley makes request: the numbers that manifests write and quotas count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator.admission.merging import with_template
from motley_operator.domain.names import CONTAINER
from motley_planner.domain.snapshot import PodNeed

GPU_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/xe"}
GATEWAY = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}


def engine_resources(vendor: str, gpus: int, need: PodNeed) -> dict[str, Any]:
    """Resources of the container of one engine or trainer pod with so many GPUs."""
    return {
        "requests": {
            "cpu": f"{need.cpu_milli_per_gpu * gpus}m",
            "memory": str(need.memory_bytes_per_gpu * gpus),
        },
        "limits": {GPU_RESOURCES[vendor]: gpus},
    }


def engine_spec(
    resources: Mapping[str, Any], template: Mapping[str, Any] | None, priority_class: str
) -> dict[str, Any]:
    """The part of an engine pod's spec that quotas and limit ranges look at."""
    containers = [{"name": CONTAINER, "resources": resources}]
    pod = {"metadata": {}, "spec": {"containers": containers}}
    return _with_priority(with_template(pod, template)["spec"], priority_class)


def gateway_spec(priority_class: str) -> dict[str, Any]:
    """The same of a gateway pod."""
    return _with_priority(
        {"containers": [{"name": "gateway", "resources": GATEWAY}]}, priority_class
    )


def _with_priority(spec: dict[str, Any], priority_class: str) -> dict[str, Any]:
    return {**spec, "priorityClassName": priority_class} if priority_class else spec
