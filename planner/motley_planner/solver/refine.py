"""What a search does with the time that is left: cuts, neighbourhoods, proofs, in turns.

A neighbourhood frees some of the incumbent's replicas (those of two groups, or those that touch a
few of the shared rows) and lets them be chosen anew among the most profitable blocks, everything
else staying as it is; so the integer program is small even where the fleet is not.
"""

from __future__ import annotations

import numpy as np

from motley_planner.solver.clock import CLOCK
from motley_planner.solver.cuts import add_group_cuts
from motley_planner.solver.first_parts import ladder
from motley_planner.solver.milp import AnyInts, Bools
from motley_planner.solver.search import Search
from motley_planner.solver.sifting import sift

CUT_GAP = 2e-3  # cuts are for weak relaxations
CUT_SHARE = 0.3
CUT_SECONDS = 0.1  # of a group; with less its own program hardly gets beyond its relaxation
CUT_ROUNDS = 3
NEIGHBOURS = 8  # neighbourhoods a turn
LEAST_NEIGHBOUR_SECONDS, NEIGHBOUR_SECONDS = 0.2, 2.5
NEIGHBOUR_SHARE = 0.06
WIDTH, LEAST_WIDTH, MOST_FREE = 60, 8, 300  # blocks of a group that a neighbourhood may choose
# from, and of all its groups together
PROOF_SHARE = 0.4
PATIENCE = 3  # turns without any gain after which nothing more is expected


def refine(search: Search) -> None:
    """Improves incumbent and bound in turns until the gap is closed or time is up."""
    cuts, idle = CUT_ROUNDS, 0
    while not search.done() and idle < PATIENCE:
        before = search.value, search.bound
        if cuts and search.gap > CUT_GAP and _may_cut(search):
            cuts = cuts - 1 if _cut(search) else 0
        for _ in range(NEIGHBOURS):
            if search.done():
                return
            _try_neighbourhood(search)
        if not search.done():
            search.prove_survivors(PROOF_SHARE)
        idle = idle + 1 if (search.value, search.bound) == before else 0


def _may_cut(search: Search) -> bool:
    program = search.program
    groups = len(np.unique(program.blocks.group))
    enough = search.share(CUT_SHARE) - CLOCK.now() >= CUT_SECONDS * groups
    plain = search.relaxed is None and not program.milp.integer[program.core].any()
    return groups > 1 and enough and plain


def _cut(search: Search) -> bool:
    """Adds cuts and relaxes again; False where they do not help."""
    found, before = search.relaxation, search.bound
    if not add_group_cuts(search, search.share(CUT_SHARE)) or found is None:
        return False
    again = sift(search.program, search.level.cost, search.limits.deadline, found.fills)
    if again.status == "infeasible":  # no plan is better than the incumbent
        search.prove(search.value)
        return True
    if again.status != "optimal":
        return False
    search.relaxation = again
    search.prove(again.bound + search.level.constant)
    return search.bound < before - 1e-6 * abs(before)


def _try_neighbourhood(search: Search) -> None:
    assert search.relaxation is not None
    if search.x is None:
        ladder(search)
        return
    blocks = search.program.blocks
    free = _two_groups(search) if search.random.random() < 0.4 else _some_rows(search)
    most = search.most_counts()
    width = MOST_FREE // max(1, len(np.unique(blocks.group[free])))
    width = max(LEAST_WIDTH, min(WIDTH, width))
    candidates = search.best(width, by_group=True) & free & (most > 0)
    at = search.x[blocks.count]
    part, milp = search.limited(candidates | (at > 0.5), most)
    lower = np.zeros(search.program.milp.num_cols)
    upper = np.full(search.program.milp.num_cols, np.inf)
    lower[blocks.count] = np.where(free, 0.0, at)
    upper[blocks.count] = np.where(free, np.inf, at)
    bounded = milp.with_bounds(
        np.maximum(milp.col_lower, part.take(lower)), np.minimum(milp.col_upper, part.take(upper))
    )
    left = search.limits.deadline - CLOCK.now()
    wanted = max(LEAST_NEIGHBOUR_SECONDS, NEIGHBOUR_SHARE * left)
    until = CLOCK.now() + min(NEIGHBOUR_SECONDS, wanted)
    search.mip(part, bounded, until)


def _two_groups(search: Search) -> Bools:
    groups = np.unique(search.program.blocks.group)
    chosen = search.random.choice(groups, size=min(2, len(groups)), replace=False)
    return np.isin(search.program.blocks.group, chosen)


def _some_rows(search: Search) -> Bools:
    """Blocks that touch a third of the shared rows that blocks touch."""
    program = search.program
    touch = _touched(search)
    rows = np.unique(touch[1])
    share = float(search.random.choice((0.2, 0.35, 0.5)))
    chosen = rows[search.random.random(len(rows)) < share]
    free = np.zeros(program.blocks.number, dtype=np.bool_)
    free[touch[0][np.isin(touch[1], chosen)]] = True
    return free


def _touched(search: Search) -> tuple[AnyInts, AnyInts]:
    """(block, row) of each entry of a count in a shared capacity row."""
    program = search.program
    start, index, value = program.milp.columns_of(program.blocks.count)
    owner = np.repeat(np.arange(program.blocks.number), np.diff(start))
    counted = program.shared[index] & np.isfinite(program.milp.row_upper[index]) & (value > 0)
    return owner[counted], index[counted]
