"""The MILP against enumeration of every plan of tiny tables, and the checker on all of them."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.agreement import compare
from motley_planner.testing.tables import tiny_table

TINY = 320  # instances in the default run; each takes about 10 ms


@pytest.mark.parametrize("block", range(8))
def test_the_milp_finds_what_enumeration_finds(block: int) -> None:
    size = TINY // 8
    seen = Counter(compare(tiny_table(seed)) for seed in range(block * size, (block + 1) * size))
    assert {"max_min", "goodput", "min_cost", "infeasible"} <= set(seen)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_the_milp_finds_what_enumeration_finds_on_many_more(block: int) -> None:
    for seed in range(10_000 + block * 200, 10_000 + (block + 1) * 200):
        compare(tiny_table(seed))


def test_the_instances_use_every_feature() -> None:
    tables = [tiny_table(seed) for seed in range(TINY)]
    features = {
        "re-plan": lambda t: t.previous is not None and t.previous.replicas,
        "lost node": lambda t: t.lost_nodes,
        "cordon": lambda t: t.cordoned_nodes,
        "stop penalty": lambda t: t.penalty_per_stopped_gpu > 0,
        "prefill and decode": lambda t: {"prefill", "decode"} <= {c.phase for c in t.columns},
        "links": lambda t: t.links,
        "nic": lambda t: any(c.nic_bytes_per_second is not None for c in t.columns),
        "cascade": lambda t: t.cascades,
        "one-hot": lambda t: any(not c.mixture for c in t.cascades),
        "node price": lambda t: any(g.price_usd_per_hour for g in t.nodes),
        "max_count": lambda t: any(c.max_count is not None for c in t.columns),
        "budget": lambda t: t.budget_usd_per_hour is not None,
        "budget 0": lambda t: t.budget_usd_per_hour == 0,
        "side rows": lambda t: t.side_rows,
        "priorities": lambda t: len({c.priority for c in t.classes}) > 1,
        "two fragments": lambda t: any(len(c.fragments) > 1 for c in t.columns),
    }
    for name, uses in features.items():
        assert sum(bool(uses(t)) for t in tables) >= 5, name


def test_merging_stopped_fragments_into_a_larger_slot_is_seen() -> None:
    """Four TP-1 survivors fill a node; the one TP-4 replica that pays needs all four stopped."""
    from motley_planner.domain.table import (
        Column,
        Fragment,
        Previous,
        RequestClass,
        RunningReplica,
        TableNode,
    )

    table = FleetTable(
        classes=(RequestClass("k", "m", 10.0),),
        columns=(
            Column("small", "m", "z", (Fragment("A", 1),), {"k": 1.0}),
            Column("large", "m", "z", (Fragment("A", 4),), {"k": 9.0}),
        ),
        objective="max_min",
        previous=Previous(
            (TableNode("n0", "A", "z", 4),),
            tuple(RunningReplica(f"r{i}", "small", ("n0",)) for i in range(4)),
        ),
        relative_gap=1e-9,
    )
    solution = solve_table(table, use_worker=False)
    assert math.isclose(solution.objective or 0.0, 0.9)
    assert solution.stopped == 4
