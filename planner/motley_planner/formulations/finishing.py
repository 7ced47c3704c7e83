"""What follows from the counts of a point made without a solver: indicators, shortfalls, nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from motley_planner.formulations.placement import (
    kept_replicas,
    place,
    release_unused,
    spreads,
)
from motley_planner.formulations.program import Index
from motley_planner.formulations.shapes import Flip, Packing
from motley_planner.formulations.together import Residents
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.job import Job
from motley_planner.solver.milp import Floats, Milp

TOLERABLE = 1e-7
TOGETHER_SHARE = 0.02  # of the limit that choosing among survivors that are alike may take


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
        x[used] = float(counts.of(there, i) > 0.5)
    for i, steps in counts.steps.items():
        replicas = float(round(counts.of(there, i)))
        reached = [step for step in steps if replicas >= step.pool.min_count]
        best = max(reached, key=lambda step: step.pool.factor, default=None)
        for step in steps:
            x[step.chosen] = float(step is best)
            x[step.bonus] = (step.pool.factor - 1.0) * replicas if step is best else 0.0


def close_unused(index: Index, x: Floats) -> None:
    """Sets nodes in use to those on which something is placed."""
    kept = kept_replicas(index.table, index.inventory, index.packing, x)
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
        kept = {r.id for r in kept_replicas(index.table, index.inventory, index.packing, other)}
        set_room_beside(index, other, kept)
        if index.packing.held_used:
            close_unused(index, other)
        fits = job.milp.violation(other) <= max(TOLERABLE, job.milp.violation(x))
        if fits and job.values_of(other) >= job.values_of(x):
            x = other
    return x


def keep_roles(job: Job, index: Index, x: Floats) -> Floats:
    """The point in which no role changes for nothing, and what may change its role is not replaced.

    A search that is cut short may flip one replica each way, or stop one that decodes and start one
    that prefills in its place.
    """
    packing = index.packing
    for flip in packing.flips:
        number = min(_stopped(x, flip, packing), round(x[packing.new[flip.target]]))
        if number > 0:
            x = _if_no_worse(job, index, x, _flipped_instead(x, flip, packing, number))
    ways = {(flip.source, flip.target): flip.variable for flip in packing.flips}
    for (source, target), variable in ways.items():
        back = ways.get((target, source))
        number = 0 if back is None else min(round(x[variable]), round(x[back]))
        if back is not None and number > 0:
            other = x.copy()
            other[[variable, back]] -= number
            x = _if_no_worse(job, index, x, other)
    return _without(job, index, x, [flip.variable for flip in packing.flips])


def _stopped(x: Floats, flip: Flip, packing: Packing) -> int:
    """Survivors that could flip and are stopped."""
    return len(flip.replicas) - round(float(x[list(flip.kept)].sum()))


def _flipped_instead(x: Floats, flip: Flip, packing: Packing, number: int) -> Floats:
    """The point with so many stopped survivors kept in another role, for new replicas of it."""
    other = x.copy()
    other[packing.new[flip.target]] -= number
    other[flip.variable] += number
    most = {group.variable: len(group.replicas) for group in packing.kept_of(flip.source)}
    for variable in flip.kept:
        more = min(number, most[variable] - round(other[variable]))
        other[variable] += more
        number -= more
    return other


def _if_no_worse(job: Job, index: Index, x: Floats, other: Floats) -> Floats:
    """The other point, with who stays where, if it breaks no row and loses nothing at any level."""
    kept = {r.id for r in kept_replicas(index.table, index.inventory, index.packing, other)}
    set_room_beside(index, other, kept)
    set_used(index, other)
    if index.packing.held_used:
        close_unused(index, other)
    fits = job.milp.violation(other) <= max(TOLERABLE, job.milp.violation(x))
    return other if fits and job.values_of(other) >= job.values_of(x) else x


def keep_together(job: Job, index: Index, x: Floats) -> Floats:
    """The point that keeps as many replicas of each column, on fewer nodes where that breaks no row.

    Survivors of one column on nodes with other room beside them have variables of their own, and
    which of these is lowered is all the same to every level.
    """
    until = CLOCK.now() + TOGETHER_SHARE * index.table.time_limit_s
    residents = Residents(index.table, index.inventory)
    bound = index.inventory.bound
    kept = {r.id for r in kept_replicas(index.table, index.inventory, index.packing, x)}
    for groups in index.packing.of_column.values():
        if CLOCK.now() >= until:
            break
        free = [g for g in groups if not bound.intersection(g.replicas)]
        alike = {i for g in free for i in g.replicas}
        number = round(sum(x[g.variable] for g in free))
        if len(free) < 2 or not 0 < number < len(alike) or spreads(index.table, free[0]):
            continue
        survivors = index.inventory.survivors
        others = [i for i, r in enumerate(survivors) if r.id in kept and i not in alike]
        chosen = set(residents.closest(sorted(alike), number, residents.gpus(others)))
        other = x.copy()
        for group in free:
            other[group.variable] = sum(i in chosen for i in group.replicas)
        now = {survivors[i].id for i in (*others, *chosen)}
        set_room_beside(index, other, now)
        if index.packing.held_used:
            close_unused(index, other)
        fits = job.milp.violation(other) <= max(TOLERABLE, job.milp.violation(x))
        if fits and job.values_of(other) >= job.values_of(x):
            x, kept = other, now
    return x


def leave_out_idle(job: Job, index: Index, x: Floats) -> Floats:
    """The point without new replicas whose end breaks no row and loses nothing at any level.

    A search that is cut short may have met them on its way and not have come to the price; a
    re-plan that asks for service only would keep them from then on.
    """
    return _without(job, index, x, index.packing.new)


def _without(job: Job, index: Index, x: Floats, variables: Sequence[int]) -> Floats:
    """The point with as few of these as breaks no row and loses nothing at any level."""
    milp, worst = job.milp, max(TOLERABLE, job.milp.violation(x))
    priced = index.packing.counts_nodes
    activity = milp.activity(x)
    for variable in variables:
        number = round(x[variable])
        if number <= 0:
            continue
        entries = slice(milp.start[variable], milp.start[variable + 1])
        rows, values = milp.index[entries], milp.value[entries]
        below, above = activity[rows] - milp.row_lower[rows], milp.row_upper[rows] - activity[rows]
        room = np.where(values > 0, below, above) + TOLERABLE
        most = float(np.min(room / np.abs(values), initial=np.inf, where=values != 0))
        number = int(min(number, np.floor(max(0.0, most))))
        if number <= 0:
            continue
        other = x.copy()
        other[variable] -= number
        set_used(index, other)
        if priced:
            close_unused(index, other)
        if milp.violation(other) <= worst and job.values_of(other) >= job.values_of(x):
            x, activity = other, milp.activity(other)
    return x
