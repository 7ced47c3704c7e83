"""The internal limits of the fleet planner against enumeration, and the checker on every plan."""

from __future__ import annotations

from collections import Counter

import pytest

from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.agreement import compare
from motley_planner.testing.limited import limited_table

TINY = 120  # instances in the default run


@pytest.mark.parametrize("block", range(8))
def test_the_milp_finds_what_enumeration_finds_under_every_limit(block: int) -> None:
    size = TINY // 8
    seen = Counter(compare(limited_table(seed)) for seed in range(block * size, (block + 1) * size))
    assert {"max_min", "goodput"} <= set(seen)


def test_the_instances_use_every_limit() -> None:
    tables = [limited_table(seed) for seed in range(TINY)]
    rows = [row for table in tables for row in table.side_rows]
    used = {
        "rates": sum(bool(row.per_rate) for row in rows),
        "served": sum(bool(row.per_served) for row in rows),
        "policies": sum(bool(row.per_policy) for row in rows),
        "importance": sum(row.importance != 1.0 for row in rows),
        "min_count": sum(any(c.min_count for c in t.columns) for t in tables),
        "pool steps": sum(any(c.pool_steps for c in t.columns) for t in tables),
        "more demand": sum(any(s.factor for s in t.scenarios) for t in tables),
        "loss": sum(any(s.lost for s in t.scenarios) for t in tables),
        "mean loss": sum(any(s.thinned for s in t.scenarios) for t in tables),
        "shapes": sum(bool(t.purchasable) for t in tables),
        "shapes in use": 0,
    }
    for table in tables:
        if table.purchasable:
            solution = solve_table(table, use_worker=False)
            names = {n for p in solution.placement for n in p.nodes}
            used["shapes in use"] += any(n.startswith("+") for n in names)
    assert min(used.values()) >= 3, used


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_the_milp_finds_what_enumeration_finds_on_many_more(block: int) -> None:
    for seed in range(50_000 + block * 200, 50_000 + (block + 1) * 200):
        compare(limited_table(seed))


@pytest.mark.parametrize("seed", [50187, 50890, 50965, 52741, 53100, 70401, 70907])
def test_tables_that_were_once_planned_wrongly(seed: int) -> None:
    compare(limited_table(seed))
