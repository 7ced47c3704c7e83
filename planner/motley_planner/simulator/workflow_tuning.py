"""Alpha by replay: a recent trace is simulated for each value of a grid, and the best one is taken.

Source: HexGen-Text2SQL, arXiv 2505.05286 (a grid of step 0.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from motley_planner.dispatch import DispatchRule
from motley_planner.simulator.workflow_traces import Query
from motley_planner.simulator.workflows import (
    PUBLISHED,
    Fleet,
    Scheduling,
    simulate_workflows,
)

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

    found = [(p95_s(alpha), alpha) for alpha in sorted(grid)]
    best, alpha = min(found)
    return alpha, best
