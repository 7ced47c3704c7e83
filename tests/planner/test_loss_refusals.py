"""A promise that falls short of `nodeLossTolerance` is told with its field and a fix that is true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import Budget, ServingDemand, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Refusal, Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level, Solution
from motley_planner.planning import plan
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.refusals import unpromised

CATALOG = load_catalog()
MODEL = CATALOG.models["Qwen/Qwen3-8B"]
KEY = "ServingPool/a/chat"


def pool(**changes: object) -> ServingDemand:
    made = ServingDemand(
        key=KEY,
        tenant="a",
        stages=(StageDemand("main", MODEL, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=1.0,
        node_loss_tolerance=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def planned(nodes: int, service: ServingDemand, **changes: object) -> Slice:
    kind = NodeClass("L4", "az-1", "on-demand", "", 0.7)
    there = tuple(Node(f"l4-{i}", kind, 2, 192_000, 2**41, 110, 2) for i in range(nodes))
    snapshot = Snapshot(there, services=(service,), time_limit_s=2.0)
    snapshot = replace(snapshot, **changes)  # type: ignore[arg-type]
    (part,) = plan(snapshot, CATALOG, use_worker=False).slices
    return part


def told(part: Slice) -> Refusal:
    assert part.refusals == ()  # everything asked for is served
    (refusal,) = part.unpromised
    assert "after losing 1 node" in refusal.message
    assert "spec.replan.nodeLossTolerance: 1" in refusal.message
    assert refusal.lift
    return refusal


def test_one_node_cannot_tolerate_its_own_loss_and_room_elsewhere_is_asked_for() -> None:
    part = planned(1, pool())
    assert part.served_requests_per_second == pytest.approx(1.0)
    refusal = told(part)
    assert (refusal.reason, refusal.field) == ("InsufficientGPUs", "spec.replan.nodeLossTolerance")
    assert refusal.lift.startswith("+")
    assert "L4" in refusal.lift
    assert planned(2, pool()).unpromised == ()


def test_room_on_the_node_that_may_be_lost_is_no_room() -> None:
    refusal = told(planned(1, pool(requests_per_second=0.5)))
    assert refusal.reason == "InsufficientGPUs"
    assert refusal.lift.endswith("on nodes that carry nothing of it")


def test_a_budget_that_stands_in_the_way_of_a_promise_is_named_and_lifting_it_helps() -> None:
    refusal = told(planned(3, pool(requests_per_second=0.5, budget=Budget(gpus=1))))
    assert (refusal.reason, refusal.field) == ("BudgetTooLow", "spec.budget.gpus")
    wanted = int(refusal.lift.rpartition(" ")[2])
    lifted = pool(requests_per_second=0.5, budget=Budget(gpus=wanted))
    assert planned(3, lifted).unpromised == ()


def test_a_promise_that_holds_or_was_not_asked_for_is_no_refusal() -> None:
    assert planned(3, pool()).unpromised == ()
    assert planned(1, pool(node_loss_tolerance=0)).unpromised == ()


def test_after_a_loss_nothing_is_added_for_the_next_one_and_nothing_refused() -> None:
    assert planned(1, pool(), steady=True).unpromised == ()


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (0.0, "no more than 12.5% would be served"),
        (1.0, "this plan serves 12.5%; no better was found"),
        (None, "this plan serves 12.5%; no better was found"),
    ],
)
def test_what_is_not_proved_of_a_promise_is_not_told_as_a_fact(
    gap: float | None, said: str
) -> None:
    made = Solution("feasible", levels=(Level("tolerance", -0.875, 0.0, gap),))
    assembly = Assembly()
    assembly.after_loss = {KEY: (0.125, 1)}
    (refusal,) = unpromised(pool(), (), made, assembly, Snapshot((), services=(pool(),)))
    assert f"asks for 100% of the rate after losing 1 node, and {said}" in refusal.message
