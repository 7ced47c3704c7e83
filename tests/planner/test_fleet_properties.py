"""What must hold between a table and a changed table, and on degenerate tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from motley_planner.errors import SnapshotError
from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.tables import tiny_table

CLOSE = 1e-6
SEEDS = range(600)


def solve(table: FleetTable) -> Solution | None:
    """The plan, or None where max_min has none."""
    try:
        return solve_table(table, use_worker=False)
    except SnapshotError:
        return None


@cache
def tiny(seed: int, objective: str) -> FleetTable:
    """A tiny table turned to an objective, without side rows."""
    return replace(tiny_table(seed), objective=objective, side_rows=())


@cache
def plan_of(seed: int, objective: str) -> Solution | None:
    """The plan of a tiny table, which several tests start from."""
    return solve(tiny(seed, objective))


def tables(
    objective: str,
    count: int,
    *,
    previous: bool | None = False,
    where: Callable[[FleetTable], bool] = lambda table: True,
) -> Iterator[tuple[FleetTable, Solution]]:
    """Solved tiny tables of one objective, of those of which `where` is true."""
    for seed in SEEDS:
        table = tiny(seed, objective)
        if previous is not None and (table.previous is not None) != previous:
            continue
        if not where(table):
            continue
        solution = plan_of(seed, objective)
        if solution is None or solution.status != "optimal":
            continue
        yield table, solution
        count -= 1
        if not count:
            return


def worth(solution: Solution | None) -> tuple[float, ...]:
    """Levels, turned so that more is better; min_cost without a plan is worst."""
    if solution is None or not solution.levels:
        return (float("-inf"),)
    values = [lv.value if lv.value is not None else 0.0 for lv in solution.levels]
    names = [lv.name for lv in solution.levels]
    return tuple(-v if n == "price" else v for v, n in zip(values, names, strict=True))


def at_least(better: tuple[float, ...], base: tuple[float, ...]) -> bool:
    """Lexicographically not worse."""
    for a, b in zip(better, base, strict=True):
        if abs(a - b) > CLOSE * max(1.0, abs(b)):
            return a > b
    return True


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_more_nodes_are_never_worse(objective: str) -> None:
    for table, base in tables(objective, 25):
        more = replace(table, nodes=(*table.nodes, NodeGroup("A", "z0", 4, 1)))
        assert at_least(worth(solve(more)), worth(base))


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_a_larger_budget_is_never_worse(objective: str) -> None:
    for table, base in tables(objective, 25):
        for budget in (None, (table.budget_usd_per_hour or 0.0) + 3.0):
            if table.budget_usd_per_hour is not None or budget is None:
                richer = replace(table, budget_usd_per_hour=budget)
                assert at_least(worth(solve(richer)), worth(base))


def test_doubling_fleet_and_load_keeps_the_scale() -> None:
    for table, base in tables("max_min", 25):
        doubled = replace(
            table,
            nodes=(*table.nodes, *table.nodes),
            classes=tuple(
                replace(c, requests_per_second=2 * c.requests_per_second) for c in table.classes
            ),
            cascades=tuple(
                replace(c, requests_per_second=2 * c.requests_per_second) for c in table.cascades
            ),
            columns=tuple(
                replace(c, max_count=None if c.max_count is None else 2 * c.max_count)
                for c in table.columns
            ),
            links=tuple(replace(k, bytes_per_second=2 * k.bytes_per_second) for k in table.links),
            budget_usd_per_hour=None
            if table.budget_usd_per_hour is None
            else 2 * table.budget_usd_per_hour,
            penalty_per_started_gpu=table.penalty_per_started_gpu / 2,
        )
        assert at_least(worth(solve(doubled))[:1], worth(base)[:1])


def test_scaling_prices_scales_the_cost() -> None:
    for table, base in tables("min_cost", 25):
        dearer = replace(
            table,
            nodes=tuple(
                replace(g, price_usd_per_hour=3 * (g.price_usd_per_hour or 0.0))
                for g in table.nodes
            ),
            columns=tuple(
                replace(c, price_usd_per_hour=3 * c.price_usd_per_hour) for c in table.columns
            ),
            budget_usd_per_hour=None
            if table.budget_usd_per_hour is None
            else 3 * table.budget_usd_per_hour,
            penalty_per_started_gpu=3 * table.penalty_per_started_gpu,
        )
        assert worth(solve(dearer)) == pytest.approx(
            tuple(3 * v for v in worth(base)), rel=CLOSE, abs=CLOSE
        )


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_order_and_names_of_nodes_change_nothing(objective: str) -> None:
    for table, base in tables(objective, 20, previous=True):
        assert table.previous is not None
        names = {n.name: f"x{i}" for i, n in enumerate(reversed(table.previous.nodes))}
        nodes = tuple(replace(n, name=names[n.name]) for n in reversed(table.previous.nodes))
        replicas = tuple(
            replace(r, nodes=tuple(names[n] for n in r.nodes))
            for r in reversed(table.previous.replicas)
        )
        renamed = replace(
            table,
            columns=tuple(reversed(table.columns)),
            previous=Previous(nodes, replicas),
            lost_nodes=frozenset(names[n] for n in table.lost_nodes),
            cordoned_nodes=frozenset(names[n] for n in table.cordoned_nodes),
        )
        assert worth(solve(renamed)) == pytest.approx(worth(base), rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_a_class_without_load_changes_nothing(objective: str) -> None:
    for table, base in tables(objective, 20, previous=None):
        more = replace(table, classes=(*table.classes, RequestClass("idle", "other", 0.0)))
        assert worth(solve(more)) == pytest.approx(worth(base), rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_splitting_a_node_group_changes_nothing(objective: str) -> None:
    for table, base in tables(objective, 20):
        split = tuple(replace(g, count=1) for g in table.nodes for _ in range(g.count or 0))
        found = worth(solve(replace(table, nodes=split)))
        assert found == pytest.approx(worth(base), rel=CLOSE, abs=CLOSE)


def test_a_mixture_beats_one_policy_and_the_choice_beats_each_fixed_one() -> None:
    def has_a_choice(table: FleetTable) -> bool:
        return bool(table.cascades) and len(table.cascades[0].policies) >= 2

    seen = 0
    for table, _ in tables("goodput", 40, previous=None, where=has_a_choice):
        cascade = table.cascades[0]
        mixed = worth(solve(replace(table, cascades=(replace(cascade, mixture=True),))))
        chosen = worth(solve(replace(table, cascades=(replace(cascade, mixture=False),))))
        assert at_least(mixed, chosen)
        for policy in cascade.policies:
            fixed = replace(cascade, mixture=False, policies=(policy,))
            assert at_least(chosen, worth(solve(replace(table, cascades=(fixed,)))))
        seen += 1
    assert seen == 40


def test_disaggregation_allowed_is_never_worse_than_colocated_only() -> None:
    def has_phases_apart(table: FleetTable) -> bool:
        return any(c.phase != "both" for c in table.columns)

    seen = 0
    for table, base in tables("max_min", 40, previous=None, where=has_phases_apart):
        running = {r.column for r in table.previous.replicas} if table.previous else set()
        colocated = tuple(c for c in table.columns if c.phase == "both" or c.id in running)
        assert at_least(worth(base), worth(solve(replace(table, columns=colocated))))
        seen += 1
    assert seen == 40


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_nothing_moves_when_nothing_is_lost(objective: str) -> None:
    seen = 0
    for table, _ in tables(objective, 45, previous=False):
        nodes = tuple(
            TableNode(f"{i}/{j}", g.gpu, g.zone, g.gpus, g.price_usd_per_hour)
            for i, g in enumerate(table.nodes)
            for j in range(g.count or 0)
        )
        empty = replace(table, previous=Previous(nodes, ()), cordoned_nodes=frozenset())
        first = solve(empty)
        if first is None or not first.placement:
            continue
        running = tuple(
            RunningReplica(f"r{i}", p.column, p.nodes) for i, p in enumerate(first.placement)
        )
        again = replace(empty, previous=Previous(nodes, running), penalty_per_stopped_gpu=0.01)
        found = solve(again)
        assert found is not None
        # Without the price of starting that made it hold back, the first plan may now grow.
        assert found.stopped == 0
        if not table.penalty_per_started_gpu:
            assert found.started == 0
        seen += 1
        if seen == 10:
            break
    assert seen >= 5


def test_an_endless_penalty_stops_all_moves() -> None:
    for table, _ in tables("goodput", 25, previous=True):
        frozen = replace(
            table, penalty_per_started_gpu=1e6, penalty_per_stopped_gpu=1e6, penalty_in_price=False
        )
        frozen = replace(frozen, budget_usd_per_hour=None)
        frozen = replace(frozen, columns=tuple(replace(c, max_count=None) for c in frozen.columns))
        found = solve(frozen)
        assert found is not None
        assert (found.started, found.stopped) == (0, 0)


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_a_replan_is_never_worse_than_keeping_what_runs(objective: str) -> None:
    for table, base in tables(objective, 20, previous=True):
        assert table.previous is not None
        kept_only = replace(table, penalty_per_started_gpu=1e6, penalty_per_stopped_gpu=1e6)
        keeping = solve(kept_only)
        if keeping is not None and keeping.levels and not (keeping.started or keeping.stopped):
            free = replace(table, penalty_per_started_gpu=0.0, penalty_per_stopped_gpu=0.0)
            assert at_least(worth(solve(free)), worth(keeping))
        assert check(table, base) == ()


DEGENERATE = {
    "nothing at all": FleetTable((), ()),
    "no nodes": FleetTable(
        (RequestClass("k", "m", 1.0),), (Column("c", "m", "z", (Fragment("A", 1),), {"k": 1.0}),)
    ),
    "no columns": FleetTable((RequestClass("k", "m", 1.0),), (), (NodeGroup("A", "z", 8, 2),)),
    "no demand": FleetTable(
        (RequestClass("k", "m", 0.0),),
        (Column("c", "m", "z", (Fragment("A", 1),), {"k": 1.0}),),
        (NodeGroup("A", "z", 8, 2),),
    ),
    "a demand of 1e-9": FleetTable(
        (RequestClass("k", "m", 1e-9),),
        (Column("c", "m", "z", (Fragment("A", 1),), {"k": 10.0}, price_usd_per_hour=2.0),),
        (NodeGroup("A", "z", 8, 2),),
    ),
    "a demand of 1e-9 beside a large one": FleetTable(
        (RequestClass("k", "m", 1e-9), RequestClass("l", "n", 1e4)),
        (
            Column("c", "m", "z", (Fragment("A", 1),), {"k": 10.0}, price_usd_per_hour=2.0),
            Column("d", "n", "z", (Fragment("A", 1),), {"l": 1e3}, price_usd_per_hour=2.0),
        ),
        (NodeGroup("A", "z", 8, 2),),
    ),
    "unlimited nodes": FleetTable(
        (RequestClass("k", "m", 50.0),),
        (Column("c", "m", "z", (Fragment("A", 4),), {"k": 3.0}, price_usd_per_hour=2.0),),
        (NodeGroup("A", "z", 8, None, 5.0),),
    ),
    "a tiny capacity": FleetTable(
        (RequestClass("k", "m", 5.0),),
        (Column("c", "m", "z", (Fragment("A", 1),), {"k": 1e-7}),),
        (NodeGroup("A", "z", 8, 2),),
    ),
}


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tables_give_plans_that_check(name: str, objective: str) -> None:
    table = replace(DEGENERATE[name], objective=objective)
    solution = solve(table)
    if solution is None:
        assert objective == "max_min"
        return
    assert check(table, solution) == ()
    assert solution.status in ("optimal", "infeasible")


def test_a_tiny_demand_still_gets_a_whole_replica() -> None:
    table = replace(DEGENERATE["a demand of 1e-9 beside a large one"], objective="goodput")
    solution = solve(table)
    assert solution is not None
    assert solution.unserved == {"k": 0.0, "l": 0.0}
    assert solution.price_usd_per_hour == pytest.approx(22.0)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    gpus=st.integers(0, 9),
    count=st.one_of(st.none(), st.integers(0, 3)),
    tp=st.sampled_from([1, 2, 4, 8]),
    rate=st.one_of(st.just(0.0), st.floats(1e-9, 1e4)),
    capacity=st.one_of(st.just(0.0), st.floats(1e-3, 1e4)),
    price=st.sampled_from([0.0, 0.5, 7.0]),
    objective=st.sampled_from(["goodput", "min_cost"]),
)
def test_every_plan_of_a_one_column_table_checks(
    gpus: int,
    count: int | None,
    tp: int,
    rate: float,
    capacity: float,
    price: float,
    objective: str,
) -> None:
    column = Column("c", "m", "z", (Fragment("A", tp),), {"k": capacity}, price_usd_per_hour=price)
    table = FleetTable(
        (RequestClass("k", "m", rate),),
        (column,),
        (NodeGroup("A", "z", gpus, count, price),),
        objective=objective,
    )
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    assert solution.status in ("optimal", "infeasible")
