"""Bounds from one pass over the columns: no plan beats them, and they say something."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from motley_planner.domain.table import Column, FleetTable, Fragment, NodeGroup, RequestClass
from motley_planner.errors import SnapshotError
from motley_planner.formulations.cheap_bounds import cheap_bound
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.pruning import _kinds
from motley_planner.testing.oracle import Unbounded, best_value
from motley_planner.testing.tables import large_table, tiny_table


@pytest.mark.parametrize("objective", ["max_min", "min_cost"])
def test_enumeration_never_beats_it(objective: Literal["max_min", "min_cost"]) -> None:
    told = 0
    for seed in range(400):
        table = _asked_for_less(replace(tiny_table(seed), objective=objective))
        if table.side_rows or table.scenarios:
            continue
        bound = cheap_bound(table, _kinds(table))
        if bound is None:
            continue
        try:
            best = best_value(table)
        except (Unbounded, SnapshotError):
            continue
        if best is None:
            continue
        sign = -1.0 if objective == "min_cost" else 1.0
        assert best[0] <= sign * bound + 1e-6 * max(1.0, abs(bound)), seed
        told += bound > 0.0
    assert told >= 20


def _asked_for_less(table: FleetTable) -> FleetTable:
    """A fifth of every rate, so that min_cost can often serve it all."""
    classes = (replace(c, requests_per_second=c.requests_per_second / 5) for c in table.classes)
    cascades = (replace(c, requests_per_second=c.requests_per_second / 5) for c in table.cascades)
    return replace(table, classes=tuple(classes), cascades=tuple(cascades))


@pytest.mark.parametrize(("objective", "share"), [("max_min", 1.25), ("min_cost", 0.6)])
def test_on_a_large_table_it_is_not_far_from_what_the_search_proves(
    objective: Literal["max_min", "min_cost"], share: float
) -> None:
    table = replace(large_table(256, 600), objective=objective, time_limit_s=5.0)
    bound, solution = cheap_bound(table, _kinds(table)), solve_table(table, use_worker=False)
    assert bound is not None and solution.bound is not None
    if objective == "max_min":
        assert solution.bound * (1 - 1e-6) <= bound <= share * solution.bound
    else:
        assert share * solution.bound <= bound <= solution.bound * (1 + 1e-6)


def test_nodes_prices_budgets_and_both_phases_count() -> None:
    prefill = Column("p", "m", "z", (Fragment("A", 2),), {"k": 4.0}, "prefill", 1.0)
    decode = Column("d", "m", "z", (Fragment("A", 4),), {"k": 2.0}, "decode", 3.0)
    table = FleetTable(
        (RequestClass("k", "m", 8.0),),
        (prefill, decode),
        (NodeGroup("A", "z", 8, 3, 16.0),),
        objective="min_cost",
    )
    # 2 prefill and 4 decode replicas: 14 USD/h of columns, and 20 GPUs of nodes at 2 USD/h each.
    assert cheap_bound(table, _kinds(table)) == pytest.approx(54.0)
    scale = replace(table, objective="max_min")
    assert cheap_bound(scale, _kinds(scale)) == pytest.approx(24 / 20)
    poor = replace(scale, budget_usd_per_hour=27.0)
    assert cheap_bound(poor, _kinds(poor)) == pytest.approx(0.5)
    endless = replace(scale, nodes=(replace(table.nodes[0], count=None),))
    assert cheap_bound(endless, _kinds(endless)) is None
