"""Tabu search over groups of GPUs and their phases, the best orchestration below.

A state is a set of replicas, each with its phase. A step looks at a few neighbours (flip a phase,
split, merge, move GPUs), goes to the best that is not tabu even if it is worse, and remembers the
best ever. Below, phases and groups being fixed, which prefill feeds which decode is a two-stage
transportation problem; the table's routing LP is that problem with the objective of the table.

Source: "ThunderServe", MLSys 2025, arXiv 2502.09334; 100 steps of 10 neighbours with 5 tabu entries
as remembered of the paper (unchecked). Colocated columns take part as a third phase, so that the
search can give up disaggregation where links are slow.
"""

from __future__ import annotations

from collections import deque

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.strategies.finish import finish
from motley_planner.strategies.growth import Growth
from motley_planner.strategies.scorer import Scored, Scorer
from motley_planner.strategies.views import Counts, is_better, refuse

STEPS = 100
NEIGHBOURS = 10
MEMORY = 5
PATIENCE = 30  # steps without a better plan, then the search ends
SEED = 7


def solve(table: FleetTable) -> Solution:
    """The best plan of the tabu search.

    Raises: SnapshotError without prefill columns or without decode columns.
    """
    if not {"prefill", "decode"} <= {c.phase for c in table.columns}:
        raise refuse("thunderserve", "prefill and decode columns")
    scorer = Scorer(table)
    scorer.relaxed()
    return finish(table, scorer, tabu_search(scorer, Growth(scorer, SEED)))


def tabu_search(scorer: Scorer, growth: Growth) -> Scored | None:
    """The best counts seen."""
    best = _start(scorer, growth)
    here, waited = best, 0
    tabu: deque[Counts] = deque(maxlen=MEMORY)
    for _ in range(STEPS):
        if scorer.out_of_time or waited >= PATIENCE:
            break
        here = _best_neighbour(scorer, growth, here, tabu) or here
        waited += 1
        if here is not None:
            tabu.append(here.counts)
            if best is None or is_better(here.values, best.values):
                best, waited = here, 0
    return best


def _start(scorer: Scorer, growth: Growth) -> Scored | None:
    """The best of an empty plan and plans grown on each zone alone and on all together."""
    best = scorer.score(scorer.nothing)
    columns = scorer.table.columns
    for zone in (None, *sorted({c.zone for c in columns})):
        allowed = {i for i, c in enumerate(columns) if zone is None or c.zone == zone}
        best = scorer.best_of(best, growth.grow(scorer.nothing, allowed))
        split = {i for i in allowed if columns[i].phase != "both"}
        best = scorer.best_of(best, growth.grow(scorer.nothing, split))
    return best


def _best_neighbour(
    scorer: Scorer, growth: Growth, here: Scored | None, tabu: deque[Counts]
) -> Scored | None:
    counts = scorer.nothing if here is None else here.counts
    best: Scored | None = None
    for number in range(NEIGHBOURS):
        moves = (growth.flip, growth.split, growth.merge, growth.swap, growth.thin)
        near = moves[number % len(moves)](counts)
        if near == counts or near in tabu or scorer.out_of_time:
            continue
        best = scorer.best_of(best, near)
    return best
