"""The fleet problem: one MILP for every pool, cascade and job on every node class.

`formulate(table)` gives the program and the index that turns a point back into a plan;
`solve_table(table)` is formulate, solve, decode. Parts: packing.py (replicas on nodes),
demand.py (rates, cascades, flows), and here the money, the counts and the levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from motley_planner.domain.table import CascadeDemand, FleetTable, RequestClass
from motley_planner.formulations.counts import Counts, add_counts
from motley_planner.formulations.demand import Demand, DemandRows
from motley_planner.formulations.gains import Mode
from motley_planner.formulations.inventory import Inventory, take_inventory
from motley_planner.formulations.packing import Packing, PackingRows
from motley_planner.formulations.rates import Worth
from motley_planner.formulations.scenarios import (
    TOLERANCE,
    Recourse,
    add_scenarios,
    tolerance_level,
)
from motley_planner.formulations.siderows import MINIMUMS, add_side_rows, minimums_level
from motley_planner.formulations.structure import find_blocks
from motley_planner.objectives import OBJECTIVES, LevelSpec
from motley_planner.solver.blocks import Blocks
from motley_planner.solver.milp import INF, Floats, Level, Milp, MilpBuilder

Entry = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Index:
    """The inverse of `formulate`: which variable is what, and how each level reads."""

    table: FleetTable
    inventory: Inventory
    packing: Packing
    demand: Demand
    specs: tuple[LevelSpec, ...]
    levels: tuple[Level, ...]
    row_names: tuple[str, ...]
    scale_limit: float  # most that anything is ever served, in units of its rate
    row_limits: Floats  # upper side of each row
    new_limits: tuple[float, ...]  # most new replicas of each column
    blocks: Blocks
    counts: Counts
    lacking: dict[str, int] = field(default_factory=dict)  # side row -> shortfall variable
    recourse: Recourse = field(default_factory=Recourse)


def formulate(table: FleetTable, mode: Mode = "safe", most: float = INF) -> tuple[Milp, Index]:
    """The table as a MILP with its index.

    `mode` matters only where a re-plan has too many awkward nodes to be exact (packing.py): "safe"
    rows always place on concrete nodes, "relaxed" rows hold for every plan. `most` is a bound on
    the scale of max_min that the caller knows of.

    Raises: SnapshotError where the table contradicts itself.
    """
    inventory = take_inventory(table)
    builder = MilpBuilder()
    packing = PackingRows(builder, table.columns, inventory, mode).add()
    limit = min(most, scale_limit(table, builder, packing))
    counts = add_counts(builder, table, packing)
    demand = DemandRows(builder, table, packing, limit, Worth(counts.extra)).add()
    prices = _price_entries(table, inventory, packing)
    _add_budget(builder, table, prices)
    _add_most_stopped(builder, table, packing)
    lacking = add_side_rows(builder, table, packing, demand)
    recourse = add_scenarios(builder, table, counts, demand, limit)
    specs = OBJECTIVES[table.objective](table)
    penalties = _penalty_entries(table, packing)
    delays = _delay_entries(inventory, packing)
    levels = [
        _level(builder, spec, demand, prices + delays if spec.price else prices, penalties)
        for spec in specs
    ]
    if recourse.missing:
        at = next((i for i, spec in enumerate(specs) if spec.price), len(specs))
        specs = (*specs[:at], LevelSpec(TOLERANCE), *specs[at:])
        levels.insert(at, tolerance_level(builder, recourse))
    if lacking:
        specs = (LevelSpec(MINIMUMS), *specs)
        levels.insert(0, minimums_level(builder, table, lacking))
    milp = builder.build()
    return milp, Index(
        table=table,
        inventory=inventory,
        packing=packing,
        demand=demand,
        specs=specs,
        levels=tuple(levels),
        row_names=tuple(builder.row_names),
        scale_limit=limit,
        row_limits=milp.row_upper,
        new_limits=tuple(milp.col_upper[packing.new].tolist()),
        blocks=find_blocks(table, packing, demand.rates, counts, milp),
        lacking=lacking,
        counts=counts,
        recourse=recourse,
    )


def scale_limit(table: FleetTable, builder: MilpBuilder, packing: Packing) -> float:
    """An upper bound on how far a class is served, in units of its rate (1 but for max_min).

    For max_min: the least over classes of (all replicas that could ever be, together) / rate.
    """
    if table.objective != "max_min":
        return 1.0
    capacity: dict[str, float] = {}
    for i, (column, variable) in enumerate(zip(table.columns, packing.new, strict=True)):
        most = builder.upper_of(variable)
        most += sum(builder.upper_of(g.variable) for g in packing.kept_of(i))
        most += sum(builder.upper_of(v) for v, c in packing.flips_of(i) if c > 0)
        if table.budget_usd_per_hour is not None and column.price_usd_per_hour > 0:
            most = min(most, table.budget_usd_per_hour // column.price_usd_per_hour + 1)
        if column.max_count is not None:
            most = min(most, column.max_count)
        most = column.worth_of(int(most)) if math.isfinite(most) else most
        if column.phase != "decode" and most > 0:
            for name, rate in column.requests_per_second.items():
                if rate > 0:
                    capacity[name] = capacity.get(name, 0.0) + rate * most
    least = dict.fromkeys((c.name for c in table.classes), 0.0)
    for request_class in table.classes:
        least[request_class.name] += request_class.requests_per_second
    for cascade in table.cascades:
        for name in least:
            loads = [p.load.get(name, 0.0) for p in cascade.policies]
            least[name] += cascade.requests_per_second * min(loads, default=0.0)
    ratios = [capacity.get(name, 0.0) / rate for name, rate in least.items() if rate > 0]
    return min(ratios, default=INF)


def _price_entries(table: FleetTable, inventory: Inventory, packing: Packing) -> list[Entry]:
    entries = [
        (variable, column.price_usd_per_hour)
        for column, variable in zip(table.columns, packing.new, strict=True)
    ]
    entries += [(g.variable, table.columns[g.column].price_usd_per_hour) for g in packing.kept]
    for group, used in zip(inventory.open_groups, packing.open_used, strict=True):
        if used is not None:
            entries.append((used, group.price_usd_per_hour))
    prices = {h.node.name: h.price_usd_per_hour for h in inventory.held}
    entries += [(used, prices[name]) for name, used in packing.held_used.items()]
    return [(variable, price) for variable, price in entries if price > 0]


def _delay_entries(inventory: Inventory, packing: Packing) -> list[Entry]:
    """What waiting for nodes is worth: counts beside the price, and is no part of the bill."""
    return [
        (used, group.delay_usd_per_hour)
        for group, used in zip(inventory.open_groups, packing.open_used, strict=True)
        if used is not None and group.delay_usd_per_hour > 0
    ]


def _penalty_entries(table: FleetTable, packing: Packing) -> tuple[list[Entry], float]:
    """P as (entries, constant)."""
    entries: list[Entry] = []
    constant = 0.0
    if table.penalty_per_started_gpu:
        entries = [
            (variable, table.penalty_per_started_gpu * column.gpus)
            for column, variable in zip(table.columns, packing.new, strict=True)
        ]
    for group in packing.kept:
        each = table.penalty_per_stopped_gpu * table.columns[group.column].gpus
        entries.append((group.variable, -each))
        constant += each * len(group.replicas)
    if table.penalty_per_flipped_gpu:
        for flip in packing.flips:
            each = table.penalty_per_flipped_gpu * table.columns[flip.source].gpus
            entries.append((flip.variable, each))
    return entries, constant


def _add_budget(builder: MilpBuilder, table: FleetTable, prices: list[Entry]) -> None:
    """Column and node prices within the budget, prefix budget; 0 buys nothing."""
    budget = table.budget_usd_per_hour
    if budget is None:
        return
    unit = budget if budget > 0 else 1.0
    builder.row([(v, p / unit) for v, p in prices], upper=budget / unit, name="budget")


def _add_most_stopped(builder: MilpBuilder, table: FleetTable, packing: Packing) -> None:
    """sum of kept survivors >= all of them - most_stopped, prefix stopped."""
    if table.most_stopped is None:
        return
    entries = [(group.variable, 1.0) for group in packing.kept]
    least = sum(len(group.replicas) for group in packing.kept) - table.most_stopped
    if least > 0:
        builder.row(entries, lower=float(least), name="stopped")


def _level(
    builder: MilpBuilder,
    spec: LevelSpec,
    demand: Demand,
    prices: list[Entry],
    penalties: tuple[list[Entry], float],
) -> Level:
    """The spec as a row over variables, turned so that more is better."""
    cost = np.zeros(builder.num_cols)
    if demand.scale is not None:
        cost[demand.scale] += spec.scale
    for name, worth in spec.served.items():
        cost[demand.served[name]] += worth
    for variable, price in prices:
        cost[variable] += spec.price * price
    sign = -1.0 if spec.minimize else 1.0
    constant = spec.penalty * penalties[1]
    moves: tuple[Floats, float] | None = None
    if spec.penalty and (penalties[0] or constant):
        moves = np.zeros(builder.num_cols), sign * constant
        for variable, amount in penalties[0]:
            moves[0][variable] += sign * spec.penalty * amount
        cost += sign * moves[0]
    return Level(spec.name, sign * cost, sign * constant, moves)


def has_demand(table: FleetTable) -> bool:
    """Whether any class or cascade asks for anything."""
    return any(d.requests_per_second > 0 for d in demands(table))


def demands(table: FleetTable) -> tuple[RequestClass | CascadeDemand, ...]:
    """Everything that asks for requests/s: classes, then cascades."""
    return (*table.classes, *table.cascades)
