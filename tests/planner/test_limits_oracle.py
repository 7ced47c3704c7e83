"""The internal limits of the fleet planner against enumeration, and the checker on every plan."""

from __future__ import annotations

from collections import Counter

import pytest

from motley_planner.checker import check
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.limited import limited_table
from motley_planner.testing.oracle import Unbounded, best_value

TINY = 200  # instances in the default run


def compare(table: FleetTable) -> str:
    """What enumeration and MILP agreed on; fails where they do not."""
    try:
        solution = solve_table(table, use_worker=False)
    except SnapshotError as error:
        if "unbounded" not in str(error):
            return "no demand"
        with pytest.raises(Unbounded):
            best_value(table)
        return "unbounded"
    assert check(table, solution) == ()
    best = best_value(table)
    if best is None:
        assert solution.status == "infeasible"
        return "infeasible"
    found = [-lv.value if lv.name == "price" else lv.value for lv in solution.levels]
    assert found == pytest.approx(best, rel=1e-6, abs=1e-6)
    assert solution.status == "optimal"
    return table.objective


@pytest.mark.parametrize("block", range(8))
def test_the_milp_finds_what_enumeration_finds_under_every_limit(block: int) -> None:
    size = TINY // 8
    seen = Counter(compare(limited_table(seed)) for seed in range(block * size, (block + 1) * size))
    assert {"max_min", "goodput", "min_cost"} <= set(seen)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_the_milp_finds_what_enumeration_finds_on_many_more(block: int) -> None:
    for seed in range(50_000 + block * 200, 50_000 + (block + 1) * 200):
        compare(limited_table(seed))
