"""What failed lately is not started again, and what of it runs goes on."""

from __future__ import annotations

from dataclasses import replace

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import RunningUnit, ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.fragments import size_text
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import PlannedReplica, Slice
from motley_planner.domain.snapshot import Avoided, Snapshot
from motley_planner.planning import plan

CATALOG = load_catalog()
KEY = "ServingPool/a/pool"
CHEAP = NodeClass("L40S", "az-1", "on-demand", "", 0.9)
DEAR = NodeClass("H100-SXM5-80GB", "az-2", "on-demand", "", 6.9)


def node(name: str, node_class: NodeClass, gpus: int = 4) -> Node:
    return Node(name, node_class, gpus, 32_000 * gpus, 2**41, 110, gpus)


NODES = (node("cheap-0", CHEAP), node("cheap-1", CHEAP), node("dear", DEAR))


def pool(rate: float = 2.0) -> ServingDemand:
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    return ServingDemand(
        key=KEY,
        tenant="a",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("all", 900, 200),),
        requests_per_second=rate,
        slo=Slo(tpot_s={"p95": 0.08}),
    )


def solve(rate: float = 2.0, **changes: object) -> Slice:
    snapshot = Snapshot(NODES, (pool(rate),), time_limit_s=1.0)
    (part,) = plan(replace(snapshot, **changes), CATALOG, use_worker=False).slices  # type: ignore[arg-type]
    return part


def avoided(replica: PlannedReplica) -> Avoided:
    size = size_text(replica.tensor_parallel, len(replica.nodes), replica.pipeline)
    return Avoided(KEY, "main", replica.gpu, size, CHEAP.zone, CHEAP.capacity_type)


def unit(replica: PlannedReplica) -> RunningUnit:
    return RunningUnit(
        f"{KEY}/{replica.name}",
        KEY,
        replica.stage,
        replica.role,
        replica.gpu,
        replica.tensor_parallel,
        replica.operating_batch,
        replica.model,
        replica.precision,
        replica.nodes,
    )


def test_a_size_that_failed_on_a_kind_of_node_is_not_started_at_any_batch() -> None:
    (first,) = solve().replicas
    assert first.gpu == "L40S"
    part = solve(avoided=frozenset({avoided(first)}))
    assert part.replicas
    assert all((r.gpu, r.tensor_parallel) != ("L40S", first.tensor_parallel) for r in part.replicas)
    assert not part.refusals


def test_another_zone_is_not_avoided() -> None:
    (first,) = solve().replicas
    elsewhere = replace(avoided(first), zone="az-3")
    assert [r.gpu for r in solve(avoided=frozenset({elsewhere})).replicas] == ["L40S"]


def test_a_stage_that_is_avoided_starts_nothing_and_keeps_what_runs() -> None:
    (first,) = solve().replicas
    stage = frozenset({Avoided(KEY, "main")})
    assert not solve(avoided=stage).replicas
    more = solve(200.0, running=(unit(first),), avoided=stage)
    assert [r.kept for r in more.replicas] == [f"{KEY}/{first.name}"]
    assert more.refusals


def test_a_node_that_is_avoided_keeps_what_runs_and_gets_nothing_more() -> None:
    (first,) = solve().replicas
    away = tuple(
        replace(n, node_class=replace(n.node_class, avoided_by=frozenset({KEY})))
        if n.name in first.nodes
        else n
        for n in NODES
    )
    (elsewhere,) = solve(nodes=away).replicas
    assert elsewhere.nodes != first.nodes
    grown = solve(60.0, nodes=away, running=(unit(first),))
    there = [r for r in grown.replicas if r.nodes == first.nodes]
    assert [r.kept for r in there] == [f"{KEY}/{first.name}"]
    assert len(grown.replicas) > 1


def test_another_resource_uses_a_node_that_one_avoids() -> None:
    away = tuple(
        replace(n, node_class=replace(n.node_class, avoided_by=frozenset({"ServingPool/a/else"})))
        for n in NODES
    )
    assert [r.gpu for r in solve(nodes=away).replicas] == ["L40S"]
