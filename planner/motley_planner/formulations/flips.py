"""Survivors that go on in another role: kept where they are, counted for another column.

For each column c with survivors whose process is that of column d as well (`flips_to`):

    sum_d flip_cd <= sum of kept_g over their groups g
    count_c = new_c + sum_g kept_g - sum_d flip_cd + sum_b flip_bc

so packing, stops and what must go on know nothing of roles. Where no replica may flip, nothing is
added to the program.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from motley_planner.domain.solution import PlacedReplica
from motley_planner.domain.table import Column, FleetTable, RunningReplica
from motley_planner.formulations.inventory import Inventory
from motley_planner.formulations.shapes import Flip, KeptGroup, Packing
from motley_planner.solver.milp import Floats, MilpBuilder

Targets = tuple[int, ...]


def targets_of(replica: RunningReplica, position: dict[str, int]) -> Targets:
    """Positions of the columns that a survivor may flip to, as far as they are there."""
    if not replica.flips_to:
        return ()
    found = {position[c] for c in replica.flips_to if c in position and c != replica.column}
    return tuple(sorted(found))


def add_flips(
    builder: MilpBuilder, packing: Packing, columns: tuple[Column, ...], inventory: Inventory
) -> None:
    """The variables, and the rows that only what is kept flips."""
    position = {c.id: i for i, c in enumerate(columns)}
    alike: dict[tuple[int, Targets], list[KeptGroup]] = defaultdict(list)
    for group in packing.kept:
        targets = targets_of(inventory.survivors[group.replicas[0]], position)
        if targets:
            alike[group.column, targets].append(group)
    for (source, targets), groups in alike.items():
        replicas = tuple(sorted(i for group in groups for i in group.replicas))
        kept = tuple(group.variable for group in groups)
        entries = [(variable, -1.0) for variable in kept]
        for target in targets:
            variable = builder.variable(0, len(replicas), integer=True)
            packing.flips.append(Flip(source, target, variable, replicas, kept))
            packing.flipped.setdefault(source, []).append((variable, -1.0))
            packing.flipped.setdefault(target, []).append((variable, 1.0))
            entries.append((variable, 1.0))
        builder.row(entries, upper=0.0, name=f"flips[{columns[source].id}]")


def set_flips(
    table: FleetTable,
    inventory: Inventory,
    packing: Packing,
    x: Floats,
    placed: Sequence[PlacedReplica],
) -> None:
    """Sets how many of what a start keeps goes on in another role there."""
    columns = {one.kept: one.column for one in placed if one.kept is not None}
    for flip in packing.flips:
        target = table.columns[flip.target].id
        ids = (inventory.survivors[i].id for i in flip.replicas)
        x[flip.variable] = sum(columns.get(name) == target for name in ids)


def roles(
    table: FleetTable,
    inventory: Inventory,
    packing: Packing,
    kept: Sequence[RunningReplica],
    x: Floats,
) -> tuple[PlacedReplica, ...]:
    """The kept survivors as they go on; of those that are alike, the last ones given flip."""
    stays = {replica.id for replica in kept}
    becomes: dict[str, str] = {}
    for flip in packing.flips:
        ids = [inventory.survivors[i].id for i in flip.replicas]
        able = [name for name in ids if name in stays and name not in becomes]
        number = round(x[flip.variable])
        for name in able[len(able) - number :]:
            becomes[name] = table.columns[flip.target].id
    return tuple(PlacedReplica(becomes.get(r.id, r.column), r.nodes, r.id) for r in kept)


def flipped_gpus(table: FleetTable, packing: Packing, x: Floats) -> float:
    """GPUs of the survivors that go on in another role."""
    return float(sum(table.columns[f.source].gpus * x[f.variable] for f in packing.flips))
