"""What routing alone can serve with given replicas: the smallest of all fleet problems (T0)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from motley_planner.domain.table import FleetTable, Fragment, NodeGroup, Scenario
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.scenarios import scenario_table

RECOURSE_SECONDS = 2.0


def share_after(table: FleetTable, scenario: Scenario, left: Mapping[str, int]) -> float:
    """The largest share, at most the scenario's, of its demands that `left` replicas serve.

    Each column becomes a node class of its own with as many one-GPU nodes as there are replicas,
    all of them free of charge, so that nothing but rates is left to decide.
    """
    part = scenario_table(table, scenario)
    asked = [c.requests_per_second for c in part.classes]
    asked += [c.requests_per_second for c in part.cascades]
    if not any(rate > 0 for rate in asked):
        return scenario.share
    columns = tuple(
        replace(
            c,
            fragments=(Fragment(c.id, 1),),
            price_usd_per_hour=0.0,
            max_count=None,
            min_count=0,
        )
        for c in part.columns
        if left.get(c.id, 0) > 0
    )
    there = {c.id for c in columns}
    alone = replace(
        part,
        columns=columns,
        nodes=tuple(NodeGroup(c.id, c.zone, 1, left[c.id]) for c in columns),
        side_rows=tuple(
            row
            for row in part.side_rows
            if set(row.per_replica) | {c for c, _ in row.per_rate} <= there
        ),
        previous=None,
        purchasable=(),
        start=(),
        starts=(),
        lost_nodes=frozenset(),
        cordoned_nodes=frozenset(),
        budget_usd_per_hour=None,
        penalty_per_started_gpu=0.0,
        penalty_per_stopped_gpu=0.0,
        penalty_in_price=False,
        time_limit_s=RECOURSE_SECONDS,
        relative_gap=1e-7,
    )
    found = solve_table(alone, use_worker=False)
    return min(scenario.share, found.objective or 0.0)
