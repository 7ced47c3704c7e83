"""What routing alone can still serve with given replicas, by LPs of scipy.

Shares no code with the formulations or the planner's own test of losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from motley_planner.checker.best_rates import Rates, Unbounded
from motley_planner.domain.table import CascadeDemand, FleetTable, RequestClass, Scenario

D = TypeVar("D", RequestClass, CascadeDemand)


def served_in(table: FleetTable, scenario: Scenario, counts: Mapping[str, int]) -> float:
    """The share (at most the scenario's own) that can be served in a scenario by these counts."""
    left, worth = {}, {}
    for column in table.columns:
        have = counts.get(column.id, 0)
        lost, of = scenario.lost.get(column.id, (0, 1))
        if lost > 0 or column.id in scenario.thinned:
            stay = have * (1 - scenario.thinned.get(column.id, 0.0))
            left[column.id] = min(stay, max(have - lost, have * (1 - lost / max(of, lost)), 0.0))
            worth[column.id] = left[column.id]
        else:
            left[column.id], worth[column.id] = float(have), column.worth_of(have)
    return served_by(table, scenario, left, worth)


def served_by(
    table: FleetTable,
    scenario: Scenario,
    left: Mapping[str, float],
    worth: Mapping[str, float] | None = None,
) -> float:
    """The share that can be served by the replicas left, worth as much as they count by default."""
    part = _part(table, scenario)
    rates = [c.requests_per_second for c in part.classes]
    if not any(rate > 0 for rate in (*rates, *(c.requests_per_second for c in part.cascades))):
        return scenario.share
    counts = tuple(left.get(c.id, 0.0) for c in part.columns)
    able = tuple((worth or left).get(c.id, 0.0) for c in part.columns)
    try:
        found = Rates(part, able).best(counts)  # type: ignore[arg-type]
    except Unbounded:
        return scenario.share
    return 0.0 if found is None else min(scenario.share, found[-1])


def _part(table: FleetTable, scenario: Scenario) -> FleetTable:
    cascades = tuple(_at(c, scenario) for c in table.cascades if c.name in scenario.served)
    classes = tuple(
        _at(c, scenario) if c.name in scenario.served else replace(c, requests_per_second=0.0)
        for c in table.classes
    )
    asked = {c.name for c in classes if c.name in scenario.served}
    asked |= {k for c in cascades for p in c.policies for k, load in p.load.items() if load > 0}
    columns = tuple(
        replace(
            c, requests_per_second={k: r for k, r in c.requests_per_second.items() if k in asked}
        )
        for c in table.columns
    )
    names = {c.name for c in cascades}
    rows = tuple(
        row
        for row in table.side_rows
        if not row.per_served
        and (row.at_least is None or row.at_least <= 0)
        and (
            (
                row.per_policy
                and not row.per_rate
                and not row.per_replica
                and {c for c, _ in row.per_policy} <= names
            )
            or (
                row.per_rate
                and not row.per_policy
                and len({c for c, _ in row.per_rate} | set(row.per_replica)) == 1
            )
        )
    )
    return replace(
        table,
        classes=classes,
        cascades=cascades,
        columns=columns,
        side_rows=rows,
        scenarios=(),
        objective="max_min",
    )


def _at(demand: D, scenario: Scenario) -> D:
    rate = demand.requests_per_second * scenario.factor.get(demand.name, 1.0)
    return replace(demand, requests_per_second=rate)
