"""What a column's count must keep besides room: max_count, min_count, and capacity of large pools.

    kept + new <= max_count                                                    (max_count)
    n z <= kept + new <= most z,  z binary                                     (min_count)
    extra = sum_b extra_b,  extra_b <= (f_b - 1) (kept + new),
    extra_b <= (f_b - 1) most z_b,  kept + new >= sum_b n_b z_b,  sum_b z_b <= 1   (pool)

`extra` is added to the replicas' worth on the right of the column's time row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from motley_planner.domain.table import Column, FleetTable, PoolStep
from motley_planner.formulations.packing import Packing
from motley_planner.solver.milp import MilpBuilder

Entry = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One pool step's variables: what it adds, and the binary that says that it is taken."""

    pool: PoolStep
    bonus: int
    chosen: int


@dataclass(slots=True)
class Counts:
    """Variables that say how many replicas of each column there are, by column position."""

    variables: list[list[int]]  # new_c and every kept_g of the column; they add up
    flips: dict[int, list[Entry]] = field(default_factory=dict)  # and what changes its role
    extra: dict[int, list[int]] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)  # binaries of min_count
    steps: dict[int, list[Step]] = field(default_factory=dict)
    max_rows: dict[int, int] = field(default_factory=dict)

    def entries(self, column: int) -> list[Entry]:
        """The column's count as entries."""
        return [*((v, 1.0) for v in self.variables[column]), *self.flips.get(column, ())]

    def most(self, builder: MilpBuilder, column: int) -> float:
        """A bound on the column's count."""
        return sum(builder.upper_of(v) for v, c in self.entries(column) if c > 0)

    def of(self, values: list[float], column: int) -> float:
        """The column's count at a point."""
        return sum(c * values[v] for v, c in self.entries(column))


MOST_REPLICAS = 1e5  # of a column on unlimited inventory, where an indicator needs a bound


def add_counts(builder: MilpBuilder, table: FleetTable, packing: Packing) -> Counts:
    """The rows, and the variables they speak of."""
    out = Counts([[v] for v in packing.new], packing.flipped)
    for group in packing.kept:
        out.variables[group.column].append(group.variable)
    for i, column in enumerate(table.columns):
        if column.max_count is None and column.min_count <= 1 and not column.pool_steps:
            continue
        counts = out.entries(i)
        if column.max_count is not None:
            name = f"max_count[{column.id}]"
            out.max_rows[i] = builder.row(counts, upper=column.max_count, name=name)
        if column.min_count <= 1 and not column.pool_steps:
            continue
        most = out.most(builder, i)
        most = most if math.isfinite(most) else MOST_REPLICAS
        if column.max_count is not None:
            most = min(most, column.max_count)
        if column.min_count > 1:
            out.used[i] = _add_minimum(builder, column, counts, most)
        if column.pool_steps:
            out.steps[i] = _add_steps(builder, column, counts, most)
            out.extra[i] = [step.bonus for step in out.steps[i]]
    return out


def _add_minimum(builder: MilpBuilder, column: Column, counts: list[Entry], most: float) -> int:
    used = builder.variable(0, 1, integer=True)
    builder.row([*counts, (used, -most)], upper=0.0, name=f"min_count[{column.id}]")
    least = float(column.min_count)
    builder.row([*counts, (used, -least)], lower=0.0, name=f"min_count[{column.id}]")
    return used


def _add_steps(
    builder: MilpBuilder, column: Column, counts: list[Entry], most: float
) -> list[Step]:
    """Variables of the steps that can be reached at all."""
    steps = [s for s in column.pool_steps if s.factor > 1.0 and s.min_count <= most]
    made, reached = list[Step](), list[Entry]()
    for step in steps:
        bonus, gain = builder.variable(), step.factor - 1.0
        chosen = builder.variable(0, 1, integer=True)
        made.append(Step(step, bonus, chosen))
        reached.append((chosen, float(step.min_count)))
        rows = [(v, -gain * c) for v, c in counts]
        builder.row([(bonus, 1.0), *rows], upper=0.0, name="pool")
        builder.row([(bonus, 1.0), (chosen, -gain * most)], upper=0.0, name="pool")
    if reached:
        negative = [(v, -c) for v, c in counts]
        builder.row([*reached, *negative], upper=0.0, name="pool")
        builder.row([(v, 1.0) for v, _ in reached], upper=1.0, name="pool")
    return made
