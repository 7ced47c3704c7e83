"""The anytime search on one level: a relaxation, points from it, then integer programs on parts.

1. sifted relaxation -> bound, duals, what each block would add at best (its profit, <= 0)
2. the relaxation rounded; rates of the incumbent for this level
3. integer programs or dives on the best blocks by profit (first_parts.py)
4. reduced-cost fixing: a block whose profit is below incumbent - bound is in no better plan;
   an integer program on the survivors proves the bound
5. cuts of single groups and neighbourhoods of the incumbent, in turns, until time is up
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from motley_planner.solver import relaxing
from motley_planner.solver.fills import Fills
from motley_planner.solver.first_parts import first_parts
from motley_planner.solver.milp import Floats
from motley_planner.solver.search import Search

FEW_SURVIVORS, FIRST_PROOF_SHARE = 60, 0.6  # so few are proved before anything else is tried
PROOF_SHARE, FEW_PROOF_SHARE = 0.35, 0.9  # of few survivors: no neighbourhood knows more than they


def search_level(
    search: Search,
    start: Floats | None,
    warm: Fills | None = None,
    others: tuple[Floats, ...] = (),
    refine: Callable[[Search], None] | None = None,
) -> None:
    """Searches until the gap is closed or time is up; the rates of `others` are worked out.

    `refine` is what follows the proof; without it the proof gets the time.
    """
    if start is not None:
        search.x, search.value = start, search.level.value_of(start)
    search.home = others[0] if others else None
    for other in others:
        search.offer(other)
    if search.is_highest() or not search.relax(warm):
        return
    if search.program.milp.integer.any():
        search.round(others)
    if not search.done():
        _improve(search, refine)


def _improve(search: Search, refine: Callable[[Search], None] | None) -> None:
    blocks, found = search.program.blocks, search.relaxation
    if found is None or found.profit is None or blocks.number <= relaxing.FEW_BLOCKS:
        search.solve_whole()
        return
    assert found.x is not None
    hurry = np.isfinite(search.limits.patience_s)  # what runs waits: neighbourhoods come first
    if not hurry and _few_survive(search):
        search.prove_survivors(FIRST_PROOF_SHARE)
    if not search.done():
        first_parts(search, hurry=hurry)
    if not hurry and not search.done():
        share = FEW_PROOF_SHARE if _few_survive(search) else PROOF_SHARE
        search.prove_survivors(share if refine else 1.0)
    if refine and not search.done():
        refine(search)


def _few_survive(search: Search) -> bool:
    return int((search.most_counts() > 0).sum()) <= FEW_SURVIVORS
