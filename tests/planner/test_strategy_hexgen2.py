"""HexGen-2: routing as a max-flow, the widest cut, and flow-guided swaps."""

from __future__ import annotations

from itertools import combinations
from random import Random

import networkx as nx
import numpy as np
import pytest
from networkx.algorithms.flow import preflow_push

from motley_planner import strategies
from motley_planner.checker import check
from motley_planner.domain.table import Column, FleetTable, Fragment, Link, NodeGroup, RequestClass
from motley_planner.strategies.graph_cut import cut_weight, widest_cut
from motley_planner.strategies.hexgen2 import utilization
from motley_planner.strategies.max_flow import max_flow
from motley_planner.strategies.scorer import Scorer
from motley_planner.testing.corpus import split_phases

# The flow example of HexGen-2's description: two prefill and two decode groups.
EXAMPLE = {
    ("S", "P1"): 60.0, ("S", "P2"): 70.0, ("P1", "D1"): 40.0, ("P1", "D2"): 25.0,
    ("P2", "D1"): 30.0, ("P2", "D2"): 50.0, ("D1", "T"): 65.0, ("D2", "T"): 55.0,
}  # fmt: skip


def test_the_flow_of_the_worked_example_is_120_and_decode_binds() -> None:
    assert max_flow(EXAMPLE, "S", "T") == pytest.approx(120.0)
    more_decode = EXAMPLE | {("D1", "T"): 75.0}
    more_prefill = EXAMPLE | {("S", "P1"): 80.0}
    assert max_flow(more_decode, "S", "T") > 120.0
    assert max_flow(more_prefill, "S", "T") == pytest.approx(120.0)


def random_network(seed: int) -> dict[tuple[str, str], float]:
    """A prefill/decode network with some links missing."""
    random = Random(seed)
    prefill = [f"P{i}" for i in range(random.randint(1, 6))]
    decode = [f"D{i}" for i in range(random.randint(1, 6))]
    edges = {("S", p): random.uniform(1, 90) for p in prefill}
    edges |= {(d, "T"): random.uniform(1, 90) for d in decode}
    for p in prefill:
        for d in decode:
            if random.random() < 0.7:
                edges[p, d] = random.uniform(1, 60)
    return edges


def pushed(edges: dict[tuple[str, str], float]) -> float:
    """The flow's value by preflow-push."""
    graph = nx.DiGraph()
    graph.add_nodes_from(("S", "T"))
    for (a, b), most in edges.items():
        graph.add_edge(a, b, capacity=most)
    value: float = nx.maximum_flow_value(graph, "S", "T", flow_func=preflow_push)
    return value


def test_the_lp_equals_preflow_push_on_a_hundred_random_networks() -> None:
    for seed in range(100):
        edges = random_network(seed)
        assert max_flow(edges, "S", "T") == pytest.approx(pushed(edges), rel=1e-7), seed


def as_table(edges: dict[tuple[str, str], float]) -> FleetTable:
    """The same network as a fleet: a zone for each group, one request is one byte of KV."""
    groups = [v for v in {v for edge in edges for v in edge} if v not in "ST"]
    columns, nodes = [], []
    for group in sorted(groups):
        rate = edges[("S", group)] if group[0] == "P" else edges[(group, "T")]
        phase = "prefill" if group[0] == "P" else "decode"
        columns.append(
            Column(group, "m", group, (Fragment("A", 1),), {"k": rate}, phase)  # type: ignore[arg-type]
        )
        nodes.append(NodeGroup("A", group, 1, 1))
    links = tuple(
        Link(p, d, edges.get((p, d), 0.0))
        for p in sorted(groups)
        for d in sorted(groups)
        if p[0] == "P" and d[0] == "D"
    )
    return FleetTable(
        (RequestClass("k", "m", 1.0, kv_bytes=1.0),),
        tuple(columns),
        tuple(nodes),
        links,
        objective="max_min",
    )


def test_routing_a_table_with_fixed_replicas_is_that_max_flow() -> None:
    assert strategies.run("hexgen2", as_table(EXAMPLE)).objective == pytest.approx(120.0)
    for seed in range(20):
        edges = random_network(seed)
        scorer = Scorer(as_table(edges))
        scored = scorer.score((1,) * len(scorer.table.columns))
        assert scored is not None
        assert scored.values[0] == pytest.approx(pushed(edges), rel=1e-7), seed


def test_the_cut_is_as_wide_as_the_best_on_two_clusters() -> None:
    """Two racks joined by fast links: halves across the joint, not along it."""
    random = Random(0)
    for _ in range(10):
        size = 8
        weights = np.zeros((size, size))
        for a, b in combinations(range(size), 2):
            weights[a, b] = weights[b, a] = random.choice((1.0, 5.0, 40.0))
        side = widest_cut(weights)
        assert sum(side) == size // 2
        best = max(
            cut_weight(weights, [int(i in half) for i in range(size)])
            for half in combinations(range(size), size // 2)
        )
        assert cut_weight(weights, side) >= 0.9 * best


def test_a_single_vertex_and_an_empty_graph_have_a_side_each() -> None:
    assert widest_cut(np.zeros((0, 0))) == []
    assert widest_cut(np.zeros((1, 1))) == [1]


def test_the_plan_is_disaggregated_and_a_phase_binds() -> None:
    table = split_phases(0, "max_min")
    plan = strategies.run("hexgen2", table)
    assert check(table, plan) == ()
    phases = {c.id: c.phase for c in table.columns}
    assert {phases[r.column] for r in plan.replicas} == {"prefill", "decode"}
    scorer = Scorer(table)
    counts = {r.column: r.count for r in plan.replicas}
    scored = scorer.score(tuple(counts.get(c.id, 0) for c in table.columns))
    assert scored is not None
    assert max(utilization(scorer, scored)) == pytest.approx(1.0, abs=1e-6)
