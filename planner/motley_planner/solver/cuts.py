"""Cuts that bound what one group of blocks (one model) must take of the fleet.

For a group m and weights w >= 0 on replicas, let V be a lower bound on sum of w_b y_b over the
group's blocks in any plan at least as good as the incumbent, found by an integer program on that
group alone (rows that the other groups' columns could loosen are loosened). Then

    sum over blocks b of m of w_b y_b >= V

holds in every better plan. With the relaxation's own duals as weights this is the Lagrangian bound
of the group, and the sum of the groups' cuts lifts the relaxation where each model needs few
replicas, which is where the plain relaxation is weak. Cuts end with the search that made them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from motley_planner.solver.blocks import Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.level import search_level
from motley_planner.solver.milp import Bools, Floats, Level
from motley_planner.solver.relaxing import Limits
from motley_planner.solver.search import Search

LIFT = 1e-6  # relative; a cut that lifts its group by less is left out
GROUP_GAP = 2e-4


def add_group_cuts(search: Search, deadline: float) -> bool:
    """One cut a group with the relaxation's weights; True if any lifts the relaxation."""
    found, program = search.relaxation, search.program
    if search.x is None or found is None or found.duals is None or found.x is None:
        return False
    blocks = program.blocks
    weights = -program.reduced_costs(search.level.cost, found.duals)[blocks.count]
    weights = np.maximum(weights, 0.0)
    most = search.most_counts()
    groups = np.unique(blocks.group[most > 0])
    milp = program.milp
    for k, group in enumerate(groups.tolist()):
        now = CLOCK.now()
        until = now + max(0.0, deadline - now) / (len(groups) - k)
        mine = blocks.group == group
        value = _least(search, mine, np.where(mine, weights, 0.0), most, until)
        if value is None:
            continue
        reached = float(weights[mine] @ found.x[blocks.count[mine]])
        if value > reached + LIFT * max(1e-9, abs(value)):
            row = np.zeros(milp.num_cols)
            row[blocks.count[mine]] = weights[mine] / value
            milp = milp.with_row(row, 1.0 - 1e-9, np.inf)
    if milp is program.milp:
        return False
    search.program = program.with_milp(milp)
    return True


def _least(
    search: Search, mine: Bools, weights: Floats, most: Floats, deadline: float
) -> float | None:
    """A lower bound on sum w y over a group's blocks in any plan not worse than the incumbent."""
    alone = _alone(search, mine)
    blocks = replace(alone.blocks, limit=most[mine])
    upper = alone.milp.col_upper.copy()
    upper[blocks.count] = np.minimum(upper[blocks.count], blocks.limit)
    part = Structured(alone.milp.with_bounds(alone.milp.col_lower, upper), blocks)
    cost = np.zeros(part.milp.num_cols)
    cost[blocks.count] = -weights[mine]
    limits = Limits(deadline, GROUP_GAP)
    inner = Search(part, None, Level("group", cost), limits, lambda *_: None)
    assert search.x is not None
    search_level(inner, None)
    bound = inner.bound if np.isfinite(inner.bound) else None
    return None if bound is None or inner.status == "unbounded" else -bound


def _alone(search: Search, mine: Bools) -> Structured:
    """The program relaxed so that the other groups' columns may be left out (at 0)."""
    program, level = search.program, search.level
    part, alone = program.only(mine)
    removed = np.ones(program.milp.num_cols, dtype=np.bool_)
    removed[part.columns] = False
    entries = removed[program.column_of_entry]
    index, value = program.milp.index[entries], program.milp.value[entries]
    positive = np.bincount(index, weights=value > 0, minlength=program.milp.num_rows) > 0
    negative = np.bincount(index, weights=value < 0, minlength=program.milp.num_rows) > 0
    loose = replace(
        alone.milp,
        row_lower=np.where(positive[part.rows], -np.inf, alone.milp.row_lower),
        row_upper=np.where(negative[part.rows], np.inf, alone.milp.row_upper),
    )
    if not (level.cost[removed] > 0).any():
        least = search.value - level.constant
        loose = loose.with_row(part.take(level.cost), least - 1e-9 * max(1.0, abs(least)), np.inf)
    return alone.with_milp(loose)
