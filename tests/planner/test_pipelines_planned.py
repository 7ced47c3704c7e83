"""Pipelines in whole plans: HexGen's case study, models that fit no node, what runs goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.candidates import Candidate, stage_candidates
from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.costs.pipeline import Pipeline, pipeline_of
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.domain.demand import (
    RoutingPolicy,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.hardware import Catalog, Gpu, Node, NodeClass
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.planning.worth import running_units

SHIPPED = load_catalog()


def workstation_gpu(name: str, memory_gb: float, gb_per_s: float, tflop_per_s: float) -> Gpu:
    """A workstation card; datasheet values of NVIDIA (dense 16-bit rate)."""
    peaks = {"bf16": tflop_per_s * 1e12, "fp16": tflop_per_s * 1e12}
    return replace(
        SHIPPED.gpus["RTX-A6000"],
        name=name,
        hbm_bytes=memory_gb * 1e9,
        hbm_bytes_per_s=gb_per_s * 1e9,
        flop_per_s=peaks,
        link_bytes_per_s=0.0,
        link_gpus=1,
    )


A5000 = workstation_gpu("RTX-A5000", 24, 768, 111.1)
A4000 = workstation_gpu("RTX-A4000", 16, 448, 76.7)
HEXGEN = replace(SHIPPED.engines["vllm"], name="hexgen", unequal_tensor_parallel=True)
CATALOG: Catalog = replace(
    SHIPPED,
    gpus={**SHIPPED.gpus, A5000.name: A5000, A4000.name: A4000},
    engines={**SHIPPED.engines, "hexgen": HEXGEN},
)


def model(name: str) -> ModelSpec:
    found = CATALOG.model(name)
    assert found is not None
    return found


LLAMA = model("meta-llama/Llama-2-70b")
CASE = (("RTX-A6000", 4), ("RTX-A5000", 2), ("RTX-A4000", 2))


def node(name: str, gpu: str, gpus: int, zone: str = "lab", price: float = 0.5) -> Node:
    node_class = NodeClass(gpu, zone, "on-demand", "", price)
    return Node(name, node_class, gpus, 192_000, 2**41, 110, gpus)


def case_nodes() -> tuple[Node, ...]:
    """HexGen's case study (arXiv 2311.11514): three machines of one lab."""
    return tuple(node(gpu, gpu, gpus) for gpu, gpus in CASE)


def pool(
    stage: StageDemand, rate: float, slo: Slo | None = None, prompt: int = 128, output: int = 64
) -> ServingDemand:
    """A pool of one class."""
    return ServingDemand(
        key="ServingPool/team-a/chat",
        tenant="team-a",
        stages=(stage,),
        classes=(WorkloadClass("chat", prompt, output),),
        requests_per_second=rate,
        slo=slo or Slo(),
    )


def solve(snapshot: Snapshot) -> Plan:
    """Plan in this process."""
    return plan(snapshot, CATALOG, use_worker=False)


def listed(demand: ServingDemand, nodes: tuple[Node, ...]) -> tuple[Candidate, ...]:
    classes = [n.node_class for n in nodes]
    found, refusals = stage_candidates(
        demand.stages[0],
        demand.classes,
        demand.slo,
        classes,
        CATALOG,
        headroom=demand.headroom,
        key=demand.key,
    )
    assert not refusals
    return found


def test_hexgens_case_study_has_tp_4_2_2_and_its_layers() -> None:
    stage = StageDemand("main", LLAMA, "fp16", "hexgen", max_pipeline=3)
    demand, nodes = pool(stage, 50.0), case_nodes()
    whole = [c for c in listed(demand, nodes) if c.gpus == 8 and c.fragments == 3]
    machines = [c for c in whole if [(f.gpu, f.tensor_parallel) for f in c.pipeline] == list(CASE)]
    layers = [f.layers for f in max(machines, key=lambda c: c.capacity["chat"]).pipeline]
    # Published: 48, 20 and 12 layers.
    assert all(abs(n - want) <= 4 for n, want in zip(layers, (48, 20, 12), strict=True))
    # With one TP group a machine, as HexGen groups GPUs, it is what the fleet problem chooses.
    table, assembly = assemble(Snapshot(nodes, (demand,)), CATALOG)
    machine = {(gpu, tp) for gpu, tp in CASE}
    columns = tuple(
        c
        for c in table.columns
        if all((part[0].gpu, part[1]) in machine for part in assembly.candidates[c.id].parts)
    )
    assert len(columns) > 2  # TP4 alone and pipelines of two machines are there to be beaten
    solution = solve_table(replace(table, columns=columns), use_worker=False)
    (chosen,) = solution.replicas
    pipeline = assembly.candidates[chosen.column].pipeline
    assert [f.tensor_parallel for f in pipeline] == [4, 2, 2]


