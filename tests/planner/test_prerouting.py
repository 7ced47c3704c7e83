"""A way of its own for each class of a cascade: the optimum, the floors, the bounds, the dispatcher."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.policies import routing_policies
from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.dispatch import Dispatcher, Policy, RoutingTable, parse_routing
from motley_planner.dispatch.parsing import RoutingError
from motley_planner.dispatch.policies import policies_of
from motley_planner.dispatch.routing import RequestClass, ResourceRef, Stage, routing_document
from motley_planner.domain.demand import (
    RoutingPolicy,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.planning.prerouting import with_class_policies
from motley_planner.simulator import Report
from motley_planner.testing.simulating import Load, is_kept, simulated

CATALOG = load_catalog()
CLASSES = (WorkloadClass("chat", 900, 220, 3), WorkloadClass("math", 1500, 260, 1))
GPU = "H100-SXM5-80GB"
# True quality of the small model by class; its score says nothing, so only the class tells.
SMALL = {"chat": 0.92, "math": 0.25}
LARGE = 0.93


def made(rows: int, seed: int) -> CalibrationTable:
    """Three chats to one math; the small model is as good at chats and bad at math."""
    generator = np.random.default_rng(seed)
    classes = np.where(generator.random(rows) < 0.75, "chat", "math")
    good = np.where(classes == "chat", SMALL["chat"], SMALL["math"])
    small = (generator.random(rows) < good).astype(float)
    large = (generator.random(rows) < LARGE).astype(float)
    return CalibrationTable(
        ("small", "large"),
        {"small": tuple(generator.random(rows).tolist())},
        {"small": tuple(small.tolist()), "large": tuple(large.tolist())},
        {},
        tuple(classes.tolist()),
    )


def cascade(floor: float, rate: float = 60.0, slo: Slo | None = None) -> ServingDemand:
    small, large = CATALOG.model("Qwen/Qwen3-8B"), CATALOG.model("Qwen/Qwen3-32B")
    assert small is not None and large is not None
    return ServingDemand(
        key="ModelCascade/team-a/support",
        tenant="team-a",
        stages=(
            StageDemand("small", small, "bf16", "vllm"),
            StageDemand("large", large, "fp8", "vllm"),
        ),
        classes=CLASSES,
        requests_per_second=rate,
        slo=slo or Slo(ttft_s={"p95": 3.0}),
        policies=routing_policies(made(3000, 7), 0.95),
        quality_floor=floor,
    )


def fleet(nodes: int = 4) -> tuple[Node, ...]:
    kind = NodeClass(GPU, "z", "on-demand", "", 6.88)
    return tuple(Node(f"n{i}", kind, 8, 192_000, 2**41, 110, 8) for i in range(nodes))


def snapshot_of(service: ServingDemand, by_class: bool = True) -> Snapshot:
    return Snapshot(fleet(), services=(service,), route_by_class=by_class)


def solved(service: ServingDemand, by_class: bool = True) -> Slice:
    (part,) = plan(snapshot_of(service, by_class), CATALOG, use_worker=False).slices
    assert part.served_requests_per_second == pytest.approx(service.requests_per_second)
    return part


def of_class(part: Slice, name: str) -> dict[str, float]:
    """Mean visits of a class's requests, by stage."""
    table = [Policy(p.id, p.share, p.thresholds, p.classes) for p in part.policies]
    visits = {p.id: p.visits for p in part.policies}
    found: dict[str, float] = {}
    for policy in policies_of(table, name):
        for stage, often in visits[policy.id].items():
            found[stage] = found.get(stage, 0.0) + policy.share * often
    return found


def test_a_class_that_the_small_model_cannot_answer_goes_straight_to_the_large_one() -> None:
    asked = cascade(0.85)
    alike, apart = solved(asked, by_class=False), solved(asked)
    assert apart.price_usd_per_hour < 0.8 * alike.price_usd_per_hour
    assert of_class(apart, "math")["large"] > 0.6
    assert of_class(apart, "chat").get("large", 0.0) < 0.1
    assert apart.expected_quality is not None and apart.expected_quality >= 0.85 - 1e-6
    assert any(choice.classes == ("math",) for choice in apart.policies)
    assert sum(choice.share for choice in apart.policies) == pytest.approx(1.0)
    assert not any(choice.classes for choice in alike.policies)


