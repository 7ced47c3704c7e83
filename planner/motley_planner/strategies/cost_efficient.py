"""Binary search on the makespan, each step a feasibility MILP under budget and availability.

With T the makespan and rho = 1 / T the scale of all rates, one step asks: is there a fleet that
serves rho x every rate? max_min searches the largest rho; goodput the largest rho <= 1; min_cost,
and goodput once rho = 1 is reached, search the least budget instead. The search ends within
`TOLERANCE` of the optimum of that problem, which is what the paper trades for speed.

Source: "Demystifying Cost-Efficiency in LLM Serving over Heterogeneous GPUs", ICML 2025, arXiv
2502.00722, section 4 and Algorithm 1 (rows 2 to 6 are the table's demand, time, budget and packing
rows). The knapsack shortcut inside the feasibility check is left to HiGHS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.program import has_demand
from motley_planner.solver.highs import MipLimits, solve_mip
from motley_planner.solver.milp import Floats, Milp
from motley_planner.strategies.finish import finish
from motley_planner.strategies.scorer import Scored, Scorer
from motley_planner.strategies.views import Counts

TOLERANCE = 2e-3  # relative width at which the search stops
STEPS = 40


def solve(table: FleetTable) -> Solution:
    """The plan at the best makespan (or least budget) that the search finds."""
    scorer = Scorer(table)
    best = scorer.score(scorer.nothing)
    if table.objective != "min_cost" and has_demand(table):
        for counts in _fastest(table, scorer):
            best = scorer.best_of(best, counts)
    if table.objective != "max_min" and not scorer.out_of_time:
        for counts in _cheapest(table, scorer):
            best = scorer.best_of(best, counts)
    return finish(table, scorer, best)


def _fastest(table: FleetTable, scorer: Scorer) -> list[Counts]:
    """Counts at the largest scale found (at most 1 but for max_min)."""
    timed = scorer
    if table.objective != "max_min":
        timed = Scorer(replace(scorer.table, objective="max_min", penalty_in_price=False))
    timed.deadline = scorer.deadline
    scale = timed.index.demand.scale
    assert scale is not None
    if table.objective == "max_min":
        most = timed.relaxed()
        top = float(most.x[scale]) if most.x is not None else 0.0
    else:
        top = 1.0

    def at(value: float) -> Milp:
        lower = timed.milp.col_lower.copy()
        lower[scale] = value
        return timed.milp.with_bounds(lower, timed.milp.col_upper)

    found: list[Counts] = []

    def reaches(value: float) -> float | None:
        point = _any_point(timed, at(value))
        if point is None:
            return None
        counts = counts_of(timed, point)
        found.append(counts)
        scored = timed.score(counts)
        return value if scored is None else max(value, float(scored.x[scale]))

    bisect(0.0, top, reaches, timed)
    return found[-1:]


def _cheapest(table: FleetTable, scorer: Scorer) -> list[Counts]:
    """Counts at the least budget found that serves everything."""
    whole = scorer
    if table.objective != "min_cost":
        whole = Scorer(replace(scorer.table, objective="min_cost", penalty_in_price=False))
        whole.deadline = scorer.deadline
    price = next(lv for lv in whole.index.levels if lv.name == "price")
    first = whole.relaxed()
    if first.x is None:
        return []
    point = _any_point(whole, whole.milp)
    if point is None:
        return []
    found = [_settled(whole, point)]
    least, paid = -price.value_of(first.x), _price(found[0], -price.value_of(point))

    def saves(value: float) -> float | None:
        """At a price cut by `value`: the cut reached."""
        narrowed = whole.milp.with_row(-price.cost, -np.inf, paid - value + price.constant)
        cheaper = _any_point(whole, narrowed)
        if cheaper is None:
            return None
        found.append(_settled(whole, cheaper))
        return max(value, paid - _price(found[-1], -price.value_of(cheaper)))

    bisect(0.0, max(0.0, paid - least), saves, whole)
    return [plan if isinstance(plan, tuple) else plan.counts for plan in found[-1:]]


def _settled(scorer: Scorer, point: Floats) -> Scored | Counts:
    counts = counts_of(scorer, point)
    return scorer.score(counts) or counts


def _price(plan: Scored | Counts, otherwise: float) -> float:
    return -plan.values[-1] if isinstance(plan, Scored) else otherwise


def counts_of(scorer: Scorer, point: Floats) -> Counts:
    """Replica counts of a point."""
    return tuple(int(n) for n in np.round(point[scorer.new]))


def _any_point(scorer: Scorer, milp: Milp) -> Floats | None:
    """Any feasible point, by a MILP without an objective."""
    limits = MipLimits(scorer.deadline, 1.0)
    return solve_mip(milp, np.zeros(milp.num_cols), limits).x


def bisect(
    low: float, high: float, reached: Callable[[float], float | None], scorer: Scorer
) -> float:
    """The largest value found in [low, high]; `reached` gives what was had at a value, or None."""
    got = reached(high)
    if got is not None:
        return got
    for _ in range(STEPS):
        if high - low <= TOLERANCE * max(abs(high), 1e-12) or scorer.out_of_time:
            break
        middle = (low + high) / 2
        got = reached(middle)
        if got is None:
            high = middle
        else:
            low = max(low, got)
    return low
