"""New replicas whose requests what stands beside them can serve as well are left out.

A search that is cut short may spread a load that its survivors carry alone over replicas that it met on
its way. Idle they are not (`finishing.leave_out_idle`), but nobody needs them, and a
resource that nothing has happened to would grow because its neighbors were planned in a hurry.
"""

from __future__ import annotations

import numpy as np

from motley_planner.formulations.finishing import TOLERABLE, close_unused, set_used
from motley_planner.formulations.program import Index
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.job import Job
from motley_planner.solver.milp import Floats, Milp

SHARE = 0.04  # of the limit that looking for them may take
NOTHING = 1e-9  # of a rate variable's unit


def hand_over(job: Job, index: Index, x: Floats) -> Floats:
    """The point without new replicas whose rates fit on what else serves their classes.

    Columns are tried one by one, those beside survivors first: all of their new replicas and then single
    ones; what loses at any level, or breaks a row, is not handed over. Phases apart keep what they
    have: their flows hang together.
    """
    worst = max(TOLERABLE, job.milp.violation(x))
    until = CLOCK.now() + SHARE * index.table.time_limit_s
    for column in _grown(index, x):
        variable = index.packing.new[column]
        fewer = round(x[variable])
        while 0 < fewer <= round(x[variable]) and CLOCK.now() < until:
            other = _without(job.milp, index, x, (column, fewer))
            taken = other is not None and _is_as_good(job, index, (other, x), worst)
            if other is not None and taken:
                x = other
            elif fewer == 1:
                break
            fewer = 1
    return x


def _grown(index: Index, x: Floats) -> list[int]:
    """Columns with new replicas, of classes that survivors serve first."""
    rates, columns = index.demand.rates, index.table.columns
    goes_on = {g.column for g in index.packing.kept if x[g.variable] > 0.5}
    served = set(rates.request_class[np.isin(rates.column, list(goes_on))].tolist())
    beside = set(rates.column[np.isin(rates.request_class, list(served))].tolist())
    grown = [
        i for i, v in enumerate(index.packing.new) if x[v] > 0.5 and columns[i].phase == "both"
    ]
    return sorted(grown, key=lambda i: i not in beside)


def _is_as_good(job: Job, index: Index, points: tuple[Floats, Floats], worst: float) -> bool:
    """Whether the first point, whose nodes and indicators are set here, loses nothing beside the second."""
    new, old = points
    set_used(index, new)
    if index.packing.counts_nodes:
        close_unused(index, new)
    return job.milp.violation(new) <= worst and job.values_of(new) >= job.values_of(old)


def _without(milp: Milp, index: Index, x: Floats, fewer: tuple[int, int]) -> Floats | None:
    """The point with so many new replicas of a column less, and their part of its rates elsewhere."""
    column, number = fewer
    rates, there = index.demand.rates, index.counts.variables[column]
    count = float(sum(x[v] for v in there))
    other = x.copy()
    other[index.packing.new[column]] -= number
    own = np.flatnonzero((rates.column == column) & (x[rates.variable] > 0))
    amounts = x[rates.variable[own]] * (number / count)
    other[rates.variable[own]] -= amounts
    room = milp.row_upper - milp.activity(other)
    for at, amount in zip(own.tolist(), (amounts * rates.unit[own]).tolist(), strict=True):
        left = float(amount)
        for heir in np.flatnonzero(rates.request_class == rates.request_class[at]).tolist():
            if left <= NOTHING * rates.unit[at]:
                break
            if _may_serve(index, other, (column, int(rates.column[heir]))):
                left -= _given(milp, other, room, (rates.variable[heir], rates.unit[heir], left))
        if left > NOTHING * rates.unit[at]:
            return None
    return other


def _may_serve(index: Index, x: Floats, columns: tuple[int, int]) -> bool:
    """Whether a column other than the first has replicas that do both phases."""
    own, heir = columns
    if heir == own or index.table.columns[heir].phase != "both":
        return False
    return bool(sum(x[v] for v in index.counts.variables[heir]) > 0.5)


def _given(milp: Milp, x: Floats, room: Floats, what: tuple[int, float, float]) -> float:
    """Requests/s of `left` that a rate variable of this unit takes on; `x` and `room` are set."""
    variable, unit, left = what
    entries = slice(milp.start[variable], milp.start[variable + 1])
    rows, values = milp.index[entries], milp.value[entries]
    # The demand's own row is as full as before the rate was taken from another.
    limits = np.where(values > 0, room[rows] / np.where(values > 0, values, 1.0), np.inf)
    most = min(float(np.min(limits, initial=np.inf)), milp.col_upper[variable] - x[variable])
    units = min(max(0.0, most), left / unit)
    x[variable] += units
    room[rows] -= values * units
    return float(units * unit)
