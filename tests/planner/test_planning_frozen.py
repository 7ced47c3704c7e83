"""A resource that is frozen keeps exactly what it runs, whatever it asks for now."""

from __future__ import annotations

from dataclasses import replace

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import (
    Budget,
    RunningUnit,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import plan

CATALOG = load_catalog()
UNLIMITED = Budget()
HELD, OTHER = "ServingPool/a/held", "ServingPool/a/other"
NODES = tuple(
    Node(
        f"h{i}",
        NodeClass("H100-SXM5-80GB", "az-1", "on-demand", "", 6.88),
        1,
        192_000,
        2**41,
        110,
        1,
    )
    for i in range(3)
)


def pool(key: str, rate: float, budget: Budget = UNLIMITED, priority: int = 0) -> ServingDemand:
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    return ServingDemand(
        key=key,
        tenant="a",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("all", 900, 200),),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
        budget=budget,
        priority=priority,
    )


def solve(snapshot: Snapshot) -> Plan:
    return plan(replace(snapshot, time_limit_s=1.0), CATALOG, use_worker=False)


def running() -> tuple[RunningUnit, ...]:
    """Two replicas of HELD as a plan starts them."""
    rate = 1.0
    while True:
        (part,) = solve(Snapshot(NODES, (pool(HELD, rate),))).slices
        if len(part.replicas) == 2:
            break
        rate *= 1.3
    return tuple(
        RunningUnit(
            f"{HELD}/{r.name}",
            HELD,
            r.stage,
            r.role,
            r.gpu,
            r.tensor_parallel,
            r.operating_batch,
            r.model,
            r.precision,
            r.nodes,
        )
        for r in part.replicas
    )


def test_its_own_limits_bind_the_next_plan_and_not_what_is_held() -> None:
    units = running()
    small = pool(HELD, 1.0, Budget(usd_per_hour=7.0, gpus=1))
    made = solve(Snapshot(NODES, (small,), running=units, frozen=frozenset((HELD,))))
    (part,) = made.slices
    assert {r.kept for r in part.replicas} == {unit.id for unit in units}


def test_what_the_edited_spec_no_longer_allows_is_no_room_for_others() -> None:
    units = running()
    another = CATALOG.model("Qwen/Qwen3-32B")
    assert another is not None
    edited = replace(pool(HELD, 1.0), stages=(StageDemand("main", another, "bf16", "vllm"),))
    greedy = pool(OTHER, 1e4, priority=9)
    snapshot = Snapshot(NODES, (edited, greedy), running=units, frozen=frozenset((HELD,)))
    made = solve(snapshot)
    used = {node for part in made.slices for r in part.replicas for node in r.nodes}
    held = {node for unit in units for node in unit.nodes}
    assert used == {node.name for node in NODES} - held
    assert not [move for move in made.moves if move.key == HELD]
    free = solve(replace(snapshot, frozen=frozenset()))
    assert {n for part in free.slices for r in part.replicas for n in r.nodes} & held
