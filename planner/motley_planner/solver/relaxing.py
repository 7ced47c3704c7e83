"""Bounds of a level: its relaxation, its variables' bounds, and when a search may stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motley_planner.solver import highs
from motley_planner.solver.blocks import Structured
from motley_planner.solver.fills import Fills
from motley_planner.solver.milp import Floats, Level, Milp
from motley_planner.solver.sifting import Relaxation, sift

FEW_BLOCKS = 40  # up to this many a program is solved as it is


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search may stop."""

    deadline: float
    relative_gap: float
    patience_s: float = np.inf  # without a gain for this long (and as long as it took): stop


def relax(
    program: Structured, cost: Floats, deadline: float, warm: Fills | None = None
) -> Relaxation:
    """The relaxation, sifted where there are blocks enough."""
    if program.blocks.number > FEW_BLOCKS:
        return sift(program, cost, deadline, warm)
    lp = highs.solve_lp(program.milp, cost, deadline)
    bound = np.inf if lp.bound is None else lp.bound
    return Relaxation(lp.status, bound, lp.x, None, lp.row_duals)


def rounded(milp: Milp, x: Floats) -> Floats:
    """x with its integers exact."""
    return np.where(milp.integer, np.round(x), x)


def highest_value(milp: Milp, level: Level) -> float:
    """What the bounds of the variables alone allow, inf where they allow anything."""
    best = np.where(level.cost > 0, milp.col_upper, milp.col_lower)
    (counted,) = np.nonzero(level.cost)
    return float(level.cost[counted] @ best[counted]) + level.constant
