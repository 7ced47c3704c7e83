"""Which variables and rows of a fleet program belong to one replica configuration alone.

A column on which nothing runs now is a block of the program (solver/blocks.py): its count, its
rates, and its time, NIC or KV, force and max_count rows. Columns with survivors, or that survivors
may flip to, and everything else, are the core.
"""

from __future__ import annotations

import numpy as np

from motley_planner.domain.table import FleetTable
from motley_planner.formulations.counts import Counts
from motley_planner.formulations.packing import Packing
from motley_planner.formulations.rates import RateVariables
from motley_planner.solver.blocks import Blocks
from motley_planner.solver.milp import AnyInts, Milp


def find_blocks(
    table: FleetTable,
    packing: Packing,
    rates: RateVariables,
    counts: Counts,
    milp: Milp,
) -> Blocks:
    """The blocks of a program; a column with a minimum or a pool's bonus is core as well."""
    max_counts = counts.max_rows
    outside = np.ones(len(table.columns), dtype=np.bool_)
    named = [*counts.used, *counts.extra, *packing.flipped]
    outside[[g.column for g in packing.kept] + named] = False
    both = np.zeros((2, len(table.columns)), dtype=np.bool_)
    both[0, rates.column[rates.nic > 0]] = True
    both[1, rates.column[rates.kv > 0]] = True
    outside[both.all(axis=0)] = False  # a block has one resource beside time
    serves = np.zeros(len(table.columns), dtype=np.bool_)
    serves[rates.column] = True
    (columns,) = np.nonzero(outside & serves)
    block_of = np.full(len(table.columns), -1, dtype=np.int64)
    block_of[columns] = np.arange(len(columns))
    (mine,) = np.nonzero(block_of[rates.column] >= 0)
    count = np.array(packing.new, dtype=np.int64)[columns]
    limit = milp.col_upper[count].copy()
    pairs = [*rates.private, _pairs(max_counts)]
    rows = np.concatenate([r for r, _ in pairs])
    owners = block_of[np.concatenate([c for _, c in pairs])]
    for column, row in max_counts.items():
        if block_of[column] >= 0:
            limit[block_of[column]] = min(limit[block_of[column]], milp.row_upper[row])
    models = {m: k for k, m in enumerate(sorted({c.model for c in table.columns}))}
    sizes = np.bincount(block_of[rates.column[mine]], minlength=len(columns))
    return Blocks(
        count=count.astype(np.int32),
        rate=rates.variable[mine].astype(np.int32),
        first=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        time=rates.time[mine],
        most=rates.most[mine],
        beside=(rates.nic + rates.kv)[mine],
        limit=limit,
        group=np.array([models[table.columns[i].model] for i in columns], dtype=np.int32),
        private_rows=rows[owners >= 0].astype(np.int32),
        row_block=owners[owners >= 0].astype(np.int32),
    )


def _pairs(max_counts: dict[int, int]) -> tuple[AnyInts, AnyInts]:
    rows = np.array(list(max_counts.values()), dtype=np.int64)
    return rows, np.array(list(max_counts), dtype=np.int64)
