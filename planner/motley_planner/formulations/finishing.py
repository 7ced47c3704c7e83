"""What follows from the counts of a point made without a solver: indicators, shortfalls, nodes."""

from __future__ import annotations

from motley_planner.formulations.placement import kept_replicas, place, release_unused
from motley_planner.formulations.program import Index
from motley_planner.solver.job import Job
from motley_planner.solver.milp import Floats, Milp

TOLERABLE = 1e-7


def release_shortfalls(milp: Milp, index: Index, x: Floats) -> None:
    """Lowers each minimum's shortfall, set before anything was served, to what is still missing."""
    spare = milp.activity(x) - milp.row_lower
    for variable in index.lacking.values():
        (at,) = range(milp.start[variable], milp.start[variable + 1])
        slack = max(0.0, float(spare[milp.index[at]])) / milp.value[at]
        x[variable] = max(0.0, x[variable] - slack)


def set_used(index: Index, x: Floats) -> None:
    """Sets the indicators of columns in use, and takes the best step that each pool reaches."""
    counts, there = index.counts, x.tolist()  # a list is read faster, and no count is set here
    for i, used in counts.used.items():
        x[used] = float(sum(there[v] for v in counts.variables[i]) > 0.5)
    for i, steps in counts.steps.items():
        replicas = float(round(sum(there[v] for v in counts.variables[i])))
        reached = [step for step in steps if replicas >= step.pool.min_count]
        best = max(reached, key=lambda step: step.pool.factor, default=None)
        for step in steps:
            x[step.chosen] = float(step is best)
            x[step.bonus] = (step.pool.factor - 1.0) * replicas if step is best else 0.0


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


def set_room_beside(index: Index, x: Floats, kept: set[str]) -> None:
    """Sets which held nodes are in use and what room is left on them, by who stays there."""
    packing, survivors = index.packing, index.inventory.survivors
    taken = {
        held.node.name: sum(tp for replica, tp in held.residents if survivors[replica].id in kept)
        for held in index.inventory.held
    }
    for name, used in packing.held_used.items():
        x[used] = float(taken[name] > 0)
    gpus = {held.node.name: held.node.gpus for held in index.inventory.held}
    for (name, q), variable in packing.slots.items():
        unused = name in packing.held_used and not taken[name]
        x[variable] = 0 if unused else max(0, (gpus[name] - taken[name]) // q)


def keep_instead(job: Job, index: Index, x: Floats) -> Floats:
    """The point in which nothing is started that could have been kept where it runs.

    A search that is cut short may stop a replica and start its like on another node.
    """
    for group in index.packing.kept:
        new = index.packing.new[group.column]
        number = min(len(group.replicas) - round(x[group.variable]), round(x[new]))
        if number <= 0:
            continue
        other = x.copy()
        other[group.variable] += number
        other[new] -= number
        kept = {r.id for r in kept_replicas(index.inventory, index.packing, other)}
        set_room_beside(index, other, kept)
        if index.packing.held_used:
            close_unused(index, other)
        fits = job.milp.violation(other) <= max(TOLERABLE, job.milp.violation(x))
        if fits and job.values_of(other) >= job.values_of(x):
            x = other
    return x
