"""From replica counts to a plan: the best rates for them, and, in a re-plan, who stays where.

The counts are fixed by max_count on each column and one row that asks for all of them; the exact
formulation then places them, keeps as many running replicas as its objective likes, and routes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.blocking import Asking
from motley_planner.formulations.decode import decode
from motley_planner.formulations.program import Index, formulate
from motley_planner.solver import Job, Milp, solve
from motley_planner.strategies.rate_entries import rate_entries
from motley_planner.strategies.scorer import Scored, Scorer
from motley_planner.strategies.views import (
    NOTHING_FOUND,
    Counts,
    running_columns,
    with_columns,
    with_policies,
)

RateLimits = Mapping[tuple[str, str], float]
LEAST_SECONDS = 0.2


def finish(table: FleetTable, scorer: Scorer, best: Scored | None) -> Solution:
    """The plan of the best counts that a strategy found on a scorer of this table."""
    if best is None:
        return NOTHING_FOUND
    chosen = {
        c.name: c.policies[0].id for c in scorer.table.cascades if not c.mixture and c.policies
    }
    left = table.time_limit_s * 0.15
    if not scorer.out_of_time:
        left += scorer.deadline - time.monotonic()
    return plan_counts(with_policies(table, chosen), best.counts, left) or NOTHING_FOUND


def plan_counts(
    table: FleetTable,
    counts: Counts,
    time_limit_s: float,
    *,
    keep_all: bool = False,
    rate_limits: RateLimits | None = None,
) -> Solution | None:
    """The best plan with exactly these counts (kept and new); None where none was found.

    With `keep_all` no survivor stops. `rate_limits` holds requests/s by (column, class); pairs not
    named get nothing.
    """
    limits = (c.max_count for c in table.columns)
    if any(most is not None and n > most for most, n in zip(limits, counts, strict=True)):
        return None
    running = running_columns(table)
    columns = tuple(
        replace(c, max_count=n)
        for c, n in zip(table.columns, counts, strict=True)
        if n or c.id in running
    )
    milp, index = formulate(with_columns(table, columns))
    milp = _all_of_them(milp, index, sum(counts))
    if keep_all:
        milp = _keeping(milp, index)
    if rate_limits is not None:
        milp = _limited(milp, index, rate_limits)
    limit = max(LEAST_SECONDS, time_limit_s)
    job = Job(milp, index.levels, time_limit_s=limit, relative_gap=table.relative_gap)
    outcome = solve(job, use_worker=False)
    if outcome.x is None:
        return None
    outcome.bounds.clear()
    return decode(index, outcome, table.relative_gap, Asking(milp))


def _all_of_them(milp: Milp, index: Index, total: int) -> Milp:
    """new + kept >= total, which max_count makes an equality for each column."""
    if not total:
        return milp
    ones = np.zeros(milp.num_cols)
    ones[index.packing.new] = 1.0
    ones[[g.variable for g in index.packing.kept]] = 1.0
    return milp.with_row(ones, float(total), np.inf)


def _keeping(milp: Milp, index: Index) -> Milp:
    lower = milp.col_lower.copy()
    kept = [g.variable for g in index.packing.kept]
    lower[kept] = milp.col_upper[kept]
    return milp.with_bounds(lower, milp.col_upper)


def _limited(milp: Milp, index: Index, limits: RateLimits) -> Milp:
    upper = milp.col_upper.copy()
    for rate in rate_entries(index):
        most = limits.get((index.table.columns[rate.column].id, rate.request_class), 0.0)
        upper[rate.variable] = min(upper[rate.variable], most / rate.unit)
    return milp.with_bounds(milp.col_lower, upper)
