"""What follows from the counts of a point made without a solver: indicators, shortfalls, nodes."""

from __future__ import annotations

from motley_planner.formulations.placement import kept_replicas, place, release_unused
from motley_planner.formulations.program import Index
from motley_planner.solver.milp import Floats, Milp


def release_shortfalls(milp: Milp, index: Index, x: Floats) -> None:
    """Lowers each minimum's shortfall, set before anything was served, to what is still missing."""
    spare = milp.activity(x) - milp.row_lower
    for variable in index.lacking.values():
        (at,) = range(milp.start[variable], milp.start[variable + 1])
        slack = max(0.0, float(spare[milp.index[at]])) / milp.value[at]
        x[variable] = max(0.0, x[variable] - slack)


def set_used(index: Index, x: Floats) -> None:
    """Sets the indicators of columns in use."""
    for i, used in index.counts.used.items():
        x[used] = float(sum(x[v] for v in index.counts.variables[i]) > 0.5)


def close_unused(index: Index, x: Floats) -> None:
    """Sets nodes in use to those on which something is placed."""
    kept = kept_replicas(index.inventory, index.packing, x)
    try:
        placed = place(index.table, index.inventory, index.packing, kept, x)
    except AssertionError:
        return  # the caller's check refuses the point
    held = {used: x[used] for used in index.packing.held_used.values()}
    release_unused(index.inventory, index.packing, placed, x)
    for used, was in held.items():
        x[used] = was
