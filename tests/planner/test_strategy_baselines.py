"""Melange, greedy by regret, repair, homogeneous and round robin, each on tables with known answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from motley_planner import strategies
from motley_planner.checker import check
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import (
    Column,
    FleetTable,
    Fragment,
    NodeGroup,
    Previous,
    RequestClass,
    RunningReplica,
    TableNode,
)
from motley_planner.formulations.fleet import solve_table
from motley_planner.strategies.melange import pack
from motley_planner.testing.corpus import after_a_loss, mixed_pool


def exact(table: FleetTable) -> Solution:
    """The exact plan, without a process of its own."""
    return solve_table(table, use_worker=False)


def counts(solution: Solution) -> dict[str, int]:
    return {r.column: r.count for r in solution.replicas}


def melange_example() -> FleetTable:
    """config/example.json of tyler-griggs/melange-release (ebba701b)."""
    rates = {"00": 6.0, "01": 3.0, "10": 15.0, "11": 6.0}  # 30 x (0.2, 0.1, 0.5, 0.2)
    speeds = {"A10G": (2.0, 1.0, 5.0, 2.0), "A100": (20.0, 20.0, 40.0, 20.0)}
    prices = {"A10G": 1.01, "A100": 3.67}
    return FleetTable(
        tuple(RequestClass(k, "m", r) for k, r in rates.items()),
        tuple(
            Column(
                g, "m", "z", (Fragment(g, 1),), dict(zip(rates, s, strict=True)),
                price_usd_per_hour=prices[g],
            )
            for g, s in speeds.items()
        ),
        tuple(NodeGroup(g, "z", 1, None) for g in speeds),
        objective="min_cost",
    )  # fmt: skip


def test_melanges_own_example_costs_6_70_with_one_slice() -> None:
    solution = pack(melange_example(), 1)
    assert counts(solution) == {"A10G": 3, "A100": 1}
    assert solution.price_usd_per_hour == pytest.approx(6.70)


def test_finer_slices_are_never_dearer_and_a_continuous_split_cheapest() -> None:
    table = melange_example()
    prices = [pack(table, n).price_usd_per_hour or 0.0 for n in (1, 2, 4, 8)]
    assert all(a >= b - 1e-9 for a, b in pairwise(prices))
    best = exact(table).price_usd_per_hour
    assert best is not None
    assert best <= prices[-1] + 1e-9 < prices[0]


def two_models(gpus: int) -> FleetTable:
    """Model x may run on A or, dearer by 1, on B; model y only on B at a price of 9 more."""
    return FleetTable(
        (RequestClass("x", "x", 1.0), RequestClass("y", "y", 1.0)),
        (
            Column("x-a", "x", "z", (Fragment("A", 1),), {"x": 1.0}, price_usd_per_hour=1.0),
            Column("x-b", "x", "z", (Fragment("B", 1),), {"x": 1.0}, price_usd_per_hour=2.0),
            Column("y-a", "y", "z", (Fragment("A", 1),), {"y": 1.0}, price_usd_per_hour=1.0),
            Column("y-b", "y", "z", (Fragment("B", 1),), {"y": 1.0}, price_usd_per_hour=10.0),
        ),
        (NodeGroup("A", "z", gpus, 1), NodeGroup("B", "z", 4, 1)),
        objective="min_cost",
    )


def test_the_model_that_would_regret_most_takes_the_last_cheap_gpu() -> None:
    assert counts(strategies.run("greedy-regret", two_models(1))) == {"x-b": 1, "y-a": 1}
    assert counts(strategies.run("greedy-regret", two_models(2))) == {"x-a": 1, "y-a": 1}


def test_priority_comes_before_regret() -> None:
    table = replace(two_models(1), objective="goodput")
    classes = (replace(table.classes[0], priority=1), table.classes[1])
    assert counts(strategies.run("greedy-regret", replace(table, classes=classes))) == {
        "x-a": 1,
        "y-b": 1,
    }


def running_table(free: int, lost: str = "n0") -> FleetTable:
    """Two TP-2 replicas on n0 and n1; n2 has `free` GPUs."""
    return FleetTable(
        (RequestClass("k", "m", 10.0),),
        (Column("c", "m", "z", (Fragment("A", 2),), {"k": 4.0}),),
        objective="goodput",
        previous=Previous(
            (
                TableNode("n0", "A", "z", 2),
                TableNode("n1", "A", "z", 2),
                TableNode("n2", "A", "z", free),
            ),
            (RunningReplica("r0", "c", ("n0",)), RunningReplica("r1", "c", ("n1",))),
        ),
        lost_nodes=frozenset({lost}),
    )


@pytest.mark.parametrize(("free", "served"), [(4, 0.8), (1, 0.4)])
def test_repair_restarts_what_fits_and_keeps_the_rest_in_place(free: int, served: float) -> None:
    table = running_table(free)
    plan = strategies.run("repair", table)
    assert check(table, plan) == ()
    assert plan.objective == pytest.approx(served)
    assert (plan.stopped, plan.started) == (0, int(free >= 2))
    assert [p.kept for p in plan.placement if p.kept] == ["r1"]


def test_repair_never_adds_what_was_not_lost() -> None:
    """The free node could take two more replicas; repair starts one, exact both."""
    table = running_table(4)
    assert counts(strategies.run("repair", table)) == {"c": 2}
    assert counts(exact(table)) == {"c": 3}


def test_repair_stops_the_dearest_where_the_budget_shrank() -> None:
    table = running_table(4, "n0")
    columns = (replace(table.columns[0], price_usd_per_hour=3.0),)
    plan = strategies.run("repair", replace(table, columns=columns, budget_usd_per_hour=2.0))
    assert (plan.status, plan.stopped, plan.price_usd_per_hour) == ("feasible", 1, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_repair_stops_no_survivor_of_a_larger_fleet(seed: int) -> None:
    table = after_a_loss(seed, "goodput", 2)
    plan = strategies.run("repair", table)
    assert check(table, plan) == ()
    assert plan.stopped == 0


def test_homogeneous_is_the_best_of_the_types_alone() -> None:
    table = mixed_pool(0, "max_min", 1)
    plan = strategies.run("homogeneous", table)
    columns = {c.id: c for c in table.columns}
    assert len({f.gpu for r in plan.replicas for f in columns[r.column].fragments}) == 1
    best = 0.0
    for gpu in {n.gpu for n in table.nodes}:
        alone = tuple(n for n in table.nodes if n.gpu == gpu)
        best = max(best, exact(replace(table, nodes=alone)).objective or 0.0)
    assert plan.objective == pytest.approx(best, rel=1e-3)


def test_round_robin_shares_equally_so_the_slowest_replica_binds() -> None:
    table = FleetTable(
        (RequestClass("k", "m", 1.0),),
        (
            Column("fast", "m", "z", (Fragment("A", 1),), {"k": 9.0}),
            Column("slow", "m", "z", (Fragment("B", 1),), {"k": 1.0}),
        ),
        (NodeGroup("A", "z", 2, 1), NodeGroup("B", "z", 1, 1)),
        objective="max_min",
    )
    plan = strategies.run("round-robin", table)
    assert counts(plan) == {"fast": 2, "slow": 1}
    assert plan.objective == pytest.approx(3.0)
    assert {r.column: r.requests_per_second for r in plan.rates} == pytest.approx(
        {"fast": 2.0, "slow": 1.0}
    )
