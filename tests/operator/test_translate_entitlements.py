"""What the Fleet grants and offers, as the planner reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from motley_operator import translate
from motley_operator.domain.facts import Taint
from motley_operator.domain.translation import Translation
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, pool
from motley_planner.catalog import load_catalog
from motley_planner.domain.snapshot import Tenant

CATALOG = load_catalog()


def translated(world: World, **spec: Any) -> Translation:
    world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default"},
        "spec": spec,
    }
    return translate.translate(world.facts(), CATALOG, Settings())


def test_tenants_and_the_fleets_gpus_reach_the_planner() -> None:
    world = World().add_node(gpu_node("h0"))
    world.add(pool())
    found = translated(
        world,
        budget={"gpus": 24},
        tenants=[
            {"namespace": "team-a", "guaranteedShare": "30%", "weight": 4},
            {"namespace": "team-b"},
        ],
    )
    assert found.unmet == ()
    assert found.snapshot.budget_gpus == 24
    assert found.snapshot.tenants == (Tenant("team-a", 0.3, 4.0), Tenant("team-b", 0.0, 1.0))
    assert translated(world).snapshot.tenants == ()


def shape(**changes: Any) -> dict[str, Any]:
    return {
        "name": "l4x4",
        "gpuProduct": "NVIDIA-L4",
        "gpus": 4,
        "cpu": "64",
        "memory": "256Gi",
        "zone": "az-9",
        "dollarsPerHour": "2.8",
        "maxNodes": 5,
        "delay": "6m",
        **changes,
    }


def test_a_shape_is_a_node_with_a_price_a_maximum_and_a_delay() -> None:
    world = World().add_node(gpu_node("h0"))
    world.add(pool())
    (found,) = translated(world, shapes=[shape(capacityType="spot")]).snapshot.shapes
    assert (found.node_class.gpu, found.node_class.zone) == ("L4", "az-9")
    assert found.node_class.capacity_type == "spot"
    assert found.node_class.price_usd_per_gpu_hour == 0.7
    assert (found.gpus, found.cpu_milli, found.memory_bytes) == (4, 64_000, 256 * 2**30)
    assert (found.price_usd_per_hour, found.max_nodes, found.delay_hours) == (2.8, 5, 0.1)


def test_its_maximum_counts_what_stays_of_a_shape_that_is_bought_and_nothing_of_another() -> None:
    labels = {"pool": "bought"}
    world = World().add_node(gpu_node("h0"))
    for name in ("n0", "n1", "going", "deleted"):
        made = gpu_node(name, product="NVIDIA-L4", gpus=4, deleting=name == "deleted")
        world.add_node(replace(made, labels={**made.labels, **labels}))
    going = (Taint("karpenter.sh/disrupted", "", "NoSchedule"),)
    world.add_node(replace(world.nodes["going"], taints=going))
    one = shape(labels=labels)
    del one["zone"]
    for provision, left in (("Pods", 5 - 2), ("None", 5)):
        (found,) = translated(world, shapes=[one | {"provision": provision}]).snapshot.shapes
        assert found.max_nodes == left, provision


def test_a_shape_of_an_unknown_gpu_is_named_and_left_out() -> None:
    world = World().add_node(gpu_node("h0"))
    found = translated(world, shapes=[shape(), shape(name="odd", gpuProduct="Abacus-9000")])
    assert [s.name for s in found.snapshot.shapes] == ["l4x4"]
    assert [(r.reason, r.field) for r in found.unmet] == [
        ("UnknownGPU", "spec.shapes[1].gpuProduct")
    ]


def test_a_shape_without_the_labels_a_resource_asks_for_is_not_for_it() -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool(placement={"nodeSelector": {"disk": "nvme"}}))
    shapes = [shape(), shape(name="fast", labels={"disk": "nvme"})]
    plain, fast = translated(world, shapes=shapes).snapshot.shapes
    assert plain.node_class.excluded_for == {key}
    assert fast.node_class.excluded_for == frozenset()


def test_tolerance_of_losses_is_the_resources_own_and_else_the_fleets() -> None:
    world = World().add_node(gpu_node("h0"))
    world.add(pool("own", replan={"nodeLossTolerance": 0}))
    world.add(pool("plain"))
    found = translated(world, replan={"nodeLossTolerance": 2})
    by_name = {s.key.rpartition("/")[2]: s.node_loss_tolerance for s in found.snapshot.services}
    assert by_name == {"own": 0, "plain": 2}
