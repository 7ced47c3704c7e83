"""What replicas take: the shapes of columns, and the variables of the packing part.

Columns of the same fragments in the same zone have one shape, so that a table of 100,000 columns
costs no more per column than a row of a table.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from motley_planner.domain.table import Column, Fragment
from motley_planner.formulations.gains import Gain
from motley_planner.formulations.inventory import NodeClass, use_by_class
from motley_planner.solver.milp import MilpBuilder

Use = dict[NodeClass, Counter[int]]  # fragments of one replica: node class -> tp -> how many
Takes = dict[int, list[tuple[tuple[NodeClass, int], float]]]  # shape -> (class, q), GPUs


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """Survivors of one column that are interchangeable; `column` indexes the table's columns."""

    column: int
    replicas: tuple[int, ...]
    variable: int


@dataclass(frozen=True, slots=True)
class Flip:
    """How many of the kept survivors of one column go on as replicas of another (flips.py).

    `replicas` are those that may, of the groups whose variables are `kept`.
    """

    source: int
    target: int
    variable: int
    replicas: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(slots=True)
class Packing:
    """Variables of the packing part: new_c, kept_g, nodes in use, slots on single nodes."""

    new: list[int] = field(default_factory=list)
    kept: list[KeptGroup] = field(default_factory=list)
    open_used: list[int | None] = field(default_factory=list)
    held_used: dict[str, int] = field(default_factory=dict)
    slots: dict[tuple[str, int], int] = field(default_factory=dict)
    exact: bool = True
    rows: dict[tuple[NodeClass, int], int] = field(default_factory=dict)  # nested floors
    gains: list[Gain] = field(default_factory=list)
    of_column: dict[int, list[KeptGroup]] = field(default_factory=dict)
    flips: list[Flip] = field(default_factory=list)
    flipped: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # entries by column

    @property
    def counts_nodes(self) -> bool:
        """Whether variables say which nodes are in use: they have a price, or a row of their own."""
        return bool(self.held_used) or any(used is not None for used in self.open_used)

    def flips_of(self, column: int) -> list[tuple[int, float]]:
        """What flips add to a column's count, and take off it."""
        return self.flipped.get(column, [])

    def kept_of(self, column: int) -> list[KeptGroup]:
        """Groups of survivors of one column."""
        return self.of_column.get(column, [])


def find_shapes(columns: tuple[Column, ...]) -> tuple[list[Use], list[int]]:
    """What replicas take, each different use once, and which use is a column's."""
    numbers: dict[tuple[str, tuple[Fragment, ...]], int] = {}
    uses: list[Use] = []
    shape_of: list[int] = []
    for column in columns:
        key = (column.zone, column.fragments)
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = len(uses)
            uses.append(use_by_class(column))
        shape_of.append(number)
    return uses, shape_of


def add_takes(builder: MilpBuilder, packing: Packing, shape_of: list[int], takes: Takes) -> None:
    """What each new replica takes of the nested floors, shape by shape."""
    finite = [
        [(packing.rows[key], gpus) for key, gpus in found if key in packing.rows]
        for found in takes.values()
    ]
    first = np.cumsum([0, *(len(found) for found in finite)])
    flat = [entry for found in finite for entry in found]
    shape = np.array(shape_of, dtype=np.int64)
    sizes = np.diff(first)[shape]
    begin = np.cumsum(sizes) - sizes
    at = np.arange(int(sizes.sum())) + np.repeat(first[:-1][shape] - begin, sizes)
    builder.entries(
        np.array([row for row, _ in flat], dtype=np.int64)[at],
        np.repeat(np.array(packing.new, dtype=np.int64), sizes),
        np.array([gpus for _, gpus in flat], dtype=np.float64)[at],
    )
