"""The best fleet of a single GPU type: the baseline that mixed fleets are measured against.

For each GPU type of the table the exact planner solves the table restricted to columns of that type
alone; the best of these plans is the answer.

Source: the homogeneous baselines (H100, A6000 or 4090 only, each with the paper's own scheduler) of
"Demystifying Cost-Efficiency in LLM Serving over Heterogeneous GPUs", ICML 2025, arXiv 2502.00722.
"""

from __future__ import annotations

import time
from dataclasses import replace

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.strategies.views import (
    NOTHING_FOUND,
    gpu_types,
    is_better,
    level_values,
    only_columns,
    refuse,
    unproved,
)


def solve(table: FleetTable) -> Solution:
    """The best plan that uses one GPU type only.

    Raises: SnapshotError where no column is of a single type, or where the table is wrong.
    """
    best, found = NOTHING_FOUND, False
    types = gpu_types(table)
    deadline = time.monotonic() + table.time_limit_s
    for number, gpu in enumerate(types):
        columns = {c.id for c in table.columns if {f.gpu for f in c.fragments} == {gpu}}
        if not columns:
            continue
        found = True
        each = max(0.05, (deadline - time.monotonic()) / (len(types) - number))
        narrowed = replace(only_columns(table, columns), time_limit_s=each)
        solution = unproved(solve_table(narrowed, use_worker=False))
        if is_better(level_values(solution), level_values(best)):
            best = solution
    if not found:
        raise refuse("homogeneous", "a column whose fragments are all of one GPU type")
    return best
