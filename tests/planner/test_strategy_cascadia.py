"""Cascadia: J of its worked example, bisection against its MILP, and what its plans do."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from random import Random

import pytest

from motley_planner import strategies
from motley_planner.checker import check
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import Column, FleetTable, Fragment
from motley_planner.formulations.fleet import solve_table
from motley_planner.strategies.cascadia import penalized
from motley_planner.strategies.min_max import ladder, split_by_bisection, split_by_milp
from motley_planner.testing.corpus import cascade_fleet


def exact(table: FleetTable) -> Solution:
    """The exact plan, without a process of its own."""
    return solve_table(table, use_worker=False)


def test_the_outer_objective_of_the_papers_two_policies_is_21_and_11_4() -> None:
    assert penalized(11.0, 0.88, 0.90, 0.20, mu=100.0) == pytest.approx(21.0)
    assert penalized(11.4, 0.91, 0.90, 0.20, mu=100.0) == pytest.approx(11.4)


def falling_tables(seed: int) -> tuple[list[list[float]], int]:
    """Random l_i(f) that fall with f; the first GPUs hold no model."""
    random = Random(seed)
    tables = []
    for _ in range(random.choice((1, 2, 3, 4))):
        least, value = random.choice((1, 2, 4)), random.uniform(5, 50)
        values = [math.inf] * least
        while len(values) <= 16:
            value *= random.choice((1.0, 0.9, 0.6))
            values.append(round(value, 3))
        tables.append(values)
    return tables, random.randint(2, 16)


@pytest.mark.parametrize("block", range(4))
def test_bisection_finds_what_the_milp_and_enumeration_find(block: int) -> None:
    fits = 0
    for seed in range(block * 15, (block + 1) * 15):
        tables, gpus = falling_tables(seed)
        fast, program = split_by_bisection(tables, gpus), split_by_milp(tables, gpus)
        assert (fast is None) == (program is None), seed
        if fast is None or program is None:
            continue
        fits += 1
        assert fast.factor == pytest.approx(program.factor, rel=1e-7)
        assert sum(fast.gpus) <= gpus
        if len(tables) <= 2:
            every = product(*(range(len(t)) for t in tables))
            best = min(
                max(t[f] for t, f in zip(tables, fs, strict=True))
                for fs in every
                if sum(fs) <= gpus
            )
            assert fast.factor == best
    assert fits >= 5


def test_the_ladder_is_the_best_mix_of_replicas_for_each_number_of_gpus() -> None:
    columns = [
        Column(f"c{tp}", "m", "z", (Fragment("A", tp),), {"a": rate, "b": 2 * rate})
        for tp, rate in ((1, 1.0), (2, 2.3), (4, 4.4))
    ]
    steps = ladder(columns, {"a": 3.0, "b": 2.0}, 7)
    one = 1.0 / (3.0 + 2.0 / 2)  # share of the load that a TP-1 replica carries
    assert steps.factors[0] == math.inf
    assert steps.factors[1] == pytest.approx(1 / one)
    assert steps.factors[7] == pytest.approx(1 / (one * (2.3 * 3 + 1.0)))
    assert sorted(steps.replicas(7)) == [0, 1, 1, 1]
    assert all(a >= b for a, b in zip(steps.factors, steps.factors[1:], strict=False))


@pytest.mark.parametrize("objective", ["max_min", "goodput", "min_cost"])
def test_one_pool_and_one_policy_serve_the_cascade_at_its_floor(objective: str) -> None:
    table = replace(cascade_fleet(0, "min_cost", mixture=False), objective=objective)  # type: ignore[arg-type]
    plan = strategies.run("cascadia", table)
    assert check(table, plan) == ()
    assert [p.share for p in plan.policies] == [1.0]
    used = {c.id: c for c in table.columns}
    assert len({f.gpu for r in plan.replicas for f in used[r.column].fragments}) == 1


def test_with_one_gpu_type_the_bi_level_search_ends_within_a_replica_of_exact() -> None:
    """It leaves nothing out but routing that is not in proportion to the demand."""
    for seed in range(3):
        table = cascade_fleet(seed, "min_cost", mixture=False, types=1)
        found, best = strategies.run("cascadia", table).objective, exact(table).objective
        assert found is not None and best is not None
        largest = max(c.price_usd_per_hour for c in table.columns)
        assert best - 1e-6 <= found <= best + largest


def test_a_lower_floor_moves_gpus_from_the_largest_model_to_the_others() -> None:
    table = cascade_fleet(1, "max_min", mixture=False, types=1)
    shares = []
    for floor in (0.90, 0.85, 0.78):
        cascades = tuple(replace(c, quality_floor=floor) for c in table.cascades)
        plan = strategies.run("cascadia", replace(table, cascades=cascades))
        gpus = {c.id: (c.model, c.gpus) for c in table.columns}
        large = sum(
            r.count * gpus[r.column][1] for r in plan.replicas if gpus[r.column][0] == "large"
        )
        shares.append(large)
    assert shares[0] > shares[-1]
    assert shares == sorted(shares, reverse=True)
