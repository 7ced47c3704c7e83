"""The checker refuses plans that were changed by hand, one way at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from motley_planner.checker import check
from motley_planner.domain.solution import (
    Flow,
    PlacedReplica,
    PolicyShare,
    Rate,
    ReplicaCount,
    Solution,
)
from motley_planner.domain.table import (
    CascadeDemand,
    CascadePolicy,
    Column,
    FleetTable,
    Fragment,
    Link,
    Previous,
    RequestClass,
    RunningReplica,
    SideRow,
    TableNode,
)
from motley_planner.formulations.fleet import solve_table


def rich_table() -> FleetTable:
    """A re-plan with P/D across zones, a cascade, a budget, a quota and a lost node."""
    split = {"kv_scale": 1.0, "nic_bytes_per_second": 100.0, "price_usd_per_hour": 1.0}
    return FleetTable(
        classes=(
            RequestClass("chat", "m", 4.0, kv_bytes=1.0),
            RequestClass("small", "s", 0.0),
            RequestClass("large", "m", 0.0, kv_bytes=1.0),
        ),
        columns=(
            Column("p", "m", "a", (Fragment("A", 2),), {"chat": 5.0}, "prefill", **split),
            Column("d", "m", "b", (Fragment("B", 2),), {"chat": 5.0}, "decode", **split),
            Column("c", "m", "a", (Fragment("A", 4),), {"large": 0.8}, "both", 2.0, 1),
            Column("s", "s", "a", (Fragment("A", 1),), {"small": 3.0}, price_usd_per_hour=1.0),
        ),
        links=(Link("a", "b", 4.5), Link("b", "a", 0.0)),
        cascades=(
            CascadeDemand(
                "support",
                2.0,
                0.8,
                (
                    CascadePolicy("cheap", 0.7, {"small": 1.0}),
                    CascadePolicy("both", 0.9, {"small": 1.0, "large": 0.5}),
                ),
            ),
        ),
        objective="goodput",
        budget_usd_per_hour=9.0,
        side_rows=(SideRow("quota", {"s": 1.0}, at_most=2.0),),
        previous=Previous(
            (
                TableNode("a0", "A", "a", 8),
                TableNode("a1", "A", "a", 4, 0.5),
                TableNode("b0", "B", "b", 4),
                TableNode("b1", "B", "b", 4),
            ),
            (RunningReplica("r0", "p", ("a0",)), RunningReplica("r1", "d", ("b1",))),
        ),
        lost_nodes=frozenset({"b1"}),
        penalty_per_started_gpu=1e-4,
    )


TABLE = rich_table()
PLAN = solve_table(TABLE, use_worker=False)


def test_the_plan_itself_is_good_and_uses_everything() -> None:
    assert check(TABLE, PLAN) == ()
    assert PLAN.status == "optimal"
    assert PLAN.flows and len(PLAN.policies) == 2
    assert any(p.kept for p in PLAN.placement) and PLAN.started


def more_rate(plan: Solution) -> Solution:
    first = plan.rates[0]
    return replace(
        plan,
        rates=(replace(first, requests_per_second=first.requests_per_second * 2), *plan.rates[1:]),
    )


def first_level(**changes: float) -> Callable[[Solution], Solution]:
    def mutate(plan: Solution) -> Solution:
        level = replace(plan.levels[0], **changes)
        return replace(
            plan,
            levels=(level, *plan.levels[1:]),
            objective=level.value,
            bound=level.bound,
            gap=level.gap,
        )

    return mutate


def move(old: str, new: str) -> Callable[[Solution], Solution]:
    def mutate(plan: Solution) -> Solution:
        placement = tuple(
            replace(p, nodes=tuple(new if n == old else n for n in p.nodes)) for p in plan.placement
        )
        return replace(plan, placement=placement)

    return mutate


MUTATIONS: dict[str, Callable[[Solution], Solution]] = {
    "a rate doubles": more_rate,
    "a rate is dropped": lambda p: replace(p, rates=p.rates[1:]),
    "a rate is negative": lambda p: replace(p, rates=(*p.rates, Rate("s", "small", -1.0))),
    "a rate is not a number": lambda p: replace(
        p, rates=(*p.rates, Rate("s", "small", float("nan")))
    ),
    "a column serves what it cannot": lambda p: replace(
        p, rates=(*p.rates, Rate("s", "chat", 0.0))
    ),
    "a replica is dropped": lambda p: replace(p, replicas=p.replicas[1:]),
    "a replica more is counted": lambda p: replace(p, replicas=(*p.replicas, ReplicaCount("c", 1))),
    "an unknown column runs": lambda p: replace(p, replicas=(*p.replicas, ReplicaCount("x", 1))),
    "a placement is dropped": lambda p: replace(p, placement=p.placement[1:]),
    "a replica sits on a lost node": move("b0", "b1"),
    "a replica sits on the wrong GPU": move("b0", "a0"),
    "a node is overfull": lambda p: replace(
        p,
        placement=tuple(replace(q, nodes=("a1",)) if "a" in q.nodes[0] else q for q in p.placement),
    ),
    "a lost replica is kept": lambda p: replace(
        p,
        placement=tuple(replace(q, kept="r1") if q.column == "d" else q for q in p.placement),
    ),
    "a kept replica is another column": lambda p: replace(
        p, placement=(*p.placement[1:], PlacedReplica("s", ("a0",), "r0"))
    ),
    "starts are not counted": lambda p: replace(p, started=p.started - 1),
    "started GPUs are not counted": lambda p: replace(p, started_gpus=p.started_gpus - 1),
    "a stop is invented": lambda p: replace(p, stopped=1, stopped_gpus=2),
    "the price is lower": lambda p: replace(p, price_usd_per_hour=1.0),
    "shares do not add up": lambda p: replace(p, policies=p.policies[1:]),
    "quality is under the floor": lambda p: replace(
        p, policies=(PolicyShare("support", "cheap", 1.0),)
    ),
    "an unknown policy": lambda p: replace(
        p, policies=(*p.policies, PolicyShare("support", "x", 0.0))
    ),
    "a flow is dropped": lambda p: replace(p, flows=()),
    "a flow is over its link": lambda p: replace(
        p, flows=tuple(replace(f, requests_per_second=9.0) for f in p.flows)
    ),
    "a flow takes a forbidden link": lambda p: replace(
        p, flows=(*p.flows, Flow("chat", "b", "a", 1.0, 0.1))
    ),
    "unserved is hidden": lambda p: replace(p, unserved={}),
    "unserved is invented": lambda p: replace(p, unserved={**(p.unserved or {}), "chat": 1.0}),
    "the objective is higher": first_level(value=1.5, bound=1.5),
    "the bound is below the plan": first_level(bound=0.5),
    "the gap is not optimal": first_level(gap=0.5),
    "a level is missing": lambda p: replace(p, levels=p.levels[:1]),
    "no solution with a plan": lambda p: replace(p, status="no_solution"),
    "infeasible with an objective": lambda p: replace(p, status="infeasible"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_changed_plan_is_refused(name: str) -> None:
    changed = MUTATIONS[name](PLAN)
    assert changed != PLAN
    assert check(TABLE, changed) != ()


def test_limits_of_the_table_are_checked() -> None:
    tighter = {
        "budget": replace(TABLE, budget_usd_per_hour=2.0),
        "quota": replace(TABLE, side_rows=(SideRow("quota", {"s": 1.0}, at_most=0.0),)),
        "minimum": replace(TABLE, side_rows=(SideRow("min", {"s": 1.0}, at_least=9.0),)),
        "link": replace(TABLE, links=(Link("a", "b", 1.0),)),
        "max_count": replace(TABLE, columns=tuple(replace(c, max_count=0) for c in TABLE.columns)),
        "nic": replace(
            TABLE, columns=tuple(replace(c, nic_bytes_per_second=0.1) for c in TABLE.columns)
        ),
        "capacity": replace(
            TABLE,
            columns=tuple(
                replace(c, requests_per_second={k: v / 9 for k, v in c.requests_per_second.items()})
                for c in TABLE.columns
            ),
        ),
        "cordon": replace(TABLE, cordoned_nodes=frozenset({"b0"})),
        "one-hot": replace(TABLE, cascades=(replace(TABLE.cascades[0], mixture=False),)),
        "rate": replace(
            TABLE, classes=tuple(replace(c, requests_per_second=9.0) for c in TABLE.classes)
        ),
    }
    for name, table in tighter.items():
        assert check(table, PLAN) != (), name


def test_a_fleet_without_room_is_refused() -> None:
    from motley_planner.domain.table import NodeGroup

    table = FleetTable(
        (RequestClass("k", "m", 2.0),),
        (Column("c", "m", "z", (Fragment("A", 4),), {"k": 1.0}),),
        (NodeGroup("A", "z", 4, 2, 3.0),),
    )
    plan = solve_table(table, use_worker=False)
    assert check(table, plan) == ()
    assert check(replace(table, nodes=(NodeGroup("A", "z", 4, 1, 3.0),)), plan) != ()
    assert check(replace(table, nodes=(NodeGroup("A", "z", 2, 9, 0.0),)), plan) != ()
    assert check(replace(table, nodes=(NodeGroup("A", "z", 4, 2, 4.0),)), plan) != ()
