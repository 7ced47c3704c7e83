"""A mixed-integer linear program as plain arrays.

    maximize   cost . x + constant
    subject to row_lower <= A x <= row_upper,  col_lower <= x <= col_upper,  x_j integer for some j

A is stored by columns (CSC), which is what HiGHS takes without a copy in Python. Nothing here knows
what a row means; the formulation keeps the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
AnyInts = NDArray[np.signedinteger]

INF = float("inf")


@dataclass(frozen=True, slots=True)
class Milp:
    """Constraints without an objective: several objectives may share them."""

    col_lower: Floats
    col_upper: Floats
    integer: Bools
    row_lower: Floats
    row_upper: Floats
    start: Ints
    index: Ints
    value: Floats

    @property
    def num_cols(self) -> int:
        """Variables."""
        return len(self.col_lower)

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(self.row_lower)

    def activity(self, x: Floats) -> Floats:
        """A x, one value a row."""
        per_entry = np.repeat(x, np.diff(self.start)) * self.value
        return self._sum(self.index, per_entry, self.num_rows)

    def price_out(self, row_duals: Floats) -> Floats:
        """A^T y, one value a column."""
        column_of_entry = np.repeat(np.arange(self.num_cols), np.diff(self.start))
        weights = self.value * row_duals[self.index]
        return self._sum(column_of_entry, weights, self.num_cols)

    @staticmethod
    def _sum(where: NDArray[np.integer], weights: Floats, length: int) -> Floats:
        return np.bincount(where, weights=weights, minlength=length).astype(np.float64)

    def violation(self, x: Floats) -> float:
        """The largest amount by which x breaks a row, a bound or integrality."""
        activity = self.activity(x)
        parts = [
            self.row_lower - activity,
            activity - self.row_upper,
            self.col_lower - x,
            x - self.col_upper,
            np.abs(x - np.round(x))[self.integer],
        ]
        return max((float(p.max()) for p in parts if p.size), default=0.0)

    def columns_of(self, columns: Ints) -> tuple[Ints, Ints, Floats]:
        """CSC arrays of some columns, in their order."""
        begin = self.start[columns].astype(np.int64)
        sizes = self.start[columns + 1].astype(np.int64) - begin
        start = np.concatenate([[0], np.cumsum(sizes)])
        entries = np.arange(start[-1]) + np.repeat(begin - start[:-1], sizes)
        return start.astype(np.int32), self.index[entries], self.value[entries]

    def with_bounds(self, lower: Floats, upper: Floats) -> Milp:
        """The same rows with other column bounds."""
        return replace(self, col_lower=lower, col_upper=upper)

    def with_added(
        self, entries: Sequence[tuple[int, int, float]], uppers: dict[int, float]
    ) -> Milp:
        """The program with amounts added to entries (row, column, amount) and to upper sides."""
        value, row_upper = self.value.copy(), self.row_upper.copy()
        fresh: list[tuple[int, int, float]] = []
        for row, column, amount in entries:
            begin, end = self.start[column], self.start[column + 1]
            (at,) = np.nonzero(self.index[begin:end] == row)
            if len(at):
                value[begin + at[0]] += amount
            else:
                fresh.append((column, row, amount))
        for row, amount in uppers.items():
            row_upper[row] += amount
        fresh.sort()
        columns = np.array([c for c, _, _ in fresh], dtype=np.int64)
        added = np.bincount(columns + 1, minlength=self.num_cols + 1)
        inserts = self.start[columns + 1]
        return replace(
            self,
            row_upper=row_upper,
            start=(self.start + np.cumsum(added)).astype(np.int32),
            index=np.insert(self.index, inserts, [r for _, r, _ in fresh]).astype(np.int32),
            value=np.insert(value, inserts, [a for _, _, a in fresh]),
        )

    def with_column(self, lower: float, upper: float) -> Milp:
        """One more continuous variable, in no row yet."""
        return replace(
            self,
            col_lower=np.append(self.col_lower, lower),
            col_upper=np.append(self.col_upper, upper),
            integer=np.append(self.integer, False),
            start=np.append(self.start, self.start[-1]).astype(np.int32),
        )

    def with_row(self, coefficients: Floats, lower: float, upper: float) -> Milp:
        """One more row; `coefficients` is dense."""
        (columns,) = np.nonzero(coefficients)
        inserts = self.start[columns + 1]
        added = np.zeros(self.num_cols + 1, dtype=np.int32)
        added[columns + 1] = 1
        return replace(
            self,
            row_lower=np.append(self.row_lower, lower),
            row_upper=np.append(self.row_upper, upper),
            start=(self.start + np.cumsum(added)).astype(np.int32),
            index=np.insert(self.index, inserts, self.num_rows).astype(np.int32),
            value=np.insert(self.value, inserts, coefficients[columns]),
        )


@dataclass(frozen=True, slots=True)
class Level:
    """One objective of a lexicographic list: cost . x + constant, to be maximized.

    `penalty` is the part of the value (cost, constant) that a gap is not measured against.
    """

    name: str
    cost: Floats
    constant: float = 0.0
    penalty: tuple[Floats, float] | None = None

    def penalty_of(self, x: Floats) -> float:
        """The penalty's part of the value."""
        return 0.0 if self.penalty is None else float(self.penalty[0] @ x) + self.penalty[1]

    def value_of(self, x: Floats) -> float:
        """cost . x + constant."""
        return float(self.cost @ x) + self.constant


