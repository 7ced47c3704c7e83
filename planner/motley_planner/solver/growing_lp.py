"""A linear program in HiGHS that gains columns and rows and is solved warm each time."""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np

from motley_planner.solver.clock import CLOCK
from motley_planner.solver.highs import load, set_time, status_of
from motley_planner.solver.milp import Floats, Ints, Milp

_PRIMAL, _DUAL = 4, 1  # simplex_strategy


class GrowingLp:
    """Maximizes; `x`, `row_duals` and `value` are those of the last optimal run."""

    def __init__(self, milp: Milp, cost: Floats) -> None:
        self.highs: Any = load(milp, cost, relax=True)
        self.highs.setOptionValue("presolve", "off")
        self.highs.setOptionValue("dual_feasibility_tolerance", 1e-10)
        self.num_cols, self.num_rows = milp.num_cols, milp.num_rows
        self.x = np.zeros(milp.num_cols)
        self.row_duals = np.zeros(milp.num_rows)
        self.value = 0.0
        self._empty_breaks_rows = bool((milp.row_lower > 0).any() or (milp.row_upper < 0).any())

    def add_columns(self, cost: Floats, start: Ints, index: Ints, value: Floats) -> None:
        """Columns from 0 upwards, by CSC arrays over the rows."""
        number = len(cost)
        lower, upper = np.zeros(number), np.full(number, np.inf)
        self.highs.addCols(number, cost, lower, upper, len(value), start, index, value)
        self.num_cols += number
        self.x = np.concatenate([self.x, lower])

    def add_row(self, columns: Ints, values: Floats, upper: float) -> int:
        """A row sum values x <= upper; its index."""
        starts = np.zeros(1, dtype=np.int32)
        bounds = np.array([-np.inf]), np.array([upper])
        self.highs.addRows(1, *bounds, len(columns), starts, columns, values)
        self.num_rows += 1
        self.row_duals = np.append(self.row_duals, 0.0)
        return self.num_rows - 1

    def set_costs(self, cost: Floats) -> None:
        """Another objective over all columns."""
        self.highs.changeColsCost(self.num_cols, np.arange(self.num_cols, dtype=np.int32), cost)

    def fix_at_zero(self, columns: Ints) -> None:
        """Holds some columns at 0 from now on."""
        zeros = np.zeros(len(columns))
        self.highs.changeColsBounds(len(columns), columns, zeros, zeros)

    def solve(self, deadline: float, *, rows_added: bool = False) -> str:
        """optimal | infeasible | unbounded | limit | error."""
        self.highs.setOptionValue("simplex_strategy", _DUAL if rows_added else _PRIMAL)
        status = self._run(deadline)
        if status == "error":
            self.highs.clearSolver()
            status = self._run(deadline)
        if status == "optimal":
            solution = self.highs.getSolution()
            self.x = np.asarray(solution.col_value)
            self.row_duals = np.asarray(solution.row_dual)
            self.value = float(self.highs.getInfo().objective_function_value)
        return status

    def _run(self, deadline: float) -> str:
        if not self.num_cols:
            return "infeasible" if self._empty_breaks_rows else "optimal"
        if deadline <= CLOCK.now() or not set_time(self.highs, deadline):
            return "limit"
        self.highs.run()
        known = highspy.HighsModelStatus
        if self.highs.getModelStatus() == known.kUnboundedOrInfeasible:
            self.highs.clearSolver()
            set_time(self.highs, deadline)
            self.highs.run()
        return status_of(self.highs)
