"""Points whose classes share KV memory: closed forms, and the simulator on plans that use them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from motley_planner.candidates.full_batches import operating_points
from motley_planner.candidates.operating import Evaluator
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.request import Request
from motley_planner.candidates.serving import evaluator_of, fitting_classes
from motley_planner.candidates.shared_memory import most_together, offered_points, shared_point
from motley_planner.candidates.targets import targets_of
from motley_planner.catalog import load_catalog
from motley_planner.costs.memory import resident_tokens
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.testing.simulating import Load, is_kept, simulated

CATALOG = load_catalog()
GPU = "H100-SXM5-80GB"
CLASS = NodeClass(GPU, "z", "on-demand", "", 6.88)
MIX = (
    WorkloadClass("short", 200, 100, 5),
    WorkloadClass("medium", 1500, 300, 3),
    WorkloadClass("large", 6000, 250, 1),
)
DOCS = (WorkloadClass("chat", 300, 400, 20), WorkloadClass("docs", 16000, 300, 1))
LOOSE = Slo(ttft_s={"p95": 5.0}, tpot_s={"p95": 0.15})
TAIL = Slo(ttft_s={"p99": 2.0}, tpot_s={"p90": 0.08})
# Model, precision, classes, targets, nodes of one GPU, and the mix's requests/s that they can serve.
CASES = {
    "one for a mix": ("Qwen/Qwen3-8B", "bf16", MIX, LOOSE, 1, 14.2),
    "three with a tail": ("Qwen/Qwen3-8B", "bf16", MIX, TAIL, 3, 38.8),
    "documents": ("Qwen/Qwen3-8B", "bf16", DOCS, TAIL, 6, 58.0),
    "a larger model": ("Qwen/Qwen3-32B", "fp8", MIX, LOOSE, 3, 14.5),
}


def request_of(classes: tuple[WorkloadClass, ...], slo: Slo) -> Request:
    model = CATALOG.model("Qwen/Qwen3-8B")
    assert model is not None
    stage = StageDemand("main", model, "bf16", "vllm")
    return Request("k", "serve", stage, classes, targets_of(slo), 0.1)


def evaluated(classes: tuple[WorkloadClass, ...], slo: Slo) -> tuple[Evaluator, OperatingPoint]:
    """The evaluator of one GPU and its point that shares memory."""
    request = request_of(classes, slo)
    evaluator = evaluator_of(request, GPU, 1, CATALOG)
    assert isinstance(evaluator, Evaluator)
    points = offered_points(evaluator, fitting_classes(request, evaluator.replica))
    (shared,) = (point for point in points if point.kv_share)
    return evaluator, shared


def demand_of(name: str) -> tuple[Snapshot, ServingDemand]:
    model_name, precision, classes, slo, nodes, rate = CASES[name]
    model = CATALOG.model(model_name)
    assert model is not None
    demand = ServingDemand(
        key="ServingPool/team-a/pool",
        tenant="team-a",
        stages=(StageDemand("main", model, precision, "vllm"),),
        classes=classes,
        requests_per_second=rate,
        slo=slo,
    )
    fleet = tuple(Node(f"n{i}", CLASS, 1, 24_000, 2**38, 110, 1) for i in range(nodes))
    return Snapshot(fleet, services=(demand,), time_limit_s=5), demand


@pytest.mark.parametrize("name", CASES)
def test_plans_that_share_memory_serve_what_no_other_could_and_keep_their_promises(
    name: str,
) -> None:
    snapshot, demand = demand_of(name)
    table, assembly = assemble(snapshot, CATALOG)
    sharing = {assembly.candidates[c.id].column for c in table.columns if c.kv_share}
    (part,) = plan(snapshot, CATALOG, use_worker=False).slices
    assert part.served_requests_per_second >= 0.999 * demand.requests_per_second
    assert any(replica.column in sharing for replica in part.replicas)
    assert is_kept(simulated(part, CATALOG, Load()))
    plain = replace(table, columns=tuple(c for c in table.columns if not c.kv_share))
    from motley_planner.formulations.fleet import solve_table

    unserved = solve_table(plain, use_worker=False).unserved or {}
    assert sum(unserved.values()) > 0.015 * demand.requests_per_second


def test_without_the_row_a_plan_of_the_same_points_fills_the_memory_and_breaks_its_promises() -> (
    None
):
    """Essays alone, at what the time of a full batch would allow: memory holds a fifth of it."""
    classes = (WorkloadClass("chat", 300, 300, 10), WorkloadClass("essay", 6000, 2000, 1))
    _, shared = evaluated(classes, LOOSE)
    time, memory = shared.limits("essay")
    assert time > 2.0 * memory
    snapshot, demand = demand_of("one for a mix")
    demand = replace(demand, classes=classes, requests_per_second=3.0)
    (part,) = plan(replace(snapshot, services=(demand,)), CATALOG, use_worker=False).slices
    (one,) = part.replicas
    assert one.operating_batch == shared.batch
    kept, broken = (
        replace(part, replicas=(replace(one, rates={"essay": rate}),)) for rate in (memory, time)
    )
    assert is_kept(simulated(kept, CATALOG, Load()))
    assert not is_kept(simulated(broken, CATALOG, Load()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_worst_mix_that_memory_holds_is_the_optimum_of_its_program(seed: int) -> None:
    draw = random.Random(seed)
    names = [f"k{i}" for i in range(draw.randint(1, 5))]
    values = {name: draw.uniform(1.0, 1e4) for name in names}
    rooms = {name: draw.uniform(1.0, 300.0) for name in names}
    batch = draw.randint(1, 256)
    rows = [[1.0] * len(names), [1.0 / rooms[name] for name in names]]
    found = linprog([-values[name] for name in names], rows, [batch, 1.0])
    assert most_together(values, rooms, batch) == pytest.approx(-float(found["fun"]), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_rates_within_the_row_hold_no_more_bytes_on_average_than_there_are(
    weights: list[float],
) -> None:
    """Little's law with the steps of a full batch: bytes in use <= memory, at the row's edge."""
    evaluator, shared = evaluated(MIX, LOOSE)
    loads = fitting_classes(request_of(MIX, LOOSE), evaluator.replica)
    mix = {c.name: w + 1e-3 for c, w in zip(loads, weights, strict=True)}
    full = 1.0 / sum(w / shared.limits(name)[1] for name, w in mix.items())
    rates = {name: w * full for name, w in mix.items()}
    busy = sum(rates[c.name] * c.prefill_s for c in loads)
    longest = max(shared.tpot_s.values())
    step = (
        longest
        - most_together(
            {c.name: c.prefill_s_per_output_token for c in loads},
            {c.name: c.most_sequences for c in loads},
            shared.batch,
        )
        * (shared.batch - 1.0)
        / shared.batch
    )
    held = sum(
        rates[c.name] / c.most_sequences * (c.prefill_s + c.output_tokens * step / (1.0 - busy))
        for c in loads
    )
    assert held <= 1.0


def test_a_batch_that_every_class_can_fill_needs_no_row() -> None:
    """Then the bytes of any full batch fit, whatever the mix: the row could never bind."""
    request = request_of(MIX, LOOSE)
    evaluator = evaluator_of(request, GPU, 1, CATALOG)
    assert isinstance(evaluator, Evaluator)
    loads = fitting_classes(request, evaluator.replica)
    for point in operating_points(evaluator, loads):
        rooms = [c.most_sequences for c in loads if c.name in point.capacity]
        assert point.batch <= min(rooms) and not point.kv_share
    assert shared_point(evaluator, loads, int(min(c.most_sequences for c in loads))) is None


def test_one_class_or_alike_ones_are_offered_nothing_new() -> None:
    for classes in (MIX[1:2], (MIX[1], replace(MIX[1], name="same"))):
        request = request_of(classes, LOOSE)
        evaluator = evaluator_of(request, GPU, 1, CATALOG)
        assert isinstance(evaluator, Evaluator)
        loads = fitting_classes(request, evaluator.replica)
        assert offered_points(evaluator, loads) == operating_points(evaluator, loads)


def test_the_worst_context_of_a_shared_batch_is_what_memory_holds() -> None:
    """Tokens of the worst batch: never more than the memory's, less than a batch of the longest."""
    evaluator, shared = evaluated(MIX, LOOSE)
    loads = fitting_classes(request_of(MIX, LOOSE), evaluator.replica)
    tokens = {c.name: c.prompt_tokens + c.output_tokens / 2.0 for c in loads}
    rooms = {c.name: c.most_sequences for c in loads}
    most = most_together(tokens, rooms, shared.batch)
    held = [resident_tokens(c.prompt_tokens, c.output_tokens) * c.most_sequences for c in loads]
    assert np.allclose(held, held[0])
    assert most <= held[0] < shared.batch * max(tokens.values())