class MilpBuilder:
    """Collects variables and rows, one by one or as arrays, then freezes them into a `Milp`."""

    def __init__(self) -> None:
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._integer: list[bool] = []
        self._row_lower: list[float] = []
        self._row_upper: list[float] = []
        self._entry_rows: list[int] = []
        self._entry_cols: list[int] = []
        self._entry_values: list[float] = []
        self._arrays: list[tuple[AnyInts, AnyInts, Floats]] = []
        self.row_names: list[str] = []

    @property
    def num_cols(self) -> int:
        """Variables so far."""
        return len(self._lower)

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return len(self._row_lower)

    def variable(self, lower: float = 0.0, upper: float = INF, *, integer: bool = False) -> int:
        """Adds a variable and returns its index."""
        self._lower.append(lower)
        self._upper.append(upper)
        self._integer.append(integer)
        return len(self._lower) - 1

    def variables(self, uppers: Sequence[float], *, integer: bool = False) -> AnyInts:
        """Adds variables from 0 to each upper bound and returns their indices."""
        first, number = len(self._lower), len(uppers)
        self._lower.extend([0.0] * number)
        self._upper.extend(uppers)
        self._integer.extend([integer] * number)
        return np.arange(first, first + number)

    def upper_of(self, variable: int) -> float:
        """Upper bound of a variable."""
        return self._upper[variable]

    def row(
        self,
        entries: Iterable[tuple[int, float]],
        lower: float = -INF,
        upper: float = INF,
        name: str = "",
    ) -> int:
        """Adds lower <= sum value x_col <= upper and returns its index; repeated columns add up."""
        row = len(self._row_lower)
        for col, value in entries:
            self._entry_rows.append(row)
            self._entry_cols.append(col)
            self._entry_values.append(value)
        self._row_lower.append(lower)
        self._row_upper.append(upper)
        self.row_names.append(name)
        return row

    def entry(self, row: int, column: int, value: float) -> None:
        """Adds one entry to a row that exists."""
        self._entry_rows.append(row)
        self._entry_cols.append(column)
        self._entry_values.append(value)

    def widen(self, row: int, amount: float) -> None:
        """Raises a row's upper side."""
        self._row_upper[row] += amount

    def rows_at_most(self, names: Sequence[str], upper: float = 0.0) -> AnyInts:
        """Adds rows sum ... <= upper without entries yet, and returns their indices."""
        first, number = len(self._row_lower), len(names)
        self._row_lower.extend([-INF] * number)
        self._row_upper.extend([upper] * number)
        self.row_names.extend(names)
        return np.arange(first, first + number)

    def entries(self, rows: AnyInts, columns: AnyInts, values: Floats) -> None:
        """Adds entries to rows that exist; repeated places add up."""
        self._arrays.append((rows, columns, values))

    def build(self) -> Milp:
        """The frozen program."""
        self.entries(
            np.asarray(self._entry_rows, dtype=np.int64),
            np.asarray(self._entry_cols, dtype=np.int64),
            np.asarray(self._entry_values, dtype=np.float64),
        )
        rows, cols, values = (np.concatenate([a[k] for a in self._arrays]) for k in range(3))
        self._arrays.pop()
        num_cols, num_rows = len(self._lower), len(self._row_lower)
        keys, where = np.unique(cols * max(1, num_rows) + rows, return_inverse=True)
        summed = np.bincount(where, weights=values, minlength=len(keys))
        keys, summed = keys[summed != 0.0], summed[summed != 0.0]
        counts = np.bincount(keys // max(1, num_rows), minlength=num_cols)
        return Milp(
            col_lower=np.asarray(self._lower, dtype=np.float64),
            col_upper=np.asarray(self._upper, dtype=np.float64),
            integer=np.asarray(self._integer, dtype=np.bool_),
            row_lower=np.asarray(self._row_lower, dtype=np.float64),
            row_upper=np.asarray(self._row_upper, dtype=np.float64),
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            index=(keys % max(1, num_rows)).astype(np.int32),
            value=summed.astype(np.float64),
        )
