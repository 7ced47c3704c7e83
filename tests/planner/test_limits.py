"""Limits of resources, tenants and the fleet (quotas: test_quotas.py), through plan() on snapshots with catalog entries."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import (
    Budget,
    Placement,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan, Slice
from motley_planner.domain.snapshot import Shape, Snapshot, Tenant
from motley_planner.planning import plan

CATALOG = load_catalog()
GPU_PRICE = {"H100-SXM5-80GB": 6.88, "L40S": 1.86, "L4": 0.70}


def node_class(gpu: str, capacity: str = "on-demand", price: float | None = None) -> NodeClass:
    return NodeClass(gpu, "az-1", capacity, "", GPU_PRICE[gpu] if price is None else price)


def nodes_of(
    gpu: str, count: int, gpus: int = 4, capacity: str = "on-demand", price: float | None = None
) -> tuple[Node, ...]:
    """`count` equal empty nodes."""
    kind = node_class(gpu, capacity, price)
    return tuple(
        Node(f"{gpu.lower()}-{capacity}-{i}", kind, gpus, 192_000, 2**41, 110, gpus)
        for i in range(count)
    )


def pool(name: str, tenant: str, rate: float, **changes: object) -> ServingDemand:
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    demand = ServingDemand(
        key=f"ServingPool/{tenant}/{name}",
        tenant=tenant,
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
    )
    return replace(demand, **changes)  # type: ignore[arg-type]


def solve(snapshot: Snapshot) -> Plan:
    return plan(snapshot, CATALOG, use_worker=False)


def part_of(made: Plan, tenant: str) -> Slice:
    return next(part for part in made.slices if f"/{tenant}/" in part.key)


def gpus_of(part: Slice) -> int:
    return sum(replica.gpus for replica in part.replicas)


def test_spot_nodes_carry_no_more_than_their_share_of_the_served_rate() -> None:
    fleet = (*nodes_of("L40S", 3), *nodes_of("L40S", 3, capacity="spot", price=0.5))
    asked = pool("chat", "a", 12.0)
    stage = replace(asked.stages[0], placement=Placement(max_spot_share=0.4))
    made = solve(Snapshot(fleet, services=(replace(asked, stages=(stage,)),)))
    (part,) = made.slices
    spot = sum(sum(r.rates.values()) for r in part.replicas if "-spot-" in r.nodes[0])
    total = sum(sum(r.rates.values()) for r in part.replicas)
    assert part.served_requests_per_second == pytest.approx(12.0)
    assert 0.0 < spot <= 0.4 * total + 1e-6


def test_a_guaranteed_share_is_served_as_well_as_on_a_slice_of_its_own() -> None:
    fleet = nodes_of("L4", 4)
    small, crowd = pool("chat", "small", 1000.0), pool("chat", "crowd", 1000.0, priority=5)
    free = solve(Snapshot(fleet, services=(small, crowd)))
    assert part_of(free, "small").served_requests_per_second == pytest.approx(0.0)
    tenants = (Tenant("small", guaranteed_share=0.25),)
    made = solve(Snapshot(fleet, services=(small, crowd), tenants=tenants))
    alone = solve(Snapshot(nodes_of("L4", 1), services=(small,)))
    served = part_of(made, "small").served_requests_per_second
    assert served >= 0.99 * alone.slices[0].served_requests_per_second - 1e-6
    assert gpus_of(part_of(made, "small")) == 4
    assert part_of(made, "crowd").served_requests_per_second > 0


def test_a_guarantee_takes_nothing_while_its_tenant_asks_for_nothing() -> None:
    fleet = nodes_of("L4", 4)
    crowd = pool("chat", "crowd", 1000.0)
    tenants = (Tenant("small", guaranteed_share=0.5),)
    made = solve(Snapshot(fleet, services=(crowd,), tenants=tenants))
    assert gpus_of(part_of(made, "crowd")) == 16
    little = pool("chat", "small", 0.5)
    both = solve(Snapshot(fleet, services=(crowd, little), tenants=tenants))
    assert part_of(both, "small").served_requests_per_second == pytest.approx(0.5, rel=0.02)
    assert gpus_of(part_of(both, "crowd")) >= 12


def test_the_heavier_tenant_is_served_where_room_is_short() -> None:
    fleet = nodes_of("L4", 2)
    services = (pool("chat", "a", 40.0), pool("chat", "b", 40.0))
    for heavy, light in (("a", "b"), ("b", "a")):
        made = solve(Snapshot(fleet, services=services, tenants=(Tenant(heavy, weight=3),)))
        assert part_of(made, light).served_requests_per_second == pytest.approx(0.0, abs=0.05)
        assert part_of(made, heavy).served_requests_per_second > 1.0


def test_the_fleets_gpu_budget_limits_everything_together() -> None:
    services = (pool("chat", "a", 500.0), pool("chat", "b", 500.0))
    made = solve(Snapshot(nodes_of("L4", 4), services=services, budget_gpus=7))
    assert 6 <= made.gpus_used <= 7


def test_minimum_nodes_put_replicas_on_different_nodes() -> None:
    asked = pool("chat", "a", 1.0)
    stage = replace(asked.stages[0], min_nodes=3)
    made = solve(Snapshot(nodes_of("L4", 4), services=(replace(asked, stages=(stage,)),)))
    assert len({r.nodes for r in made.slices[0].replicas}) >= 3


def bill(made: Plan, snapshot: Snapshot) -> float:
    used = {name for part in made.slices for r in part.replicas for name in r.nodes}
    return sum(n.bill_usd_per_hour for n in snapshot.nodes if n.name in used)


@pytest.mark.parametrize("rate", [2.0, 9.0, 25.0])
def test_billed_by_node_the_price_is_that_of_the_nodes_in_use(rate: float) -> None:
    fleet = (*nodes_of("H100-SXM5-80GB", 2, 8), *nodes_of("L40S", 3, 4), *nodes_of("L4", 4, 1))
    snapshot = Snapshot(fleet, services=(pool("chat", "a", rate),), billing="node")
    made = solve(snapshot)
    assert made.slices[0].served_requests_per_second == pytest.approx(rate)
    assert made.price_usd_per_hour == pytest.approx(bill(made, snapshot))
    charged = sum(part.price_usd_per_hour for part in made.slices)
    assert made.idle_usd_per_hour == pytest.approx(made.price_usd_per_hour - charged)
    by_gpu = solve(replace(snapshot, billing="gpu"))
    assert made.price_usd_per_hour <= bill(by_gpu, snapshot) + 1e-6


def test_owned_nodes_are_used_before_any_that_is_billed() -> None:
    owned = tuple(replace(n, price_usd_per_hour=0.0) for n in nodes_of("H100-SXM5-80GB", 1, 8))
    fleet = (*owned, *nodes_of("L4", 4))
    made = solve(Snapshot(fleet, services=(pool("chat", "a", 5.0),), billing="node"))
    assert made.price_usd_per_hour == 0.0
    assert {r.gpu for r in made.slices[0].replicas} == {"H100-SXM5-80GB"}


def test_a_fleet_budget_buys_whole_nodes_when_nodes_are_billed() -> None:
    fleet = nodes_of("L40S", 4, 4)  # 7.44 USD/h each
    asked = Snapshot(
        fleet, services=(pool("chat", "a", 500.0),), billing="node", budget_usd_per_hour=16.0
    )
    made = solve(asked)
    assert made.price_usd_per_hour == pytest.approx(2 * 4 * 1.86)
    assert made.gpus_used == 8


def shape(**changes: object) -> Shape:
    made = Shape(
        "l4x4", node_class("L4"), 4, 192_000, 2**41, price_usd_per_hour=2.8, max_nodes=10,
        delay_hours=0.1,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_shapes_are_listed_for_what_the_fleet_cannot_serve_and_change_no_plan() -> None:
    services = (pool("chat", "a", 20.0),)
    without = solve(Snapshot(nodes_of("L4", 1), services=services))
    made = solve(Snapshot(nodes_of("L4", 1), services=services, shapes=(shape(),)))
    assert [p.hash for p in made.slices] == [p.hash for p in without.slices]
    missing = 20.0 - made.slices[0].served_requests_per_second
    (add,) = made.nodes_to_add
    assert (add.shape, add.delay_hours) == ("l4x4", 0.1)
    assert add.gains == {"ServingPool/a/chat": pytest.approx(missing, rel=1e-6)}
    assert add.price_usd_per_hour == pytest.approx(2.8 * add.count)
    # As many as serve it, and no more: a node less would not do.
    per_node = made.slices[0].served_requests_per_second
    assert add.count == ceil(missing / per_node - 1e-9)
    grown = solve(Snapshot(nodes_of("L4", 1 + add.count), services=services))
    assert grown.slices[0].served_requests_per_second == pytest.approx(20.0)


def test_no_shape_is_listed_where_all_is_served_or_nothing_more_can_be_bought() -> None:
    fleet = nodes_of("L4", 2)
    served = solve(Snapshot(fleet, services=(pool("chat", "a", 1.0),), shapes=(shape(),)))
    assert served.nodes_to_add == ()
    poor = pool("chat", "a", 500.0, budget=Budget(gpus=8))
    made = solve(Snapshot(fleet, services=(poor,), shapes=(shape(),)))
    assert made.nodes_to_add == ()
    few = solve(Snapshot(fleet, services=(pool("chat", "a", 500.0),), shapes=(shape(max_nodes=3),)))
    assert [add.count for add in few.nodes_to_add] == [3]
