"""Shapes that may be bought: what is placed on nodes to come, and that nothing is bought twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import (
    Budget,
    Placement,
    RunningUnit,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Shape, Snapshot
from motley_planner.planning import plan

CATALOG = load_catalog()
L4 = NodeClass("L4", "az-1", "on-demand", "", 0.70)


def nodes_of(count: int) -> tuple[Node, ...]:
    """Equal empty nodes of four L4."""
    return tuple(Node(f"l4-{i}", L4, 4, 192_000, 2**41, 110, 4) for i in range(count))


def pool(name: str, rate: float, **changes: object) -> ServingDemand:
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    demand = ServingDemand(
        key=f"ServingPool/a/{name}",
        tenant="a",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
    )
    return replace(demand, **changes)  # type: ignore[arg-type]


def shape(**changes: object) -> Shape:
    made = Shape(
        "l4x4", L4, 4, 192_000, 2**41, price_usd_per_hour=2.8, max_nodes=10,
        delay_hours=0.1, buys=True,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def solve(snapshot: Snapshot) -> Plan:
    return plan(snapshot, CATALOG, use_worker=False)


def carried_out(plan: Plan, before: Snapshot) -> Snapshot:
    """The next snapshot: what was placed runs, on nodes that are coming where it is to."""
    units = tuple(
        RunningUnit(
            id=r.kept or f"{part.key}/{r.name}",
            key=part.key,
            stage=r.stage,
            role=r.role,
            gpu=r.gpu,
            tensor_parallel=r.tensor_parallel,
            operating_batch=r.operating_batch,
            model=r.model,
            precision=r.precision,
            nodes=r.nodes,
        )
        for part in plan.slices
        for r in part.replicas
    )
    there = {node.name for node in before.nodes}
    names = sorted({n for u in units for n in u.nodes if n.startswith("+") and n not in there})
    shapes = {s.name: s for s in before.shapes}
    coming = []
    for name in names:
        s = shapes[name[1:].rpartition("/")[0]]
        room = (s.gpus, s.cpu_milli, s.memory_bytes, s.pods, s.gpus)
        coming.append(Node(name, s.node_class, *room, cordoned=True, coming=True))
    taken = frozenset(int(name.rpartition("/")[2]) for name in names)
    left = tuple(
        replace(
            s, taken=s.taken | taken, max_nodes=s.max_nodes and max(0, s.max_nodes - len(names))
        )
        for s in before.shapes
    )
    return replace(before, nodes=(*before.nodes, *coming), running=units, shapes=left)


def bought(plan: Plan) -> set[str]:
    return {n for p in plan.slices for r in p.replicas for n in r.nodes if n.startswith("+")}


def moved(plan: Plan) -> list[str]:
    return [f"{m.action} {m.replica}" for m in plan.moves]


def test_what_the_fleet_cannot_serve_is_placed_on_as_few_new_nodes_as_serve_it() -> None:
    asked = Snapshot(nodes_of(1), services=(pool("chat", 20.0),), shapes=(shape(),))
    alone = solve(replace(asked, shapes=())).slices[0].served_requests_per_second
    made = solve(asked)
    assert made.slices[0].served_requests_per_second == pytest.approx(20.0)
    assert len(bought(made)) == ceil((20.0 - alone) / alone - 1e-9)
    (row,) = made.nodes_coming
    assert (row.count, row.price_usd_per_hour) == (len(bought(made)), 2.8 * len(bought(made)))
    assert made.nodes_to_add == () and (made.nodes, made.gpus_used) == (1, 4)


def test_without_leave_to_buy_the_plan_is_the_one_without_shapes() -> None:
    asked = Snapshot(nodes_of(1), services=(pool("chat", 20.0),))
    said = solve(replace(asked, shapes=(shape(buys=False),)))
    assert said.slices[0].hash == solve(asked).slices[0].hash
    assert not bought(said) and said.nodes_to_add and not said.nodes_coming


def test_free_nodes_are_filled_before_any_is_bought_even_if_bought_ones_cost_less() -> None:
    asked = Snapshot(
        nodes_of(2), services=(pool("chat", 4.0),),
        shapes=(shape(price_usd_per_hour=0.01, node_class=replace(L4, price_usd_per_gpu_hour=0.0025)),),
    )  # fmt: skip
    assert not bought(solve(asked))


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(1.0, 40.0),
    nodes=st.integers(0, 3),
    most=st.sampled_from([1, 2, 20, None]),
    delay=st.sampled_from([0.0, 0.1]),
)
def test_the_plan_after_a_purchase_buys_and_moves_nothing(
    rate: float, nodes: int, most: int | None, delay: float
) -> None:
    asked = Snapshot(
        nodes_of(nodes),
        services=(pool("chat", rate),),
        shapes=(shape(max_nodes=most, delay_hours=delay),),
    )
    first = solve(asked)
    assert most is None or len(bought(first)) <= most
    held = Counter(
        n for p in first.slices for r in p.replicas for n in r.nodes for _ in range(r.gpus)
    )
    assert all(gpus <= 4 for gpus in held.values())
    second = solve(carried_out(first, asked))
    assert moved(second) == []
    assert second.slices[0].served_requests_per_second == pytest.approx(
        first.slices[0].served_requests_per_second, rel=1e-3
    )


def test_new_nodes_get_numbers_that_nothing_holds() -> None:
    asked = Snapshot((), services=(pool("chat", 5.0),), shapes=(shape(taken=frozenset({0, 2})),))
    assert sorted(bought(solve(asked))) == ["+l4x4/1", "+l4x4/3"]


def test_room_on_a_node_that_is_coming_is_used_before_another_is_bought() -> None:
    asked = Snapshot((), services=(pool("chat", 1.0),), shapes=(shape(),))
    first = solve(asked)
    assert len(bought(first)) == 1
    more = pool("other", 1.0)
    second = solve(replace(carried_out(first, asked), services=(*asked.services, more)))
    assert bought(second) == bought(first) and second.slices[1].replicas


def test_nothing_that_runs_is_stopped_where_a_node_can_be_bought_instead() -> None:
    one = pool("chat", 6.0)
    asked = Snapshot(nodes_of(1), services=(one,))
    runs = carried_out(solve(asked), asked)
    crowded = replace(runs, services=(one, pool("other", 3.0)), edited=frozenset())
    with_shape = solve(replace(crowded, shapes=(shape(),)))
    assert not any(move.action == "stop" for move in with_shape.moves)
    assert sum(p.served_requests_per_second for p in with_shape.slices) == pytest.approx(9.0)


def test_budgets_hold_for_what_is_bought() -> None:
    poor = pool("chat", 500.0, budget=Budget(gpus=8))
    made = solve(Snapshot(nodes_of(1), services=(poor,), shapes=(shape(),)))
    assert len(bought(made)) == 1
    asked = Snapshot(
        nodes_of(1), services=(pool("chat", 500.0),), shapes=(shape(max_nodes=None),),
        budget_usd_per_hour=12.0,
    )  # fmt: skip
    made = solve(asked)
    assert bought(made) and made.price_usd_per_hour <= 12.0 + 1e-6


def test_a_model_that_fits_no_node_that_is_there_is_planned_on_a_shape_where_it_does() -> None:
    h100 = NodeClass("H100-SXM5-80GB", "az-1", "on-demand", "", 3.0)
    big = shape(name="h100", node_class=h100, gpus=8, price_usd_per_hour=24.0)
    base = pool("chat", 1.0)
    placed = replace(base.stages[0], placement=Placement(gpus=frozenset({"H100-SXM5-80GB"})))
    demand: ServingDemand = replace(base, stages=(placed,))
    made = solve(Snapshot(nodes_of(1), services=(demand,), shapes=(big,)))
    assert made.slices[0].served_requests_per_second == pytest.approx(1.0)
    assert {n[:5] for n in bought(made)} == {"+h100"}
