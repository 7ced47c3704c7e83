"""The worked example of arXiv 2502.00722, section 4.2, and the binary search."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner import strategies
from motley_planner.checker import check
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.strategies.cost_efficient import bisect
from motley_planner.strategies.finish import plan_counts
from motley_planner.strategies.scorer import Scorer
from motley_planner.testing.corpus import cost_efficient_example, mixed_pool

OPTIMUM_S = 28.4314  # of the example's own model; the paper publishes 28.67 as its best
DEMAND = {"w1": 80.0, "w2": 20.0}
CAPACITY = {"c1": (1.0, 1.2), "c2": (0.9, 0.9), "c3": (0.3, 0.5), "c4": (2.4, 1.5)}


def exact(table: FleetTable) -> Solution:
    """The exact plan, without a process of its own."""
    return solve_table(table, use_worker=False)


def proportional(counts: dict[str, int]) -> dict[tuple[str, str], float]:
    """Each workload shared in proportion to capacity."""
    shares = {}
    for w, name in enumerate(DEMAND):
        total = sum(n * CAPACITY[c][w] for c, n in counts.items())
        shares |= {(c, name): n * CAPACITY[c][w] / total for c, n in counts.items()}
    return shares


def makespan_s(counts: dict[str, int], shares: dict[tuple[str, str], float]) -> float:
    """max over configurations of sum_w x f / (y h), row (3) of the paper's program."""
    return max(
        sum(
            shares.get((c, w), 0.0) * f / (n * CAPACITY[c][i])
            for i, (w, f) in enumerate(DEMAND.items())
        )
        for c, n in counts.items()
    )


FINAL = {("c1", "w1"): 0.15, ("c1", "w2"): 1.0, ("c4", "w1"): 0.85}
PLANS = [
    ({"c1": 1, "c2": 1, "c3": 1}, None, 44.05),
    ({"c1": 1, "c2": 2}, None, 35.24),
    ({"c1": 1, "c4": 1}, None, 30.94),
    ({"c1": 1, "c4": 1}, FINAL, 28.67),
]


@pytest.mark.parametrize(("counts", "shares", "published"), PLANS)
def test_the_papers_fixed_plans_have_the_makespans_it_prints(
    counts: dict[str, int], shares: dict[tuple[str, str], float] | None, published: float
) -> None:
    split = shares or proportional(counts)
    assert makespan_s(counts, split) == pytest.approx(published, abs=0.006)
    table = cost_efficient_example()
    rates = {key: x * DEMAND[key[1]] / makespan_s(counts, split) for key, x in split.items()}
    plan = plan_counts(
        table, tuple(counts.get(c.id, 0) for c in table.columns), 5.0, rate_limits=rates
    )
    assert plan is not None and plan.objective is not None
    assert check(table, plan) == ()
    assert 1 / plan.objective == pytest.approx(published, abs=0.006)


@pytest.mark.parametrize(("counts", "best_s"), [((1, 2, 0, 0), 34.52), ((1, 1, 1, 0), 41.82)])
def test_the_best_routing_of_a_composition_beats_its_proportional_split(
    counts: tuple[int, ...], best_s: float
) -> None:
    scored = Scorer(cost_efficient_example()).score(counts)
    assert scored is not None
    assert 1 / scored.values[0] == pytest.approx(best_s, abs=0.005)


def test_exact_finds_the_optimum_of_the_worked_example() -> None:
    solution = exact(cost_efficient_example())
    assert solution.objective is not None
    assert 1 / solution.objective == pytest.approx(OPTIMUM_S, abs=1e-3)
    assert {r.column: r.count for r in solution.replicas} == {"c1": 1, "c4": 1}
    assert solution.price_usd_per_hour == pytest.approx(8.0)


def test_the_binary_search_is_between_the_optimum_and_the_published_plan() -> None:
    solution = strategies.run("cost-efficient", cost_efficient_example())
    assert solution.objective is not None
    assert OPTIMUM_S - 1e-3 <= 1 / solution.objective <= 28.67


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_search_ends_within_one_percent_of_exact_as_the_paper_reports(seed: int) -> None:
    table = replace(mixed_pool(seed, "max_min", 1), time_limit_s=20.0)
    found = strategies.run("cost-efficient", table).objective
    best = exact(table).objective
    assert found is not None and best is not None
    assert found >= 0.99 * best


def test_bisection_comes_within_its_tolerance_of_a_threshold() -> None:
    scorer = Scorer(cost_efficient_example())
    found = bisect(0.0, 10.0, lambda value: value if value <= 7.3 else None, scorer)
    assert 7.3 - 0.02 <= found <= 7.3
    assert bisect(0.0, 10.0, lambda value: value, scorer) == 10.0
