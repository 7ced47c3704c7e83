"""A given plan as it is: its replicas where they are, as if they ran, with nothing moved.

Replicas that do not run yet are guests among those that do. The solver may add to what is held and
chooses rates; starting the guests is charged afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from motley_planner.checker.room import flipped_gpus
from motley_planner.domain.solution import Level, PlacedReplica, Solution
from motley_planner.domain.table import FleetTable, RunningReplica
from motley_planner.planning.comparing import PRICE_LEVEL

GUEST = "given/"  # how ids of replicas start that do not run yet


def holding(table: FleetTable, placed: Sequence[PlacedReplica]) -> FleetTable | None:
    """The table in which `placed` goes on; None where it is nothing, or does not fit."""
    assert table.previous is not None
    previous = table.previous
    room = Counter({n.name: n.gpus for n in previous.nodes if n.name not in table.lost_nodes})
    columns = {c.id: c for c in table.columns}
    for one in placed:
        if one.column not in columns:
            return None
        for name, fragment in zip(one.nodes, columns[one.column].fragments, strict=True):
            if name not in room:
                return None
            room[name] -= fragment.tp
    kept = {one.kept for one in placed if one.kept is not None}
    if not placed or min(room.values(), default=0) < 0 or table.purchasable:
        return None
    new = [one for one in placed if one.kept is None]
    guests = tuple(RunningReplica(f"{GUEST}{i}", r.column, r.nodes) for i, r in enumerate(new))
    roles = {one.kept: one.column for one in placed}
    running = tuple(
        replace(r, column=roles.get(r.id, r.column), flips_to=())
        for r in previous.replicas
        if r.id in kept or not guests
    )
    if len(kept) > len({r.id for r in running} & kept):
        return None
    return replace(
        table,
        previous=replace(previous, replicas=(*running, *guests)),
        held_replicas=frozenset(kept | {guest.id for guest in guests}),
        most_stopped=None,
        start=(),
        starts=(),
    )


def without_guests(table: FleetTable, solution: Solution) -> Solution:
    """The solution with the guests as what they are: replicas to be started, at their penalty.

    So is what goes on in another role than it runs in.
    """
    sizes = {c.id: c.gpus for c in table.columns}
    guests = [p for p in solution.placement if (p.kept or "").startswith(GUEST)]
    flipped = flipped_gpus(table, solution.placement)
    if not guests and not flipped:
        return solution
    gpus = sum(sizes[p.column] for p in guests)
    kept = {p.kept for p in solution.placement} - {p.kept for p in guests}
    survivors = () if table.previous is None else table.previous.replicas
    gone = [r for r in survivors if r.id not in kept and table.lost_nodes.isdisjoint(r.nodes)]
    started, stopped = solution.started_gpus + gpus, sum(sizes[r.column] for r in gone)
    before = solution.stopped_gpus
    penalty = table.penalty_per_started_gpu * gpus
    penalty += table.penalty_per_stopped_gpu * (stopped - before)
    penalty += table.penalty_per_flipped_gpu * flipped
    levels = tuple(
        Level(PRICE_LEVEL, level.value + penalty, None, None)
        if level.name == PRICE_LEVEL and level.value is not None and table.penalty_in_price
        else level
        for level in solution.levels
    )
    placement = tuple(replace(p, kept=None) if p in guests else p for p in solution.placement)
    return replace(
        solution,
        levels=levels,
        placement=placement,
        started=solution.started + len(guests),
        started_gpus=started,
        stopped=len(gone),
        stopped_gpus=stopped,
    )
