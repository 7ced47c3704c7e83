"""Side rows: at_least - shortfall <= counts, rates, served and policies <= at_most, prefix side.

Every row is divided by its largest coefficient, so that bytes, dollars and shares are all held to
the same relative tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from motley_planner.domain.table import FleetTable, SideRow
from motley_planner.errors import SnapshotError
from motley_planner.formulations.demand import Demand
from motley_planner.formulations.packing import Packing
from motley_planner.solver.milp import Level, MilpBuilder

Entry = tuple[int, float]
MINIMUMS = "minimums"


@dataclass(frozen=True, slots=True)
class Terms:
    """A linear expression: entries and a constant."""

    entries: list[Entry] = field(default_factory=list)
    constant: float = 0.0


def add_side_rows(
    builder: MilpBuilder, table: FleetTable, packing: Packing, demand: Demand
) -> dict[str, int]:
    """All side rows; gives the shortfall variable, in the row's unit, of each positive minimum.

    Raises: SnapshotError where a row names a column, class, demand or policy that is not there.
    """
    lacking: dict[str, int] = {}
    if not table.side_rows:
        return lacking
    reader = _Reader(table, packing, demand)
    for row in table.side_rows:
        terms = reader.terms(row)
        scale = max((abs(c) for _, c in terms.entries), default=1.0) or 1.0
        entries = [(v, c / scale) for v, c in terms.entries]
        name, shift = f"side[{row.name}]", terms.constant
        if row.at_most is not None:
            builder.row(entries, upper=(row.at_most - shift) / scale, name=name)
        if row.at_least is None:
            continue
        lower = (row.at_least - shift) / scale
        if row.at_least > 0:
            lacking[row.name] = builder.variable()
            entries = [*entries, (lacking[row.name], 1.0 / scale)]
        builder.row(entries, lower=lower, name=name)
    return lacking


def minimums_level(builder: MilpBuilder, table: FleetTable, lacking: dict[str, int]) -> Level:
    """-(sum of importance x shortfall / minimum): the level above all others."""
    cost = np.zeros(builder.num_cols)
    for row in table.side_rows:
        if row.name in lacking and row.at_least:
            cost[lacking[row.name]] = -row.importance / row.at_least
    return Level(MINIMUMS, cost)


class _Reader:
    """Terms of side rows over the variables of one program."""

    def __init__(self, table: FleetTable, packing: Packing, demand: Demand) -> None:
        self.table, self.demand = table, demand
        self.position = {c.id: i for i, c in enumerate(table.columns)}
        self.counts: list[list[Entry]] = [[(v, 1.0)] for v in packing.new]
        for group in packing.kept:
            self.counts[group.column].append((group.variable, 1.0))
        for i, entries in packing.flipped.items():
            self.counts[i] += entries
        self.class_names = {c.name for c in table.classes}
        self.own = {c.name: c.requests_per_second for c in table.classes}
        self.own |= {c.name: c.requests_per_second for c in table.cascades}

    def terms(self, row: SideRow) -> Terms:
        """The row's left side."""
        found, constant = list[Entry](), 0.0
        for column, amount in row.per_replica.items():
            found += [(v, amount * c) for v, c in self.counts[self._column(row, column)]]
        for (column, name), amount in row.per_rate.items():
            if name not in self.class_names:
                raise _unknown(row, "class", name)
            rate = self.demand.rates.find(self._column(row, column), name)
            if rate is not None:
                found.append((rate[0], amount * rate[1]))
        for name, amount in row.per_served.items():
            share, rate_of = self.served_share(row, name), self.own[name]
            found += [(v, c * amount * rate_of) for v, c in share.entries]
            constant += share.constant * amount * rate_of
        for (cascade, policy), amount in row.per_policy.items():
            variable = self.demand.shares.get((cascade, policy))
            if variable is None and self.own.get(cascade) != 0.0:
                raise _unknown(row, "policy", f"{cascade}/{policy}")
            if variable is not None:
                found.append((variable, amount * self.own[cascade]))
        return Terms([(v, c) for v, c in found if c], constant)

    def served_share(self, row: SideRow, name: str) -> Terms:
        """Share of a demand's own rate that is served; in max_min the scale."""
        if name not in self.own:
            raise _unknown(row, "demand", name)
        if self.own[name] <= 0 or self.table.objective == "min_cost":
            return Terms(constant=1.0)
        variable = self.demand.scale
        if variable is None:
            variable = self.demand.served[name]
        return Terms([(variable, 1.0)])

    def _column(self, row: SideRow, column: str) -> int:
        if column not in self.position:
            raise _unknown(row, "column", column)
        return self.position[column]


def _unknown(row: SideRow, what: str, name: str) -> SnapshotError:
    return SnapshotError(f"side_rows[{row.name!r}]", f"unknown {what} {name!r}")
