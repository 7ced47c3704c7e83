"""Tables out of all proportion: the answer in closed form, and no bound below it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner import strategies
from motley_planner.checker import check
from motley_planner.domain.table import Column, FleetTable, Fragment, NodeGroup, Objective
from motley_planner.domain.table import RequestClass as Class
from motley_planner.formulations.fleet import solve_table

REPLICAS = 4  # of tp 4 on two nodes of 8
EXPONENTS = st.integers(-12, 9)


def table(rate: float, each: float, objective: Objective = "max_min") -> FleetTable:
    """One class, one column, two nodes."""
    column = Column("c", "m", "z", (Fragment("H100", 4),), {"k": each})
    nodes = (NodeGroup("H100", "z", 8, 2),)
    return FleetTable((Class("k", "m", rate),), (column,), nodes, objective=objective)


@settings(max_examples=25, deadline=None)
@given(EXPONENTS, EXPONENTS, st.sampled_from(["max_min", "goodput"]))
def test_value_and_bound_are_what_all_replicas_give(
    rate: int, each: int, objective: Objective
) -> None:
    made = table(10.0**rate, 10.0**each, objective)
    best = REPLICAS * 10.0**each / 10.0**rate
    best = best if objective == "max_min" else min(1.0, best)
    found = solve_table(made, use_worker=False)
    assert found.status == "optimal"
    assert found.objective == pytest.approx(best, rel=1e-4)
    assert found.bound is not None and found.bound >= best * (1 - 1e-9)
    assert found.bound == pytest.approx(best, rel=2e-4)
    assert check(made, found) == ()


@pytest.mark.parametrize("strategy", ["exact", "cost-efficient"])
def test_a_demand_of_almost_nothing_has_a_largest_scale(strategy: str) -> None:
    found = strategies.run(strategy, replace(table(1e-10, 3.2), time_limit_s=3.0))
    assert found.objective == pytest.approx(REPLICAS * 3.2 / 1e-10, rel=1e-3)


def test_penalties_keep_their_unit() -> None:
    made = replace(table(1e-6, 3.2), penalty_per_started_gpu=1000.0)
    found = solve_table(made, use_worker=False)
    assert found.objective == pytest.approx(REPLICAS * 3.2 / 1e-6 - 16_000.0, rel=1e-9)
    assert check(made, found) == ()


def test_what_is_left_unserved_is_in_requests_of_the_table_asked() -> None:
    made = table(1e9, 3.2, "goodput")
    classes = (*made.classes, Class("t", "m", 1e-9), Class("none", "n", 7.0))
    column = replace(made.columns[0], requests_per_second={"k": 3.2, "t": 1e-9})
    found = solve_table(replace(made, classes=classes, columns=(column,)), use_worker=False)
    assert found.objective == pytest.approx(12.8 / (1e9 + 7.0), rel=1e-4)
    assert found.unserved == pytest.approx({"k": 1e9 - 12.8, "t": 1e-9, "none": 7.0}, rel=1e-4)
    assert {s.what: s.binding for s in found.shortfalls} == {
        "k": "gpus[H100,z,tp>=4]",
        "t": "gpus[H100,z,tp>=4]",
        "none": "no column serves none",
    }


def test_one_replica_of_a_billion_is_still_something() -> None:
    made = replace(table(1.0, 0.85), nodes=(NodeGroup("H100", "z", 4, 10**9),))
    found = solve_table(made, use_worker=False)
    assert found.objective == pytest.approx(0.85e9, rel=1e-6)
    one = replace(made, columns=(replace(made.columns[0], max_count=1),))
    assert solve_table(one, use_worker=False).objective == pytest.approx(0.85, rel=1e-6)