@pytest.mark.parametrize("name", ["chat", "math"])
def test_as_much_of_every_class_follows_policies_as_arrives(name: str) -> None:
    part = solved(cascade(0.85))
    alike = sum(p.share for p in part.policies if not p.classes)
    own = sum(p.share for p in part.policies if name in p.classes)
    weight = next(c.weight for c in CLASSES if c.name == name) / 4
    assert own + weight * alike == pytest.approx(weight, abs=1e-6)


def test_a_floor_of_a_class_is_kept_by_what_that_class_follows() -> None:
    free, strict = (
        solved(replace(cascade(0.55), class_floors=floors)) for floors in ({}, {"math": 0.8})
    )
    assert of_class(free, "math").get("large", 0.0) < 0.5
    assert of_class(strict, "math")["large"] > 0.75


def test_policies_by_class_hold_beside_an_end_to_end_target_too() -> None:
    asked = cascade(0.85, slo=Slo(e2e_s={"p95": 14.0}))
    alike, apart = solved(asked, by_class=False), solved(asked)
    assert apart.price_usd_per_hour < 0.9 * alike.price_usd_per_hour
    assert of_class(apart, "math")["large"] > of_class(apart, "chat")["large"]


def fixed(service: ServingDemand) -> FleetTable:
    """The service's table with three replicas of one small column and two of one large, max_min."""
    table, _ = assemble(with_class_policies(snapshot_of(service)), CATALOG)
    columns = []
    for stage, count in (("small", 3), ("large", 2)):
        mine = [c for c in table.columns if c.model.endswith(stage) and c.gpus == 1]
        both = next(c for c in mine if len(c.requests_per_second) == 2 and not c.kv_share)
        columns.append(replace(both, max_count=count, pool_steps=()))
    return replace(table, columns=tuple(columns), objective="max_min")


def largest_scale(table: FleetTable, policies: tuple[RoutingPolicy, ...], floor: float) -> float:
    """The largest scale by an LP over (class, policy) that knows no side rows."""
    small, large = table.columns
    (demand,) = table.cascades
    weights = {c.name: c.weight / 4 for c in CLASSES}
    cost = np.zeros(len(policies) + 1)
    cost[-1] = -1.0
    upper, right, equal = [], [], []
    for column in (small, large):
        stage = column.model.rpartition("/")[2]
        row = []
        for p in policies:
            shares = {p.request_class: 1.0} if p.request_class else weights
            each = (
                shares[n] * p.visits[stage] / column.requests_per_second[f"{column.model}/{n}"]
                for n in shares
            )
            row.append(sum(each))
        upper.append([*row, 0.0])
        right.append(float(column.max_count or 0))
    upper.append([*(floor - p.quality for p in policies), 0.0])
    right.append(0.0)
    for name, weight in weights.items():
        part = [weight if not p.request_class else float(p.request_class == name) for p in policies]
        equal.append([*part, -weight * demand.requests_per_second])
    found = linprog(cost, upper, right, equal, [0.0] * len(equal))
    return -float(found["fun"])


@pytest.mark.parametrize("floor", [0.6, 0.78, 0.85])
def test_the_plan_serves_what_a_program_over_classes_and_policies_can_serve(floor: float) -> None:
    service = cascade(floor)
    table = fixed(service)
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    (known,) = with_class_policies(snapshot_of(service)).services
    assert solution.objective == pytest.approx(
        largest_scale(table, known.policies, floor), rel=1e-6
    )


def test_bounds_of_all_classes_and_of_the_whole_hold_at_once_as_often_as_they_say() -> None:
    held, tables = 0, 60
    for seed in range(tables):
        policies = routing_policies(made(400, 1000 + seed), 0.9)
        good = True
        for p in policies:
            assert p.joint is not None
            # The score is uniform: a threshold t keeps a share 1 - t of the small one's answers.
            kept = 1.0 - min(p.thresholds["small"], 1.0)
            truth = {n: kept * q + (1.0 - kept) * LARGE for n, q in SMALL.items()}
            good &= all(p.joint.by_class[n][0] <= truth[n] for n in truth)
            good &= p.joint.whole <= 0.75 * truth["chat"] + 0.25 * truth["math"]
        held += good
    # 60 draws of an event of at least 90 %: three standard deviations are 7 draws.
    assert held >= 47


