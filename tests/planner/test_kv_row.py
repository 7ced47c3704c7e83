"""The row of KV memory beside the row of time: enumeration, the checker, and a hand-made mix."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from motley_planner.checker import check
from motley_planner.domain.table import Column, FleetTable, Fragment, NodeGroup, PoolStep
from motley_planner.domain.table import RequestClass as Class
from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.agreement import compare
from motley_planner.testing.limited import memory_table

TINY = 72  # instances in the default run


@pytest.mark.parametrize("block", range(6))
def test_the_milp_with_rows_of_memory_finds_what_enumeration_finds(block: int) -> None:
    size = TINY // 6
    seen = Counter(compare(memory_table(seed)) for seed in range(block * size, (block + 1) * size))
    assert seen["max_min"] + seen["goodput"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("block", range(5))
def test_the_milp_with_rows_of_memory_finds_what_enumeration_finds_on_many_more(
    block: int,
) -> None:
    for seed in range(51_000 + block * 200, 51_000 + (block + 1) * 200):
        compare(memory_table(seed))


def chat_and_long(count: int, **column: object) -> FleetTable:
    """Two classes on one column: chat takes time, long takes memory."""
    one = Column(
        "c",
        "m",
        "z",
        (Fragment("H100", 1),),
        {"chat": 10.0, "long": 4.0},
        time_share={"chat": 1.0, "long": 0.2},
        kv_share={"chat": 0.1, "long": 1.0},
    )
    return FleetTable(
        classes=(Class("chat", "m", 8.0), Class("long", "m", 3.0)),
        columns=(replace(one, **column),),  # type: ignore[arg-type]
        nodes=(NodeGroup("H100", "z", 8, count),),
        objective="min_cost",
    )


def test_what_takes_time_and_what_takes_memory_share_a_replica() -> None:
    """0.8 + 0.2 x 0.75 = 0.95 of its time, 0.08 + 0.75 = 0.83 of its memory: one replica does."""
    table = chat_and_long(1, price_usd_per_hour=1.0)
    (only,) = solve_table(table, use_worker=False).replicas
    assert only.count == 1
    plain = replace(table.columns[0], time_share={}, kv_share={})
    (apart,) = solve_table(replace(table, columns=(plain,)), use_worker=False).replicas
    assert apart.count == 2


def test_a_large_pool_is_worth_more_in_both_rows() -> None:
    """Four replicas are worth 4.8, in time and in memory."""
    steps = (PoolStep(4, 1.2),)
    table = replace(chat_and_long(1, pool_steps=steps, max_count=4), objective="max_min")
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    # scale s: time 0.8 s + 0.15 s <= 4.8, memory 0.08 s + 0.75 s <= 4.8
    assert solution.objective == pytest.approx(4.8 / 0.95, rel=1e-6)


@pytest.mark.parametrize(("name", "said"), [("long", "kv:"), ("chat", "time:")])
def test_the_checker_refuses_what_is_over_its_memory_or_its_time(name: str, said: str) -> None:
    table = chat_and_long(1)
    solution = solve_table(table, use_worker=False)
    more = tuple(
        replace(
            r, requests_per_second=r.requests_per_second * (3 if r.request_class == name else 1)
        )
        for r in solution.rates
    )
    (count,) = solution.replicas
    told = check(table, replace(solution, rates=more, replicas=(replace(count, count=1),)))
    assert any(complaint.startswith(said) for complaint in told)
