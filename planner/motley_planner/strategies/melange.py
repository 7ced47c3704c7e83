"""Cheapest bin packing of demand cut into slices, each slice on one configuration.

    minimize    sum_c price_c n_c
    subject to  sum_c slices_kc = SLICES                     for each class k
                sum_k slices_kc (rate_k / SLICES) / capacity_ck <= n_c,   slices, n integer

Availability, budgets and packing are added as the table's rows (the original has none); with the
objective goodput, as many weighted slices as possible are served before the price counts.

Source: Griggs et al., "Melange: Cost Efficient Large Language Model Serving by Exploiting GPU
Heterogeneity", 2024, arXiv 2404.14527. Its README finds the result insensitive to the number of
slices and 4 enough; with 1 slice the example of its repository comes out as published (6.70 USD/h).
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.program import Index, formulate
from motley_planner.solver import Job, Level, Milp
from motley_planner.solver import solve as solve_job
from motley_planner.solver.milp import Floats
from motley_planner.strategies.finish import plan_counts
from motley_planner.strategies.rate_entries import rate_entries
from motley_planner.strategies.views import (
    NOTHING_FOUND,
    from_scratch,
    only_columns,
    refuse,
)

SLICES = 8


def solve(table: FleetTable) -> Solution:
    """The sliced packing's plan.

    Raises: SnapshotError for max_min, for cascades, and without a colocated column.
    """
    return pack(table, SLICES)


def pack(table: FleetTable, slices: int) -> Solution:
    """The cheapest packing of each class cut into so many slices; Raises as `solve` does."""
    if table.objective == "max_min":
        raise refuse("melange", "a fixed demand: the objective min_cost or goodput")
    if any(c.requests_per_second > 0 for c in table.cascades):
        raise refuse("melange", "plain classes only (a cascade's demand depends on its policy)")
    colocated = {c.id for c in table.columns if c.phase == "both"}
    if not colocated:
        raise refuse("melange", "colocated columns (phase both)")
    started = time.monotonic()
    bare = only_columns(from_scratch(table), colocated)
    milp, index = formulate(bare)
    milp, unit = _sliced(milp, index, slices)
    levels = tuple(Level(lv.name, lv.cost * unit, lv.constant) for lv in index.levels)
    limit = 0.7 * table.time_limit_s
    job = Job(milp, levels, time_limit_s=limit, relative_gap=table.relative_gap)
    outcome = solve_job(job, use_worker=False)
    if outcome.x is None:
        return NOTHING_FOUND
    counts = {
        c.id: round(float(outcome.x[v]))
        for c, v in zip(bare.columns, index.packing.new, strict=True)
    }
    left = 0.9 * (table.time_limit_s - (time.monotonic() - started))
    wanted = tuple(counts.get(c.id, 0) for c in table.columns)
    return plan_counts(table, wanted, left) or NOTHING_FOUND


def _sliced(milp: Milp, index: Index, slices: int) -> tuple[Milp, Floats]:
    """The program with each rate counted in whole slices of its class, and variables' units.

    Substitutes rate = slice x n and makes n an integer.
    """
    unit = np.ones(milp.num_cols)
    integer = milp.integer.copy()
    for rate in rate_entries(index):
        unit[rate.variable] = index.demand.totals[rate.request_class] / slices / rate.unit
        integer[rate.variable] = True
    value = milp.value * np.repeat(unit, np.diff(milp.start))
    upper = np.where(integer & (unit != 1.0), milp.col_upper / unit, milp.col_upper)
    return replace(milp, integer=integer, value=value, col_upper=upper), unit