def test_hexgens_case_study_refuses_tp8_and_equal_layers_for_memory() -> None:
    # Every rank of TP8 holds an eighth of the weights, so the smallest card decides.
    efficiency = CATALOG.efficiency
    assert efficiency is not None
    whole = replica_of(LLAMA, "fp16", A4000, 8, HEXGEN, efficiency)
    assert isinstance(whole, Replica) and whole.free_bytes < 0

    def made(kinds: tuple[tuple[str, int], ...], layers: tuple[int, ...]) -> Pipeline | str:
        fragments = zip(kinds, layers, strict=True)
        cut = tuple(ReplicaFragment(gpu, tp, n) for (gpu, tp), n in fragments)
        return pipeline_of(LLAMA, "fp16", cut, HEXGEN, CATALOG)

    assert made(CASE, (27, 27, 26)) == "memory"
    eight = tuple((gpu, 1) for gpu, gpus in CASE for _ in range(gpus))
    assert made(eight, (10,) * 8) == "memory"
    uneven = made(eight, (12, 12, 12, 12, 10, 10, 6, 6))
    best = made(CASE, (48, 20, 12))
    assert isinstance(uneven, Pipeline) and isinstance(best, Pipeline)
    # Published: up to 19 times faster than PP8. One request alone passes eight stages in turn.
    assert uneven.decode_step_s(1.0, 160.0) > 1.5 * best.decode_step_s(1.0, 160.0)


def test_a_model_that_fits_no_node_is_served_across_nodes_only_where_that_is_allowed() -> None:
    large = StageDemand("main", model("meta-llama/Llama-3.1-405B-Instruct"), "bf16", "vllm")
    nodes = tuple(node(f"h{i}", "H100-SXM5-80GB", 8, "az-1", 6.88) for i in range(4))
    refused = solve(Snapshot(nodes, (pool(large, 0.5),)))
    (refusal,) = refused.slices[0].refusals
    assert refusal.reason == "ModelDoesNotFit"
    assert "parallelism.maxPipeline 2" in refusal.lift
    allowed = pool(replace(large, max_pipeline=2), 0.5)
    made = solve(Snapshot(nodes, (allowed,)))
    (replica,) = made.slices[0].replicas
    assert not made.slices[0].refusals
    assert [f.tensor_parallel for f in replica.pipeline] == [8, 8]
    assert sum(f.layers for f in replica.pipeline) == large.model.layers
    assert len(set(replica.nodes)) == 2 and replica.gpus == 16
    assert replica.price_usd_per_hour == pytest.approx(16 * 6.88)


def test_fragments_never_leave_their_zone_trust_zone_or_capacity_type() -> None:
    stage = StageDemand("main", model("Qwen/Qwen3-32B"), "bf16", "vllm", max_pipeline=2)
    classes = [
        NodeClass(gpu, zone, kind, trust, 1.0)
        for gpu in ("L40S", "A10", "MI300X")
        for zone in ("az-1", "az-2")
        for kind in ("on-demand", "spot")
        for trust in ("", "secret")
    ]
    found, _ = stage_candidates(
        stage, (WorkloadClass("chat", 900, 250),), Slo(), classes, CATALOG, headroom=0.1, key="k"
    )
    mixed = [c for c in found if c.pipeline]
    assert len(mixed) >= 48
    assert any(len({n.gpu for n in c.node_classes}) == 2 for c in mixed)
    for c in mixed:
        places = {(n.zone, n.capacity_type, n.trust_zone) for n in c.node_classes}
        assert len(places) == 1
        assert len({CATALOG.gpus[n.gpu].vendor for n in c.node_classes}) == 1
        assert [n.gpu for n in c.node_classes] == [f.gpu for f in c.pipeline]
        expected = sum(
            f.tensor_parallel * n.price_usd_per_gpu_hour
            for f, n in zip(c.pipeline, c.node_classes, strict=True)
        )
        assert c.price_usd_per_hour == pytest.approx(expected)
    assert len({c.id for c in found}) == len(found)


