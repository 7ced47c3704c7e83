"""Fills: uses of a replica's time, the columns of a sifted relaxation (sifting.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motley_planner.solver.blocks import Structured
from motley_planner.solver.milp import Bools, Floats, Ints

FIRST = 10  # fills a demand row to begin with
ROUND = 200  # fills added a round


@dataclass(frozen=True, slots=True)
class Fills:
    """Uses of replicas: block of each, and rates as CSR over positions in `blocks.rate`."""

    block: Ints
    start: Ints
    rate: Ints
    units: Floats


def first_fills(s: Structured, shared: Bools) -> Fills:
    """For each demand row the blocks that give most of it for their share of the fleet."""
    blocks, milp = s.blocks, s.milp
    if not len(blocks.rate):
        return no_fills()
    start, index, value = milp.columns_of(blocks.count)
    room = np.where(np.isfinite(milp.row_upper), np.abs(milp.row_upper), 0.0)[index]
    share = np.where((room > 0) & (value > 0), value / np.maximum(room, 1e-12), 0.0)
    owner = np.repeat(np.arange(blocks.number), np.diff(start))
    weight = np.bincount(owner, weights=share, minlength=blocks.number) + 1e-9
    first_row = milp.index[milp.start[blocks.rate]]
    given = np.abs(milp.value[milp.start[blocks.rate]]) / blocks.time
    rate_start, rate_index, rate_value = milp.columns_of(blocks.rate)
    outside = shared[rate_index]
    rate_owner = np.repeat(np.arange(len(blocks.rate)), np.diff(rate_start))[outside]
    first_of = np.searchsorted(rate_owner, np.arange(len(blocks.rate)))
    first_of = np.minimum(first_of, max(0, len(rate_owner) - 1))
    if len(rate_owner):
        first_row = rate_index[outside][first_of]
        given = np.abs(rate_value[outside][first_of]) / blocks.time
    worth = given / weight[s.rate_block]
    worth[s.blocks.limit[s.rate_block] <= 0] = -1.0
    order = np.lexsort((-worth, first_row))
    rows = first_row[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    picked = order[(rank < FIRST) & (worth[order] >= 0)]
    units = np.zeros(len(blocks.rate))
    cap = np.minimum(blocks.most, 1.0 / blocks.time)
    with np.errstate(divide="ignore"):
        cap = np.minimum(cap, np.where(blocks.beside > 0, 1.0 / blocks.beside, np.inf))
    units[picked] = cap[picked]
    # one fill each, so that two classes of one block do not share its time here
    starts = np.arange(len(picked) + 1, dtype=np.int32)
    owners = s.rate_block[picked]
    return Fills(owners, starts, picked.astype(np.int32), units[picked])


def best_fills(s: Structured, better: Bools, profit: Floats, units: Floats) -> Fills:
    """The most profitable, some of each group."""
    (found,) = np.nonzero(better)
    if len(found) > ROUND:
        order = found[np.argsort(-profit[found], kind="stable")]
        group = s.blocks.group[order]
        sequence = np.argsort(group, kind="stable")
        first = np.searchsorted(group[sequence], group[sequence])
        rank = np.empty(len(order), dtype=np.int64)
        rank[sequence] = np.arange(len(order)) - first
        each = ROUND // max(1, 2 * len(np.unique(group)))
        keep = (np.arange(len(order)) < ROUND // 2) | (rank < each)
        found = order[keep]
    return _fills(s, np.sort(found), units)


def _fills(s: Structured, chosen: Ints, units: Floats) -> Fills:
    first = s.blocks.first
    begin, sizes = first[chosen].astype(np.int64), np.diff(first)[chosen]
    start = np.concatenate([[0], np.cumsum(sizes)])
    rates = np.arange(start[-1]) + np.repeat(begin - start[:-1], sizes)
    owner = np.repeat(np.arange(len(chosen)), sizes)
    used = units[rates] > 0
    counts = np.bincount(owner[used], minlength=len(chosen))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Fills(chosen.astype(np.int32), starts, rates[used].astype(np.int32), units[rates[used]])


def no_fills() -> Fills:
    """None at all."""
    nothing = np.zeros(0, dtype=np.int32)
    return Fills(nothing, np.zeros(1, dtype=np.int32), nothing, np.zeros(0))
