"""Blocks of one group as a program of their own, against HiGHS on the same columns."""

from __future__ import annotations

import numpy as np
import pytest

from motley_planner.formulations.program import formulate
from motley_planner.solver import highs
from motley_planner.solver.blocks import Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.sifting import sift
from motley_planner.testing.fleets import fleet, loaded, lp_capacity


@pytest.mark.parametrize("family", ["A", "B", "C"])
def test_groups_alone_have_the_relaxation_of_their_columns(family: str) -> None:
    base = fleet(family, 128, 1)
    milp, index = formulate(loaded(base, "goodput", lp_capacity(base)))
    program = Structured(milp, index.blocks)
    for group in np.unique(index.blocks.group):
        part, alone = program.only(index.blocks.group == group)
        blocks = alone.blocks
        assert blocks.number == int((index.blocks.group == group).sum())
        assert set(blocks.group.tolist()) == {group}
        np.testing.assert_array_equal(part.columns[blocks.count], index.blocks.count[
            index.blocks.group == group
        ])  # fmt: skip
        worth = np.zeros(part.milp.num_cols)
        worth[blocks.count], worth[blocks.rate] = -0.01, 1.0
        whole = highs.solve_lp(part.milp, worth, CLOCK.now() + 30)
        sifted = sift(alone, worth, CLOCK.now() + 30)
        assert whole.value is not None and whole.value > 0
        assert sifted.bound == pytest.approx(whole.value, rel=1e-6)
