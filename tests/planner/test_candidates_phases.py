"""Prefill and decode apart: columns, bytes, links, and flows against networkx' max-flow."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import networkx as nx
import pytest

from motley_planner.candidates import Candidate, phase_candidates
from motley_planner.candidates.request import Request
from motley_planner.candidates.targets import targets_of
from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.costs.memory import kv_bytes
from motley_planner.domain.demand import (
    RoutingPolicy,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import Plan, Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.table import Link
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.planning.worth import running_units

CATALOG = load_catalog()
KEY = "ServingPool/team-a/rag"
PRICE = {"H100-SXM5-80GB": 6.88, "A100-SXM4-80GB": 3.43, "L40S": 1.86}
RAG = WorkloadClass("rag", 6000, 300)
CHAT = WorkloadClass("chat", 900, 250)
TIGHT = Slo(ttft_s={"p95": 2.0}, tpot_s={"p95": 0.03})
LOOSE = Slo(ttft_s={"p95": 3.0}, tpot_s={"p95": 0.1})
ZONES = ("az-1", "az-2")


def model(name: str = "meta-llama/Llama-3.1-70B-Instruct") -> ModelSpec:
    found = CATALOG.model(name)
    assert found is not None
    return found


STAGE = StageDemand("main", model(), "fp8", "vllm")


def nodes() -> tuple[Node, ...]:
    """8 H100 in one zone, 8 A100 and 8 L40S in another."""
    made = []
    for gpu, zone in (("H100-SXM5-80GB", "az-1"), ("A100-SXM4-80GB", "az-2"), ("L40S", "az-2")):
        node_class = NodeClass(gpu, zone, "on-demand", "", PRICE[gpu])
        made.append(Node(gpu, node_class, 8, 192_000, 2**41, 110, 8))
    return tuple(made)


def pool(slo: Slo = LOOSE, *classes: WorkloadClass, **changes: object) -> ServingDemand:
    """More long prompts than the fleet can serve."""
    demand = ServingDemand(
        key=KEY,
        tenant="team-a",
        stages=(STAGE,),
        classes=classes or (RAG,),
        requests_per_second=50.0,
        slo=slo,
    )
    return replace(demand, **changes)  # type: ignore[arg-type]


def fabric(bytes_per_second: float) -> tuple[Link, ...]:
    """The same rate between all zones and inside them."""
    return tuple(Link(a, b, bytes_per_second) for a in ZONES for b in ZONES)


def snapshot(demand: ServingDemand, can: bool = True, **changes: object) -> Snapshot:
    made = Snapshot(nodes(), (demand,), gateway_can_disaggregate=can, time_limit_s=10.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def solve(demand: ServingDemand, can: bool = True, **changes: object) -> Slice:
    made: Plan = plan(snapshot(demand, can, **changes), CATALOG, use_worker=False)
    return made.slices[0]


def phases(part: Slice) -> set[str]:
    return {replica.phase for replica in part.replicas}


def moved(part: Slice) -> float:
    """Requests/s whose KV cache moves."""
    return sum(flow.requests_per_second for flow in part.flows)


def listed(
    demand: ServingDemand, kv_scales: tuple[float, ...] = (1.0,), slo: Slo | None = None
) -> tuple[Candidate, ...]:
    targets = targets_of(slo or demand.slo)
    request = Request(KEY, "serve", STAGE, demand.classes, targets, demand.headroom)
    return phase_candidates(request, [n.node_class for n in nodes()], CATALOG, kv_scales)


def test_prefill_replicas_promise_first_tokens_and_decode_replicas_the_others() -> None:
    found = listed(pool(TIGHT, RAG, CHAT))
    assert {c.phase for c in found} == {"prefill", "decode"}
    for c in found:
        if c.phase == "prefill":
            assert not c.tpot_s and all(c.ttft_s[name] <= 2.0 for name in c.capacity)
        else:
            assert not c.ttft_s and all(c.tpot_s[name] * 1.15 <= 0.0301 for name in c.capacity)
        assert c.nic_bytes_per_s and all(rate > 0 for rate in c.capacity.values())
    assert len({c.id for c in found}) == len(found)
    hashes = {(c.column, c.phase, c.gpu, c.tensor_parallel, c.operating_batch) for c in found}
    assert len({h[0] for h in hashes}) == len(hashes)


def test_a_tighter_first_token_target_leaves_prefill_replicas_idler() -> None:
    best = []
    for limit in (8.0, 3.0, 1.5, 0.9):
        found = listed(pool(Slo(ttft_s={"p95": limit})))
        each = [c.capacity["rag"] / c.gpus for c in found if c.phase == "prefill"]
        best.append(max(each, default=0.0))
    assert best == sorted(best, reverse=True) and best[0] > 1.2 * best[2]


def test_a_class_that_one_phase_cannot_serve_has_neither() -> None:
    found = listed(pool(), slo=Slo(ttft_s={"p95": 0.01}))
    assert found == ()


def test_the_bytes_of_a_class_are_those_of_its_prompt() -> None:
    table, _ = assemble(snapshot(pool(LOOSE, RAG, CHAT)), CATALOG)
    weights = {c.name: c.kv_bytes for c in table.classes}
    # Llama 3.1 70B: 80 layers x 2 x 8 heads x 128 values of 2 bytes = 327,680 bytes a token.
    assert weights == {f"{KEY}/main/rag": 6000 * 327_680.0, f"{KEY}/main/chat": 900 * 327_680.0}
    assert kv_bytes(model(), 6000.0, 2.0) == 6000 * 327_680.0
    nics = {
        (c.fragments[0].gpu.partition("|")[0], c.gpus, c.phase): c.nic_bytes_per_second
        for c in table.columns
        if c.phase != "both"
    }
    for (gpu, gpus, phase), nic in nics.items():
        assert CATALOG.fabric is not None
        used = 1.0 - pool().headroom if phase == "prefill" else 1.0
        assert nic == pytest.approx(gpus * CATALOG.fabric.nic_of(gpu) * used)


def test_without_a_gateway_for_it_nothing_of_a_table_changes() -> None:
    table, _ = assemble(snapshot(pool(), can=False), CATALOG)
    assert {c.phase for c in table.columns} == {"both"}
    assert not table.links and all(c.kv_bytes == 0.0 for c in table.classes)
    never, _ = assemble(snapshot(pool(disaggregation="never"), can=True), CATALOG)
    assert never == table


def test_always_without_a_gateway_for_it_is_refused_and_what_runs_stays() -> None:
    part = solve(pool(disaggregation="always"), can=False)
    assert not part.replicas
    assert [(r.reason, r.field) for r in part.refusals] == [
        ("GatewayRequired", "spec.disaggregation")
    ]


def test_always_has_no_colocated_replica_and_auto_is_never_worse_than_either() -> None:
    auto, always = solve(pool(TIGHT)), solve(pool(TIGHT, disaggregation="always"))
    colocated = solve(pool(TIGHT, disaggregation="never"))
    assert phases(always) == {"prefill", "decode"} and phases(colocated) == {"both"}
    for other in (always, colocated):
        least = other.served_requests_per_second * (1 - 1e-3)
        assert auto.served_requests_per_second >= least
    # A tight TPOT beside long prompts is what the phases are separated for.
    gain = always.served_requests_per_second / colocated.served_requests_per_second
    assert gain > 1.3


def test_a_tighter_fabric_moves_the_optimum_from_apart_to_colocated() -> None:
    shares, served = [], []
    for rate in (1e12, 10e9, 3e9, 1e9, 1e8):
        part = solve(pool(), links=fabric(rate))
        served.append(part.served_requests_per_second)
        shares.append(moved(part) / part.served_requests_per_second)
    assert shares[0] > 0.9 and shares[-1] == 0.0
    assert all(a >= b - 1e-6 for a, b in pairwise(shares))
    assert all(a >= b * (1 - 2e-3) for a, b in pairwise(served))
    assert served[0] > 1.1 * served[-1]
    assert served[-1] == pytest.approx(
        solve(pool(), can=False).served_requests_per_second, rel=2e-3
    )


def test_compressed_caches_keep_phases_apart_on_slower_links_and_say_so() -> None:
    plain = solve(pool(), links=fabric(1e9))
    packed = solve(pool(), links=fabric(1e9), kv_scales=(1.0, 0.25))
    assert moved(packed) > moved(plain)
    assert packed.served_requests_per_second > 1.03 * plain.served_requests_per_second
    assert any("4 bits" in caveat and "2 %" in caveat for caveat in packed.caveats)
    assert not plain.caveats
    for flow in packed.flows:
        each = 6000 * 327_680.0 * flow.kv_scale
        assert flow.bytes_per_second == pytest.approx(flow.requests_per_second * each)


@pytest.mark.parametrize("rate", [1e12, 6e9, 2e9])
@pytest.mark.parametrize("slo", [TIGHT, LOOSE], ids=["tight", "loose"])
def test_the_flows_are_a_maximum_flow_through_the_plans_replicas(slo: Slo, rate: float) -> None:
    demand = pool(slo, disaggregation="always")
    table, _ = assemble(snapshot(demand, links=fabric(rate)), CATALOG)
    solution = solve_table(table, use_worker=False)
    assert not check(table, solution)
    graph = nx.DiGraph()
    columns = {c.id: c for c in table.columns}
    name, each = f"{KEY}/main/rag", 6000 * 327_680.0
    for replicas in solution.replicas:
        c = columns[replicas.column]
        assert c.nic_bytes_per_second is not None
        most = replicas.count * min(c.requests_per_second[name], c.nic_bytes_per_second / each)
        ends = ("in", c.id) if c.phase == "prefill" else (c.id, "out")
        graph.add_edge(*ends, capacity=most)
        zone = (c.phase, c.zone)
        graph.add_edge(*((c.id, zone) if c.phase == "prefill" else (zone, c.id)))
    for a in ZONES:
        for b in ZONES:
            graph.add_edge(("prefill", a), ("decode", b), capacity=rate / each)
    most, _ = nx.maximum_flow(graph, "in", "out")
    total = sum(flow.requests_per_second for flow in solution.flows)
    assert total == pytest.approx(most, rel=1e-4)


def test_flows_balance_in_every_zone_and_no_network_carries_more_than_it_can() -> None:
    demand = pool(LOOSE, RAG, CHAT)
    shot = snapshot(demand, links=fabric(2e9), kv_scales=(1.0, 0.25), time_limit_s=2.0)
    table, _ = assemble(shot, CATALOG)
    solution = solve_table(table, use_worker=False)
    assert not check(table, solution)
    columns, weights = {c.id: c for c in table.columns}, {c.name: c.kv_bytes for c in table.classes}
    at: Counter[tuple[str, str, str, float]] = Counter()
    sent: Counter[str] = Counter()
    for rate in solution.rates:
        c = columns[rate.column]
        if c.phase != "both":
            key = (c.phase, rate.request_class, c.zone, c.kv_scale)
            at[key] += rate.requests_per_second  # type: ignore[assignment]
            amount = rate.requests_per_second * weights[rate.request_class] * c.kv_scale
            sent[c.id] += amount  # type: ignore[assignment]
    link: Counter[tuple[str, str]] = Counter()
    for f in solution.flows:
        at["prefill", f.request_class, f.source, f.kv_scale] -= f.requests_per_second  # type: ignore[assignment]
        at["decode", f.request_class, f.target, f.kv_scale] -= f.requests_per_second  # type: ignore[assignment]
        amount = f.requests_per_second * weights[f.request_class] * f.kv_scale
        link[f.source, f.target] += amount  # type: ignore[assignment]
    assert solution.flows and all(abs(left) < 1e-6 for left in at.values())
    assert all(amount <= 2e9 * (1 + 1e-6) for amount in link.values())
    counts = {r.column: r.count for r in solution.replicas}
    for column, amount in sent.items():
        nic = columns[column].nic_bytes_per_second
        assert nic is not None and amount <= counts[column] * nic * (1 + 1e-6)


def test_without_stated_links_zones_are_joined_at_the_catalogs_rate() -> None:
    table, _ = assemble(snapshot(pool()), CATALOG)
    assert CATALOG.fabric is not None
    rate = CATALOG.fabric.zone_link_bytes_per_s
    assert {(k.source, k.target): k.bytes_per_second for k in table.links} == {
        ("az-1", "az-2"): rate,
        ("az-2", "az-1"): rate,
    }
    stated, _ = assemble(snapshot(pool(), links=(Link("az-1", "az-2", 5e9),)), CATALOG)
    rates = {(k.source, k.target): k.bytes_per_second for k in stated.links}
    assert rates == {("az-1", "az-2"): 5e9, ("az-2", "az-1"): rate}


def test_caches_never_cross_between_trust_zones() -> None:
    classes = [NodeClass("L40S", "az-1", "on-demand", trust, 1.86) for trust in ("", "secret")]
    demand = pool()
    request = Request(KEY, "serve", STAGE, demand.classes, (), demand.headroom)
    assert phase_candidates(request, classes[:1], CATALOG)
    assert phase_candidates(request, classes, CATALOG) == ()


def test_phases_that_run_are_recognized_and_go_on() -> None:
    demand = pool(TIGHT)
    first = plan(snapshot(demand), CATALOG, use_worker=False)
    running = running_units(first)
    assert {unit.phase for unit in running} == {"prefill", "decode"}
    again = plan(snapshot(demand, running=running), CATALOG, use_worker=False)
    assert not again.moves and again.kept == len(running)
    # A gateway that can no longer pair them ends them.
    ended = plan(snapshot(demand, can=False, running=running), CATALOG, use_worker=False)
    assert ended.kept == 0 and phases(ended.slices[0]) == {"both"}


def test_a_stage_of_a_cascade_may_have_its_phases_apart_while_another_may_not() -> None:
    small = StageDemand("small", model("Qwen/Qwen3-8B"), "bf16", "vllm", disaggregation="never")
    large = replace(STAGE, name="large", disaggregation="always")
    cascade = ServingDemand(
        key="ModelCascade/team-a/support",
        tenant="team-a",
        stages=(small, large),
        classes=(RAG,),
        requests_per_second=2.0,
        policies=(RoutingPolicy("p", {"small": 0.5}, 0.9, 0.9, {"small": 1.0, "large": 0.5}),),
        quality_floor=0.8,
    )
    made = plan(Snapshot(nodes(), (cascade,), gateway_can_disaggregate=True), CATALOG)
    part = made.slices[0]
    by_stage = {s: {r.phase for r in part.replicas if r.stage == s} for s in ("small", "large")}
    assert by_stage == {"small": {"both"}, "large": {"prefill", "decode"}}
    assert {flow.stage for flow in part.flows} == {"large"}
    assert moved(part) == pytest.approx(1.0, rel=1e-3)
    refused = plan(Snapshot(nodes(), (cascade,)), CATALOG, use_worker=False).slices[0]
    assert [r.field for r in refused.refusals] == ["spec.stages[large].disaggregation"]
