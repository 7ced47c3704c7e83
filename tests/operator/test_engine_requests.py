"""What engine pods request beside GPUs is the Fleet's to say, and what the plan counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from motley_operator.domain.actions import CreatePod
from motley_operator.domain.facts import Room
from motley_operator.testing.operated import Operated
from motley_operator.testing.samples import gpu_node, pool

GIB = 2**30
FLEET: dict[str, Any] = {
    "apiVersion": "motley.dev/v1alpha1",
    "kind": "Fleet",
    "metadata": {"name": "default", "uid": "fleet", "generation": 1},
}


def with_small_nodes(requests: dict[str, Any] | None) -> Operated:
    """Nodes of one GPU, 3.9 cores and 14.5 GiB, as clouds sell them with four cores."""
    operated = Operated(nodes=0)
    for i in range(2):
        small = gpu_node(f"small-{i}", gpus=1)
        room = Room(1, 3900, int(14.5 * GIB), 100 * GIB, 58)
        operated.world.add_node(replace(small, allocatable=room))
    spec = {"engineRequests": requests} if requests else {}
    operated.world.fleet = {**FLEET, "spec": spec}
    operated.world.add(pool())
    return operated


def created(operated: Operated) -> list[dict[str, Any]]:
    """Resources of the engine pods that the first cycle makes."""
    pods = [a.manifest for a in operated.cycle().actions if isinstance(a, CreatePod)]
    return [
        container["resources"]
        for pod in pods
        for container in pod["spec"]["containers"]
        if container["name"] == "engine"
    ]


def test_a_node_with_too_few_cores_for_the_default_takes_no_engine() -> None:
    assert created(with_small_nodes(None)) == []


def test_what_the_fleet_says_is_planned_with_and_requested() -> None:
    found = created(with_small_nodes({"cpuPerGpu": "3500m", "memoryPerGpu": "12Gi"}))
    assert found
    for resources in found:
        assert resources["requests"]["cpu"] == "3500m"
        assert int(resources["requests"]["memory"]) == 12 * GIB


def test_half_of_it_may_be_said() -> None:
    assert created(with_small_nodes({"cpuPerGpu": 3})) == []  # memory is still the default's 16 GiB


def test_nothing_may_be_requested() -> None:
    found = created(with_small_nodes({"cpuPerGpu": 0, "memoryPerGpu": 0}))
    assert found
    assert {one["requests"]["cpu"] for one in found} == {"0m"}
