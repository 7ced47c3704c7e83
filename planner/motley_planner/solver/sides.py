"""The linear program of a level's rates taken apart: what each part of the fleet's models adds.

With the integers z fixed, a level's rates fall into *sides* that no row joins: those of one model,
say, or of the models of one cascade. A max_min level is one scale that every demand must reach, and
nothing but this scale joins its sides; so it is the least over the sides of what each could reach
alone. Any other level is the sum of what its sides give. One linear program gives all of them, with
their slopes in z:

    f_m(z') <= f_m(z) + d_m (z' - z)        for every side m, whole z or not
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import highspy
import numpy as np

from motley_planner.solver import highs
from motley_planner.solver.milp import AnyInts, Floats, Milp


class Sides:
    """The sides of a program under a cost, of which only what is no integer counts here.

    `scale` is the variable that joins them all, None where the level is their sum.
    """

    def __init__(self, milp: Milp, cost: Floats) -> None:
        self.whole = np.flatnonzero(milp.integer).astype(np.int32)
        counted = np.flatnonzero((cost != 0) & ~milp.integer)
        joins = len(counted) == 1 and cost[counted[0]] > 0
        self.scale = int(counted[0]) if joins else None
        self._column = np.repeat(np.arange(milp.num_cols), np.diff(milp.start))
        self._side_of_row, self._side_of = self._find(milp)
        self.number = int(self._side_of_row.max(initial=0)) + 1
        self.bounding = np.ones(self.number, dtype=np.bool_)  # sides that say anything of the level
        apart, self._cost = self._apart(milp, cost)
        self._lp: Any = highs.load(apart, self._cost, relax=True)
        self._lp.setOptionValue("presolve", "off")
        self._lp.setOptionValue("simplex_strategy", highs.DUAL)
        mine = milp.integer[self._column] & (self._side_of_row[milp.index] >= 0)
        self._rows, self._values = milp.index[mine], milp.value[mine]
        self._at = (np.cumsum(milp.integer) - 1)[self._column[mine]]

    def _find(self, milp: Milp) -> tuple[AnyInts, AnyInts]:
        """The side of each row (-1: it has integers alone) and of each variable (0 where in no row)."""
        scaled = self._column == self.scale
        rates = ~milp.integer[self._column] & ~scaled
        row, column = milp.index[rates], self._column[rates]
        label = np.arange(milp.num_rows)
        while True:
            least = np.full(milp.num_cols, milp.num_rows)
            np.minimum.at(least, column, label[row])
            joined = label.copy()
            np.minimum.at(joined, row, least[column])
            if (joined == label).all():
                break
            label = joined
        ours = np.zeros(milp.num_rows, dtype=np.bool_)
        ours[row] = True
        ours[milp.index[scaled]] = True
        side_of_row = np.full(milp.num_rows, -1)
        side_of_row[ours] = np.unique(label[ours], return_inverse=True)[1]
        side_of = np.zeros(milp.num_cols, dtype=np.int64)
        side_of[column] = side_of_row[row]
        return side_of_row, side_of

    def _apart(self, milp: Milp, cost: Floats) -> tuple[Milp, Floats]:
        """The program with a scale for each side behind all other variables, and its cost.

        Rows of integers alone are no matter here.
        """
        ours = self._side_of_row >= 0
        milp = replace(
            milp,
            row_lower=np.where(ours, milp.row_lower, -np.inf),
            row_upper=np.where(ours, milp.row_upper, np.inf),
        )
        if self.scale is None:
            return milp, np.where(milp.integer, 0.0, cost)
        column, scaled = self._column.copy(), self._column == self.scale
        column[scaled] = milp.num_cols + self._side_of_row[milp.index[scaled]]
        order = np.argsort(column, kind="stable")
        sizes = np.bincount(column, minlength=milp.num_cols + self.number)
        low, high = milp.col_lower[self.scale], milp.col_upper[self.scale]
        without = sizes[milp.num_cols :] == 0  # nothing asks this side for anything
        uppers = np.where(without & ~np.isfinite(high), max(low, 0.0), high)
        self._side_of = np.append(self._side_of, np.arange(self.number))
        self.bounding = ~without
        apart = replace(
            milp,
            col_lower=np.append(milp.col_lower, np.full(self.number, low)),
            col_upper=np.append(milp.col_upper, uppers),
            integer=np.append(milp.integer, np.zeros(self.number, dtype=np.bool_)),
            start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
            index=milp.index[order],
            value=milp.value[order],
        )
        return apart, np.append(np.zeros(milp.num_cols), np.ones(self.number))

    def reach(self, counts: Floats, deadline: float) -> tuple[Floats, Floats] | None:
        """What each side gives at these counts, and its slopes (side x count); None where nothing does."""
        self._lp.changeColsBounds(len(self.whole), self.whole, counts, counts)
        if not highs.set_time(self._lp, deadline):
            return None
        self._lp.run()
        if self._lp.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        solution = self._lp.getSolution()
        worth = self._cost * np.asarray(solution.col_value)
        reached = np.bincount(self._side_of, weights=worth, minlength=self.number)
        slopes = np.zeros((self.number, len(self.whole)))
        where = self._side_of_row[self._rows], self._at
        np.subtract.at(slopes, where, np.asarray(solution.row_dual)[self._rows] * self._values)
        return np.asarray(reached, dtype=np.float64), slopes
