"""Pipelines and phases whose classes share memory: plans at their limit, simulated at their rates.

A plan is brought to its limit by bisection on the rate. Then its own dispatcher sends Poisson
arrivals to engines with the cost model's steps, whose caches hold what memory holds.
"""

from __future__ import annotations

from functools import cache

import pytest

from motley_planner.candidates import cut_replicas, pipelines
from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.testing.simulating import Load, is_kept, simulated

CATALOG = load_catalog()
PRICE = {"H100-SXM5-80GB": 6.88, "A100-SXM4-80GB": 3.43, "L40S": 1.86}
MIX = (
    WorkloadClass("short", 200, 100, 5),
    WorkloadClass("medium", 1500, 300, 3),
    WorkloadClass("large", 6000, 250, 1),
)
RAG = (WorkloadClass("chat", 900, 200, 3), WorkloadClass("rag", 3000, 150, 1))
DOCS = (WorkloadClass("chat", 300, 400, 20), WorkloadClass("docs", 16000, 300, 1))
LOOSE = Slo(ttft_s={"p95": 5.0}, tpot_s={"p95": 0.15})
TAIL = Slo(ttft_s={"p99": 4.0}, tpot_s={"p90": 0.1})
WHOLE = Slo(e2e_s={"p95": 45.0})
LLAMA, QWEN, SMALL = "meta-llama/Llama-3.1-70B-Instruct", "Qwen/Qwen3-32B", "Qwen/Qwen3-8B"
A100, H100, L40S = "A100-SXM4-80GB", "H100-SXM5-80GB", "L40S"
# Model; (GPU type, GPUs a node, nodes); classes; targets; phases apart; shares memory at its limit.
CASES = {
    "two nodes": (LLAMA, ((A100, 1, 2),), RAG, WHOLE, False, True),
    "two nodes, wide": (QWEN, ((L40S, 1, 2),), RAG, WHOLE, False, True),
    "unlike nodes": (LLAMA, ((A100, 1, 1), (L40S, 2, 1)), RAG, WHOLE, False, False),
    "four nodes": (QWEN, ((L40S, 1, 4),), MIX, LOOSE, False, False),
    "phases, two GPUs": (SMALL, ((H100, 2, 1),), DOCS, TAIL, True, True),
    "phases, a mix": (SMALL, ((H100, 4, 1),), MIX, LOOSE, True, True),
    "phases, slow links": (SMALL, ((H100, 1, 1), (L40S, 4, 1)), MIX, TAIL, True, True),
}


def snapshot_of(name: str, rate: float) -> Snapshot:
    model_name, fleet, classes, slo, apart, _ = CASES[name]
    model = CATALOG.model(model_name)
    assert model is not None
    stage = StageDemand("main", model, "bf16", "vllm", max_pipeline=1 if apart else 4)
    demand = ServingDemand(
        key="ServingPool/team-a/pool",
        tenant="team-a",
        stages=(stage,),
        classes=classes,
        requests_per_second=rate,
        slo=slo,
        disaggregation="always" if apart else "never",
    )
    nodes = tuple(
        Node(f"{gpu}-{i}", NodeClass(gpu, "z", "on-demand", "", PRICE[gpu]), each, 192_000, 2**41,
             110, each)
        for gpu, each, count in fleet
        for i in range(count)
    )  # fmt: skip
    return Snapshot(nodes, (demand,), time_limit_s=5, gateway_can_disaggregate=apart)


@cache
def limit_of(name: str) -> tuple[float, Slice]:
    """The largest rate that is planned in full, within a hundredth, and its plan."""
    low, high, best = 0.0, 200.0, None
    while best is None or high > 1.01 * low:
        rate = (low * high) ** 0.5 if low else high / 2.0
        assert rate > 1e-3, "nothing can be served"
        (part,) = plan(snapshot_of(name, rate), CATALOG, use_worker=False).slices
        if part.served_requests_per_second >= 0.999 * rate:
            low, best = rate, part
        else:
            high = rate
    return low, best


@pytest.mark.parametrize("name", CASES)
def test_plans_at_their_limit_keep_their_targets(name: str) -> None:
    rate, part = limit_of(name)
    table, assembly = assemble(snapshot_of(name, rate), CATALOG)
    sharing = {assembly.candidates[c.id].column for c in table.columns if c.kv_share}
    assert any(replica.column in sharing for replica in part.replicas) == CASES[name][5]
    assert is_kept(simulated(part, CATALOG, Load()))


def test_half_as_much_again_is_too_much_for_most_of_them() -> None:
    """Else the caps would be far too low."""
    broken = [
        name for name in CASES if not is_kept(simulated(limit_of(name)[1], CATALOG, Load(1.5)))
    ]
    assert len(broken) >= len(CASES) / 2, broken


def test_pipelines_that_share_memory_serve_more_than_those_that_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "two nodes, wide"
    shared, _ = limit_of(name)
    monkeypatch.setattr(pipelines, "sharing_point", lambda *_: None)
    pipelines._cached.cache_clear()
    limit_of.cache_clear()
    plain, _ = limit_of(name)
    pipelines._cached.cache_clear()
    limit_of.cache_clear()
    assert shared > 1.5 * plain


def test_one_fragment_is_the_tightest_for_every_class() -> None:
    """A class's bytes over another's are the same on all fragments, so one row says it all."""
    (demand,) = snapshot_of("unlike nodes", 1.0).services
    from motley_planner.candidates.request import Request
    from motley_planner.candidates.spanning import problem_of
    from motley_planner.candidates.targets import targets_of

    request = Request(demand.key, "serve", demand.stages[0], MIX, targets_of(LOOSE), 0.1)
    problem = problem_of(request, (A100, L40S), CATALOG)
    grid = pipelines.grid_of(problem)
    assert grid is not None
    found = list(pipelines.queued_pipelines(problem))
    at = {(p.whole.gpu.name, p.whole.tensor_parallel): i for i, p in enumerate(grid.parts)}
    for one in found:
        cut = tuple((at[f.gpu, f.tensor_parallel], f.layers) for f in one.fragments)
        evaluator, _ = cut_replicas.cut_evaluator(grid, cut)
        assert evaluator.pipeline is not None
        free = evaluator.pipeline.free_bytes()
        rooms = [
            [
                room / (layers * grid.kv_bytes[kind, k])
                for room, (kind, layers) in zip(free, cut, strict=True)
            ]
            for k in range(len(grid.classes))
        ]
        assert len({each.index(min(each)) for each in rooms}) == 1
    assert found
