"""Points that a search begins from: which survivors a demand that fell leaves."""

from __future__ import annotations

import pytest

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
from motley_planner.formulations.fleet import formulate, solve_table
from motley_planner.formulations.starts import find_starts
from motley_planner.solver import Outcome


def six_dear_and_six_cheap(requests_per_second: float, objective: str) -> FleetTable:
    """Twelve replicas of two requests/s each run on three nodes of eight GPUs."""
    columns = (
        Column("dear", "m", "z", (Fragment("H100", 2),), {"k": 2.0}, price_usd_per_hour=9.0),
        Column("cheap", "m", "z", (Fragment("L4", 2),), {"k": 2.0}, price_usd_per_hour=2.0),
    )
    nodes = [TableNode(f"n{i}", gpu, "z", 8) for i, gpu in enumerate(("H100", "H100", "L4", "L4"))]
    homes = ["n0"] * 4 + ["n1"] * 2, ["n2"] * 4 + ["n3"] * 2
    replicas = [
        RunningReplica(f"{column.id}{i}", column.id, (home,))
        for column, found in zip(columns, homes, strict=True)
        for i, home in enumerate(found)
    ]
    return FleetTable(
        (RequestClass("k", "m", requests_per_second),),
        columns,
        (NodeGroup("H100", "z", 8, 2), NodeGroup("L4", "z", 8, 2)),
        objective=objective,  # type: ignore[arg-type]
        previous=Previous(tuple(nodes), tuple(replicas)),
        penalty_per_started_gpu=0.01,
        penalty_per_stopped_gpu=0.01,
    )


@pytest.mark.parametrize("objective", ["min_cost", "goodput"])
@pytest.mark.parametrize(("rate", "cheap", "dear"), [(9.5, 5, 0), (13.0, 6, 1), (23.9, 6, 6)])
def test_where_a_demand_fell_as_few_survivors_as_it_needs_are_a_start(
    objective: str, rate: float, cheap: int, dear: int
) -> None:
    milp, index = formulate(six_dear_and_six_cheap(rate, objective))
    kept = {index.table.columns[g.column].id: g.variable for g in index.packing.kept}
    found = [
        (round(x[kept["cheap"]]), round(x[kept["dear"]]), round(x[index.packing.new].sum()))
        for x in find_starts(milp, index)
        if milp.violation(x) <= 1e-9
    ]
    assert (cheap, dear, 0) in found


def test_a_search_that_is_killed_stops_what_a_lower_rate_leaves_idle_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("motley_planner.formulations.fleet.solve", lambda *_, **__: Outcome())
    solution = solve_table(six_dear_and_six_cheap(9.5, "min_cost"), use_worker=False)
    assert solution.status == "feasible" and solution.started == 0
    assert [(r.column, r.count) for r in solution.replicas] == [("cheap", 5)]
