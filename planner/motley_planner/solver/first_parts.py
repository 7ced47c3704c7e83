"""The first integer programs of a search, on the blocks that the relaxation likes best.

    decomposed    any counts            (something runs and waits, max_min: benders.py)
    best blocks   any counts            (something runs and waits: a good plan soon)
    box           counts near the relaxation's          (many replicas)
    dives         group after group                     (many replicas of many groups: dives.py)
    ladder        the 30, 90, 270 best of each group    (few replicas)

HiGHS finds its first good points at the end of the root node, so an integer program that is stopped
before has found nothing: the first one gets its half a second where the limit allows.
"""

from __future__ import annotations

import numpy as np

from motley_planner.solver.benders import decompose, is_least_of_many
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.dives import can_dive, dive_often
from motley_planner.solver.search import Search

FEW_REPLICAS = 60
BOX_BLOCKS, GROUP_BLOCKS, BOX_SHARE = 60, 10, 0.35  # of all groups, or of each; of the time left
ROOT_SECONDS, ROOT_SHARE = 0.5, 0.6  # what the first one gets at least, of the time left at most
HURRY_BLOCKS, HURRY_SHARE = 80, 0.5
MOST_COUNTS, FEW_BLOCKS, MOST_BLOCKS = 600, 80, 400  # of a decomposition
FEW_SECONDS = 0.2  # for few blocks as a whole, before more of them in neighbourhoods
PARTS_BLOCKS, PARTS_SHARE = 300, 0.6  # of a decomposition that follows a box
LADDER, LADDER_SHARE = (30, 90, 270), 0.25
NEARLY_ALL, WHOLE_SHARE, LONG_SECONDS = 0.75, 0.5, 5.0
EPSILON = 1e-7


def first_parts(search: Search, *, hurry: bool) -> None:
    """The integer programs that suit the number of replicas and the hurry."""
    found = search.relaxation
    assert found is not None and found.x is not None
    if hurry:
        _decompose(search)
        if search.done():
            return
        part = search.program.restrict(search.best(HURRY_BLOCKS, by_group=False))
        search.mip(part, part.milp, search.share(HURRY_SHARE))
    elif found.x[search.program.blocks.count].sum() < FEW_REPLICAS:
        ladder(search)
    elif can_dive(search):
        dive_often(search, search.limits.deadline)
    else:
        _box(search)
        if is_least_of_many(search.program.milp, search.level) and not search.done():
            best = search.best(PARTS_BLOCKS, by_group=False)
            decompose(search, best, search.share(PARTS_SHARE))


def _decompose(search: Search) -> None:
    """Benders decomposition on the best blocks, as many as its master may have beside the core."""
    program = search.program
    if not is_least_of_many(program.milp, search.level):
        return
    room = MOST_COUNTS - int(program.milp.integer[program.core].sum())
    for number, seconds in ((FEW_BLOCKS, FEW_SECONDS), (min(room, MOST_BLOCKS), np.inf)):
        if FEW_BLOCKS <= room and not search.done():
            until = min(search.limits.deadline, CLOCK.now() + seconds)
            decompose(search, search.best(number, by_group=False), until, near=number > FEW_BLOCKS)


def _past_the_root(search: Search, share: float) -> float:
    """When the first program ends: after a share of the time left, and not before its root."""
    root = min(CLOCK.now() + ROOT_SECONDS, search.share(ROOT_SHARE))
    return max(search.share(share), root)


def _left(search: Search) -> float:
    return search.limits.deadline - CLOCK.now()


def _box(search: Search) -> None:
    number = max(BOX_BLOCKS, GROUP_BLOCKS * len(np.unique(search.program.blocks.group)))
    part = search.program.restrict(search.best(number, by_group=False))
    assert search.relaxation is not None and search.relaxation.x is not None
    near = part.take(search.relaxation.x)
    at = near if search.x is None else part.take(search.x)
    lower = np.maximum(part.milp.col_lower, np.minimum(np.floor(near + EPSILON) - 1, at))
    upper = np.minimum(part.milp.col_upper, np.maximum(np.ceil(near - EPSILON) + 2, at))
    whole = part.milp.integer
    lower = np.where(whole, lower, part.milp.col_lower)
    upper = np.where(whole, upper, part.milp.col_upper)
    search.mip(part, part.milp.with_bounds(lower, upper), _past_the_root(search, BOX_SHARE))


def ladder(search: Search) -> None:
    """The 30, then 90, then 270 best blocks of each group, or at once all where that is hardly more.

    A smaller program has its first points sooner, so where time is short it still comes first. Where all are in it that can be in a better plan, its bound is one of the whole program.
    """
    reached = -1
    for number in LADDER:
        chosen, usable = search.best(number, by_group=True), search.most_counts() > 0
        hardly_more = int(chosen.sum()) >= NEARLY_ALL * int((chosen | usable).sum())
        if hardly_more and (number != LADDER[0] or _left(search) > LONG_SECONDS):
            chosen |= usable
        if search.done() or int(chosen.sum()) == reached:
            return
        reached, whole = int(chosen.sum()), not (usable & ~chosen).any()
        part = search.program.restrict(chosen)
        share = WHOLE_SHARE if whole else LADDER_SHARE
        until = _past_the_root(search, share) if number == LADDER[0] else search.share(share)
        run = search.mip(part, part.milp, until)
        if whole:
            search.take_bound(run)
            return