def test_bounds_that_hold_at_once_are_no_higher_than_those_of_one_mix_for_all() -> None:
    for p in routing_policies(made(600, 3), 0.95):
        assert p.joint is not None and p.joint.whole <= p.quality
        assert all(p.joint.by_class[n][0] <= q for n, q in p.class_quality.items())


def test_a_table_without_classes_or_with_others_leaves_one_mix_for_all() -> None:
    plain = routing_policies(replace(made(600, 3), classes=()), 0.95)
    for asked in (
        replace(cascade(0.8), policies=plain),
        replace(cascade(0.8), classes=(*CLASSES, WorkloadClass("code", 500, 100))),
    ):
        assert with_class_policies(snapshot_of(asked)).services == (asked,)


def routed(policies: tuple[Policy, ...]) -> RoutingTable:
    stages = (Stage("small", "s", ()), Stage("large", "l", ()))
    classes = (RequestClass("chat", 900, 220), RequestClass("math", 1500, 260))
    ref = ResourceRef("ModelCascade", "team-a", "support")
    return RoutingTable("abc", ref, ("support",), classes, stages, policies)


MIXED = (
    Policy("both", 0.2, {"small": 0.5}),
    Policy("low/chat", 0.45, {"small": 0.1}, ("chat",)),
    Policy("high/chat", 0.15, {"small": 0.7}, ("chat",)),
    Policy("skip/math", 0.2, {"small": 1.01}, ("math",)),
)


def test_a_dispatcher_draws_a_classs_own_policies_in_their_proportions() -> None:
    dispatcher = Dispatcher(routed(MIXED))
    for name, wanted in (
        ("chat", {"both": 0.2, "low/chat": 0.6, "high/chat": 0.2}),
        ("math", {"both": 0.2, "skip/math": 0.8}),
    ):
        drawn_ids = Counter(
            policy.id for _ in range(1000) if (policy := dispatcher.draw_policy(name)) is not None
        )
        assert {i: n / 1000 for i, n in drawn_ids.items()} == pytest.approx(wanted, abs=0.002)


def test_a_routing_file_with_classes_reads_back_and_one_that_leaves_a_class_out_is_refused() -> (
    None
):
    assert parse_routing(routing_document(routed(MIXED))) == routed(MIXED)
    alone = (replace(MIXED[1], share=1.0),)
    with pytest.raises(RoutingError, match="'math'"):
        parse_routing(routing_document(routed(alone)))
    unknown = (replace(MIXED[0], share=0.5), replace(MIXED[1], share=0.5, classes=("code",)))
    with pytest.raises(RoutingError, match="'code'"):
        parse_routing(routing_document(routed(unknown)))


def visited(report: Report) -> dict[tuple[str, str], int]:
    return {(each.stage, each.name): each.requests for each in report.classes}


@pytest.mark.parametrize("by_class", [False, True])
def test_simulated_every_class_visits_the_stages_as_planned_and_the_promises_hold(
    by_class: bool,
) -> None:
    """Policies that skip the small stage included: they never visit it."""
    part = solved(cascade(0.85, slo=Slo(e2e_s={"p95": 14.0})), by_class)
    assert any(choice.visits["small"] == 0.0 for choice in part.policies)
    report = simulated(part, CATALOG, Load(seed=3))
    assert report.answered == report.requests
    assert is_kept(report)
    for choice in part.policies:
        assert report.policies.get(choice.id, 0.0) == pytest.approx(choice.share, abs=0.02)
    seen = visited(report)
    for each in CLASSES:
        planned = of_class(part, each.name)
        both = seen["small", each.name] + seen["large", each.name]
        wanted = planned.get("large", 0.0) / sum(planned.values())
        assert seen["large", each.name] / both == pytest.approx(wanted, abs=0.02)