def test_the_default_is_no_pipeline_and_engines_that_cannot_have_none() -> None:
    stage = StageDemand("main", model("Qwen/Qwen3-32B"), "bf16", "vllm")
    nodes = (node("a", "L40S", 4), node("b", "A10", 4))
    assert not any(c.pipeline for c in listed(pool(stage, 1.0), nodes))
    sglang = replace(stage, engine="sglang", max_pipeline=3)
    assert not SHIPPED.engines["sglang"].pipeline_parallel
    assert not any(c.pipeline for c in listed(pool(sglang, 1.0), nodes))


def small_fleet() -> tuple[Node, ...]:
    """Cards of which none alone holds a 32B model in 16 bits: 2 x L40S and 2 x A10, one a node."""
    return tuple(
        node(f"{gpu}-{i}", gpu, 1, "az-1", price)
        for gpu, price in (("L40S", 1.86), ("A10", 1.0))
        for i in range(3)
    )


def test_a_running_pipeline_is_recognized_and_goes_on() -> None:
    stage = StageDemand("main", model("Qwen/Qwen3-32B"), "bf16", "vllm", max_pipeline=3)
    demand = pool(stage, 0.5)
    first = solve(Snapshot(small_fleet(), (demand,)))
    assert not first.slices[0].refusals and first.slices[0].replicas[0].pipeline
    again = solve(Snapshot(small_fleet(), (demand,), running=running_units(first)))
    assert not again.moves and again.kept == len(first.slices[0].replicas)
    assert again.slices[0].hash == first.slices[0].hash
    # A person lowers the limit: it may not go on.
    shallow = pool(replace(stage, max_pipeline=1), 0.5)
    (part,) = solve(Snapshot(small_fleet(), (shallow,), running=running_units(first))).slices
    assert all(r.kept is None for r in part.replicas)


def test_losing_one_node_of_a_pipeline_rebuilds_it_elsewhere() -> None:
    stage = StageDemand("main", model("Qwen/Qwen3-32B"), "bf16", "vllm", max_pipeline=3)
    demand = pool(stage, 0.5)
    first = solve(Snapshot(small_fleet(), (demand,)))
    (replica,) = first.slices[0].replicas
    left = tuple(n for n in small_fleet() if n.name != replica.nodes[0])
    again = solve(Snapshot(left, (demand,), running=running_units(first)))
    (rebuilt,) = again.slices[0].replicas
    assert rebuilt.kept is None and replica.nodes[0] not in rebuilt.nodes
    assert again.slices[0].served_requests_per_second == pytest.approx(0.5)


def test_pipelines_allowed_never_serve_less_and_the_checker_agrees() -> None:
    stage = StageDemand("main", model("Qwen/Qwen3-32B"), "bf16", "hexgen")
    nodes = (
        node("l40s", "L40S", 4, "az-1", 1.86),
        node("a6000", "RTX-A6000", 2, "az-1", 0.79),
        node("a10", "A10", 2, "az-1", 1.0),
        node("l4", "L4", 4, "az-1", 0.7),
    )
    served = []
    for depth in (1, 2, 3):
        demand = pool(
            replace(stage, max_pipeline=depth), 100.0, Slo(tpot_s={"p95": 0.15}), 900, 250
        )
        table, _ = assemble(Snapshot(nodes, (demand,), time_limit_s=10.0), CATALOG)
        solution = solve_table(table, use_worker=False)
        assert not check(table, solution)
        served.append(sum(rate.requests_per_second for rate in solution.rates))
    assert served == sorted(served)
    assert served[1] > 1.02 * served[0]


def test_a_cascade_mixes_pipelines_and_single_replicas() -> None:
    small = StageDemand("small", model("Qwen/Qwen3-8B"), "bf16", "vllm")
    large = StageDemand("large", model("Qwen/Qwen3-32B"), "bf16", "vllm", max_pipeline=3)
    cascade = ServingDemand(
        key="ModelCascade/team-a/support",
        tenant="team-a",
        stages=(small, large),
        classes=(WorkloadClass("all", 900, 220),),
        requests_per_second=0.5,
        policies=(RoutingPolicy("some", {"small": 0.5}, 0.82, 0.83, {"small": 1.0, "large": 0.4}),),
        quality_floor=0.8,
    )
    made = solve(Snapshot(small_fleet(), (cascade,)))
    (part,) = made.slices
    assert part.served_requests_per_second == pytest.approx(0.5)
    assert any(r.pipeline for r in part.replicas if r.stage == "large")
    assert not any(r.pipeline for r in part.replicas if r.stage == "small")
    used: dict[str, int] = {}
    for r in part.replicas:
        for rank, name in enumerate(r.nodes):
            used[name] = used.get(name, 0) + r.gpus_on(rank)
    assert all(gpus <= 1 for gpus in used.values())
