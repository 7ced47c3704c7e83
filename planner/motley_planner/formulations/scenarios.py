"""Scenarios: what must still be served, by routing alone, after a loss or at another demand.

For each scenario s a copy of the demand part (rates, policies, flows) over the replicas left:

    left_c <= max(y_c - lost_c, y_c (1 - lost_c / of_c))                  (a binary chooses)
    left_c <= y_c (1 - thinned_c)
    scale_s + missing >= share,  scale_s <= share                         (goodput, min_cost)
    scale_s >= share x scale                                              (max_min)

Scenarios of one name share `missing`, so that it is the worst of them; its sum over names is a
level of its own, below the service levels and above the price. max_min has no such level: there
the scale that counts is one that all scenarios hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from motley_planner.domain.table import (
    CascadeDemand,
    Column,
    FleetTable,
    RequestClass,
    Scenario,
    SideRow,
)
from motley_planner.errors import SnapshotError
from motley_planner.formulations.counts import MOST_REPLICAS, Counts
from motley_planner.formulations.demand import Demand, DemandRows
from motley_planner.formulations.packing import Packing
from motley_planner.formulations.rates import Worth
from motley_planner.formulations.siderows import add_side_rows
from motley_planner.solver.milp import Level, MilpBuilder

TOLERANCE = "tolerance"
D = TypeVar("D", RequestClass, CascadeDemand)


@dataclass(slots=True)
class Recourse:
    """Variables of all scenarios."""

    missing: dict[str, int] = field(default_factory=dict)  # scenario name -> share not served
    spread: list[int] = field(default_factory=list)  # binaries: 1 = few left, spread as before
    shares: dict[str, float] = field(default_factory=dict)  # scenario name -> share asked for


def add_scenarios(
    builder: MilpBuilder, table: FleetTable, counts: Counts, demand: Demand, limit: float
) -> Recourse:
    """All scenarios of the table; `limit` is the most that anything is served, in units of its rate.

    Raises: SnapshotError where one names a demand or column that is not there.
    """
    out = Recourse()
    for scenario in table.scenarios:
        part = scenario_table(table, scenario)
        if not (part.classes or part.cascades):
            continue
        position = {c.id: i for i, c in enumerate(table.columns)}
        here = [position[c.id] for c in part.columns]
        left = Packing(new=[_left(builder, scenario, table, (i, counts), out) for i in here])
        extra = {
            j: counts.extra[i]
            for j, i in enumerate(here)
            if i in counts.extra and table.columns[i].id not in {*scenario.lost, *scenario.thinned}
        }
        worth = Worth(extra, whole=False)
        again = DemandRows(builder, part, left, scenario.share * limit, worth).add()
        add_side_rows(builder, part, left, again)
        assert again.scale is not None, "a scenario's table is max_min"
        if demand.scale is not None:
            entries = [(again.scale, 1.0), (demand.scale, -scenario.share)]
            builder.row(entries, lower=0.0, name=f"scenario[{scenario.name}]")
            continue
        if scenario.name not in out.missing:
            out.missing[scenario.name] = builder.variable(0.0, 1.0)
        out.shares[scenario.name] = max(scenario.share, out.shares.get(scenario.name, 0.0))
        missing = out.missing[scenario.name]
        entries = [(again.scale, 1.0), (missing, 1.0)]
        builder.row(entries, lower=scenario.share, name=f"scenario[{scenario.name}]")
        builder.row([(again.scale, 1.0)], upper=scenario.share, name="scenario")
    return out


def tolerance_level(builder: MilpBuilder, recourse: Recourse) -> Level:
    """-(sum over scenario names of the share not served in the worst of them)."""
    cost = np.zeros(builder.num_cols)
    cost[list(recourse.missing.values())] = -1.0
    return Level(TOLERANCE, cost)


def scenario_table(table: FleetTable, scenario: Scenario) -> FleetTable:
    """The part of a table that a scenario is about, at its rates, to be served at one scale.

    Keeps the columns that can serve it, and the side rows that limit each replica's own rates or
    the mix of policies; budgets and quotas are about counts, which a scenario does not change.
    """
    names = {c.name for c in table.classes} | {c.name for c in table.cascades}
    for name in scenario.served:
        if name not in names:
            raise SnapshotError(f"scenarios[{scenario.name!r}]", f"unknown demand {name!r}")
    columns = {c.id for c in table.columns}
    for column in (*scenario.lost, *scenario.thinned):
        if column not in columns:
            raise SnapshotError(f"scenarios[{scenario.name!r}]", f"unknown column {column!r}")
    cascades = tuple(
        _scaled(c, scenario.factor) for c in table.cascades if c.name in scenario.served
    )
    loaded = {k for c in cascades for p in c.policies for k, load in p.load.items() if load > 0}
    classes = tuple(
        _scaled(c, scenario.factor)
        if c.name in scenario.served
        else replace(c, requests_per_second=0.0)
        for c in table.classes
        if c.name in scenario.served or c.name in loaded
    )
    served = {c.name for c in classes}
    kept = tuple(c for c in table.columns if _serves(c, served))
    return replace(
        table,
        classes=classes,
        cascades=cascades,
        columns=kept,
        objective="max_min",
        side_rows=_own_rows(table, kept, {c.name for c in cascades}),
        scenarios=(),
    )


def _serves(column: Column, classes: set[str]) -> bool:
    return any(rate > 0 and name in classes for name, rate in column.requests_per_second.items())


def _scaled(demand: D, factor: Mapping[str, float]) -> D:
    rate = demand.requests_per_second * factor.get(demand.name, 1.0)
    return replace(demand, requests_per_second=rate)


def _left(
    builder: MilpBuilder,
    scenario: Scenario,
    table: FleetTable,
    at: tuple[int, Counts],
    out: Recourse,
) -> int:
    """The variable left_c of a column."""
    i, counts = at
    left = builder.variable()
    count = counts.entries(i)
    have = [(v, -c) for v, c in count]
    name = table.columns[i].id
    stay = 1.0 - scenario.thinned.get(name, 0.0)
    builder.row([(left, 1.0), *((v, -stay * c) for v, c in count)], upper=0.0, name="left")
    lost, of = scenario.lost.get(name, (0, 1))
    if lost <= 0:
        return left
    spread = builder.variable(0, 1, integer=True)
    out.spread.append(spread)
    most = counts.most(builder, i)
    most = most if math.isfinite(most) else MOST_REPLICAS
    share = 1.0 - lost / max(of, lost)
    builder.row([(left, 1.0), *have, (spread, -lost)], upper=-lost, name="left")
    beyond = max(0.0, lost * (most / max(of, lost) - 1.0))
    part = [(v, -share * c) for v, c in count]
    builder.row([(left, 1.0), *part, (spread, beyond)], upper=beyond, name="left")
    return left


def _own_rows(
    table: FleetTable, columns: tuple[Column, ...], cascades: set[str]
) -> tuple[SideRow, ...]:
    kept = {c.id for c in columns}
    found = []
    for row in table.side_rows:
        named = set(row.per_replica) | {column for column, _ in row.per_rate}
        own = bool(row.per_rate) and len(named) == 1 and named <= kept and not row.per_policy
        mix = bool(row.per_policy) and not named and {c for c, _ in row.per_policy} <= cascades
        if (own or mix) and not row.per_served and not (row.at_least or 0.0) > 0:
            found.append(row)
    return tuple(found)
