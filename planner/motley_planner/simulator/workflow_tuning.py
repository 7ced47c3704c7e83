"""Alpha by replay: a recent trace is simulated for each value of a grid, and the best one is taken.

Of workflows the P95 of whole workflows counts, of single requests that of requests. A run that leaves
more than 5 % unanswered has none.

Source: HexGen-Text2SQL, arXiv 2505.05286 (a grid of step 0.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from motley_planner.dispatch import DispatchRule
from motley_planner.simulator.requests import NOT_YET
from motley_planner.simulator.scenario import Scenario
from motley_planner.simulator.workflow_traces import Query
from motley_planner.simulator.workflows import (
    PUBLISHED,
    Fleet,
    Scheduling,
    simulate_workflows,
)
from motley_planner.simulator.world import simulate

GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def tuned_alpha(
    queries: Sequence[Query],
    arrival_s: Sequence[float],
    slo_s: Sequence[float],
    grid: Sequence[float] = GRID,
    fleet: Fleet = PUBLISHED,
) -> tuple[float, float]:
    """The alpha of a grid whose replay of a recent trace has the least P95, and that P95.

    O(grid) simulations; ties go to the smaller alpha, which balances more.
    """

    def p95_s(alpha: float) -> float:
        how = Scheduling(rule=DispatchRule("hexgen", alpha))
        return simulate_workflows(queries, arrival_s, slo_s, how, fleet).p95_s

    return least_of({alpha: p95_s(alpha) for alpha in sorted(grid)})


def tuned_plan_alpha(
    scenario_of: Callable[[DispatchRule], Scenario],
    warm_up_s: float = 0.0,
    grid: Sequence[float] = GRID,
) -> tuple[dict[float, float], float]:
    """Replayed P95 seconds of a plan's requests by alpha, and that of `earliestFinish`.

    Latency is arrival to last token; what was not answered is the longest of all. O(grid) simulations.
    """

    def p95_s(rule: DispatchRule) -> float:
        run = simulate(scenario_of(rule))
        jobs = [job for job in run.jobs if job.arrival_s >= warm_up_s]
        unanswered = run.refused + sum(job.answered_s == NOT_YET for job in jobs)
        taken = sorted(j.answered_s - j.arrival_s for j in jobs if j.answered_s != NOT_YET)
        at = math.ceil(0.95 * (len(taken) + unanswered)) - 1
        return taken[at] if 0 <= at < len(taken) else float("inf")

    by_alpha = {alpha: p95_s(DispatchRule("hexgen", alpha)) for alpha in sorted(grid)}
    return by_alpha, p95_s(DispatchRule())


def least_of(p95_s: Mapping[float, float]) -> tuple[float, float]:
    """The alpha with the least P95, and that P95; of equals the smaller, which balances more."""
    best, alpha = min((value, alpha) for alpha, value in p95_s.items())
    return alpha, best
