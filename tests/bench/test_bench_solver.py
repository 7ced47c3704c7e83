"""How good plans are after a given time; one short smoke in the default run, the rest is slow.

Thresholds come from planner-scale measurements on one core: after 10 s the gap of a 10,000-GPU
table of 5,000 columns was 0.04 %, of 2,000 GPUs 0.09 %, of 128 GPUs 1.0 %. Each has a factor of two
to five for a busy machine.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.checker import check
from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.tables import large_table


def test_a_small_fleet_has_a_good_plan_in_two_seconds() -> None:
    table = replace(large_table(128, 200), objective="max_min", time_limit_s=2.0)
    solution = solve_table(table)
    assert check(table, solution) == ()
    assert solution.gap is not None and solution.gap < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
@pytest.mark.parametrize(
    ("gpus", "columns", "gap"), [(128, 400, 0.05), (2_000, 2_000, 0.005), (10_000, 5_000, 0.002)]
)
def test_gap_after_ten_seconds(gpus: int, columns: int, gap: float, objective: str) -> None:
    table = replace(large_table(gpus, columns), objective=objective, time_limit_s=10.0)
    solution = solve_table(table)
    assert check(table, solution) == ()
    assert all(level.gap is not None and level.gap <= gap for level in solution.levels)
