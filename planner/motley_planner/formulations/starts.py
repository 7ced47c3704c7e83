"""Points that are plans by construction, for a search to begin from and to fall back on.

Keep what runs, or as much of it as limits allow where they were lowered, or as the demand needs where
it fell, or stop it; restart what was lost where it fits (the *repair* plan); and fill each of them up
without a solver (greedy.py). Their rates are worked out anew by the search, so it is never worse than
the best of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from motley_planner.domain.solution import PlacedReplica
from motley_planner.domain.table import Column
from motley_planner.formulations.finishing import close_unused, set_room_beside, set_used
from motley_planner.formulations.flips import set_flips
from motley_planner.formulations.greedy import FEASIBLE, greedy_start
from motley_planner.formulations.placement import kept_replicas
from motley_planner.formulations.program import Index
from motley_planner.solver.milp import Floats, Milp


def find_starts(milp: Milp, index: Index) -> list[Floats]:
    """Feasible points, the least disturbing first."""
    found: list[Floats] = []
    everything = {r.id for r in index.inventory.survivors}
    for start in (index.table.start, *index.table.starts):
        if start:
            found += _built_on(milp, index, [_as_given(milp, index, start)])
    goes_on = _built_on(milp, index, _running(milp, index, everything))
    if not goes_on:
        goes_on = _built_on(milp, index, _running(milp, index, _within_limits(milp, index)))
    found += goes_on
    if goes_on and index.packing.kept:
        found += _without_idle(milp, index, goes_on[-1])
    if index.packing.kept:
        found += _built_on(milp, index, _running(milp, index, set()))
    return found


def _running(milp: Milp, index: Index, kept: set[str]) -> list[Floats]:
    """What is kept of what runs; and, where all is, the repair."""
    x = np.zeros(milp.num_cols)
    _set_kept(index, x, kept)
    _finish(index, x)
    return [x, _repaired(milp, index, x)] if kept and index.inventory.lost else [x]


def _within_limits(milp: Milp, index: Index) -> set[str]:
    """Survivors that must go on, and as many others as break no limit, cheapest per request first."""
    packing, survivors, columns = index.packing, index.inventory.survivors, index.table.columns
    kept = {survivors[i].id for i in index.inventory.bound}
    x = np.zeros(milp.num_cols)
    _set_kept(index, x, {survivor.id for survivor in survivors})  # with the room beside all of them
    for group in packing.kept:
        x[group.variable] = milp.col_lower[group.variable]
    _finish(index, x)
    room = milp.row_upper - milp.activity(x)

    for group in sorted(packing.kept, key=lambda g: _price_per_request(columns[g.column])):
        others = [survivors[i].id for i in group.replicas if survivors[i].id not in kept]
        kept.update(others[: _taken(milp, room, group.variable, len(others))])
    return kept


def _price_per_request(column: Column) -> float:
    return column.price_usd_per_hour / max(1e-9, *column.requests_per_second.values(), 0.0)


def _without_idle(milp: Milp, index: Index, x: Floats) -> list[Floats]:
    """The point without the survivors that its rates leave idle, the dearest per request first.

    None where there are none, or where something else than their load needs them.
    """
    packing, columns = index.packing, index.table.columns
    less, activity, stopped = x.copy(), milp.activity(x), 0
    for group in sorted(packing.kept, key=lambda g: -_price_per_request(columns[g.column])):
        variable = group.variable
        entries = slice(milp.start[variable], milp.start[variable + 1])
        rows, values = milp.index[entries], milp.value[entries]
        below, above = activity[rows] - milp.row_lower[rows], milp.row_upper[rows] - activity[rows]
        room = np.where(values > 0, below, above) + 1e-9
        most = float(np.min(room / np.abs(values), initial=np.inf, where=values != 0))
        number = math.floor(min(max(0.0, most), less[variable] - milp.col_lower[variable]))
        if number > 0:
            less[variable] -= number
            activity[rows] -= values * number
            stopped += number
    if not stopped:
        return []
    kept = {replica.id for replica in kept_replicas(index.table, index.inventory, packing, less)}
    set_room_beside(index, less, kept)
    set_used(index, less)
    if packing.counts_nodes:
        close_unused(index, less)
    return [less] if milp.violation(less) <= FEASIBLE else []


def _as_given(milp: Milp, index: Index, start: Sequence[PlacedReplica]) -> Floats:
    """The counts of a start of the table."""
    x = np.zeros(milp.num_cols)
    _set_kept(index, x, {placed.kept for placed in start if placed.kept is not None})
    set_flips(index.table, index.inventory, index.packing, x, start)
    column = {c.id: i for i, c in enumerate(index.table.columns)}
    for placed in start:
        if placed.kept is None and placed.column in column:
            x[index.packing.new[column[placed.column]]] += 1
    _finish(index, x)
    return x


def _built_on(milp: Milp, index: Index, bases: list[Floats]) -> list[Floats]:
    """The bases that are feasible, and what greed makes of the last."""
    found = [base for base in bases if milp.violation(base) <= FEASIBLE]
    greedy = greedy_start(milp, index, bases[-1])
    return found if greedy is None else [*found, greedy]


def filled_up(milp: Milp, index: Index, x: Floats) -> Floats | None:
    """The point's replicas, and more beside them for what it leaves unserved; None where greed fails.

    A search that is cut short may have improved one level and not have come to the next.
    """
    base = np.where(milp.integer, np.round(x), 0.0)
    for variables in (index.demand.tiers, index.demand.chosen):
        base[list(variables.values())] = 0.0
    _finish(index, base)
    return greedy_start(milp, index, base)


def _finish(index: Index, x: Floats) -> None:
    """What follows from the counts of a point without rates."""
    _set_minimums(index, x)
    set_indicators(index, x)


def _set_kept(index: Index, x: Floats, kept: set[str]) -> None:
    survivors = index.inventory.survivors
    for group in index.packing.kept:
        x[group.variable] = sum(survivors[replica].id in kept for replica in group.replicas)
    set_room_beside(index, x, kept)


def _set_minimums(index: Index, x: Floats) -> None:
    """Shortfalls of a point without rates; what lapses when all is served does not lapse here."""
    asked = {row.name: row for row in index.table.side_rows}
    if not index.lacking:
        return
    column = {c.id: i for i, c in enumerate(index.table.columns)}
    for name, variable in index.lacking.items():
        row = asked[name]
        have = 0.0
        for c, amount in row.per_replica.items():
            i = column[c]
            have += amount * x[index.packing.new[i]]
            have += sum(amount * x[g.variable] for g in index.packing.kept_of(i))
            have += sum(amount * each * x[v] for v, each in index.packing.flips_of(i))
        x[variable] = max(0.0, (row.at_least or 0.0) - have)


def set_indicators(index: Index, x: Floats) -> None:
    """Scenarios in which nothing is served, and columns in use."""
    for name, variable in index.recourse.missing.items():
        x[variable] = index.recourse.shares[name]
    x[index.recourse.spread] = 1.0
    set_used(index, x)


def _repaired(milp: Milp, index: Index, x: Floats) -> Floats:
    """What runs, and the lost replicas again where their column still fits, largest first."""
    x = x.copy()
    column = {c.id: i for i, c in enumerate(index.table.columns)}
    lost = Counter(column[r.column] for r in index.inventory.lost)
    room = milp.row_upper - milp.activity(x)
    for i in sorted(lost, key=lambda i: -index.table.columns[i].gpus):
        variable = index.packing.new[i]
        x[variable] += _taken(milp, room, variable, min(lost[i], milp.col_upper[variable]))
    _finish(index, x)
    return x


def _taken(milp: Milp, room: Floats, variable: int, wanted: float) -> int:
    """How many of `wanted` fit into the room of the rows, from which they are taken."""
    begin, end = milp.start[variable], milp.start[variable + 1]
    rows, values = milp.index[begin:end], milp.value[begin:end]
    takes = values > 0
    fits = (room[rows[takes]] + 1e-9) / values[takes]
    number = max(0, math.floor(min(wanted, float(fits.min(initial=math.inf)))))
    room[rows] -= values * number
    return number
