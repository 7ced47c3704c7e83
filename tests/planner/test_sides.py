"""Sides of a level: together they are its linear program, and their slopes bound it everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from motley_planner.formulations.program import formulate
from motley_planner.formulations.starts import find_starts
from motley_planner.solver import highs
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.milp import Floats, Level, Milp
from motley_planner.solver.sides import Sides
from motley_planner.testing.fleets import fleet, loaded, lp_capacity


def program(objective: str, seed: int, family: str = "B") -> tuple[Milp, Level, list[Floats]]:
    """A fleet's program, its first level and some plans."""
    base = fleet(family, 32, seed)
    milp, index = formulate(loaded(base, objective, lp_capacity(base)))
    return milp, index.levels[0], find_starts(milp, index)


def level_at(milp: Milp, level: Level, counts: Floats) -> float:
    """The level's linear program with its counts fixed, without what counts cost."""
    whole = np.flatnonzero(milp.integer)
    lower, upper = milp.col_lower.copy(), milp.col_upper.copy()
    lower[whole] = upper[whole] = counts
    cost = np.where(milp.integer, 0.0, level.cost)
    run = highs.solve_lp(milp.with_bounds(lower, upper), cost, CLOCK.now() + 10.0)
    assert run.value is not None
    return run.value


def total(sides: Sides, level: Level, reached: Floats) -> float:
    """The level of what each side gives: the least of those that bound it, or the sum."""
    if sides.scale is None:
        return float(reached.sum())
    return float(level.cost[sides.scale] * reached[sides.bounding].min())


@pytest.mark.parametrize("objective", ["max_min", "goodput"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sides_make_up_the_level_and_their_slopes_bound_it(seed: int, objective: str) -> None:
    milp, level, starts = program(objective, seed)
    sides = Sides(milp, level.cost)
    assert sides.number == 2  # one for each model
    plans = [np.round(s[sides.whole]) for s in starts]
    points = [p * share for p in plans for share in (1.0, 0.7, 0.2)]
    found = [sides.reach(p, CLOCK.now() + 10.0) for p in points]
    for point, one in zip(points, found, strict=True):
        assert one is not None
        value = level_at(milp, level, point)
        assert total(sides, level, one[0]) == pytest.approx(value, abs=1e-7)
        for other, two in zip(points, found, strict=True):
            assert two is not None
            most = one[0] + one[1] @ (other - point)
            assert (two[0] <= most + 1e-7)[sides.bounding].all()


def test_one_model_is_one_side() -> None:
    milp, level, _ = program("max_min", 0, family="A")
    assert Sides(milp, level.cost).number == 1
