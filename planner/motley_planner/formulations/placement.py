"""Replicas onto concrete nodes: who stays where it runs, and where new fragments go.

Fragments are placed largest first, each on the node where it leaves the least room; with sizes that
divide one another this succeeds whenever the packing rows hold.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from motley_planner.domain.solution import PlacedReplica
from motley_planner.domain.table import FleetTable, RunningReplica
from motley_planner.formulations.inventory import Inventory, NodeClass
from motley_planner.formulations.packing import Packing
from motley_planner.solver.milp import Floats


@dataclass(slots=True)
class _Room:
    name: str
    free: int


def kept_replicas(inventory: Inventory, packing: Packing, x: Floats) -> list[RunningReplica]:
    """The survivors that stay, in the order in which they were given."""
    chosen: set[int] = set()
    for group in packing.kept:
        chosen.update(group.replicas[: round(x[group.variable])])
    return [r for i, r in enumerate(inventory.survivors) if i in chosen]


def place(
    table: FleetTable,
    inventory: Inventory,
    packing: Packing,
    kept: list[RunningReplica],
    x: Floats,
) -> tuple[PlacedReplica, ...]:
    """Every replica with its nodes, kept ones first."""
    placed = [PlacedReplica(r.column, r.nodes, r.id) for r in kept]
    rooms = _rooms(table, inventory, packing, kept, x)
    wanted: list[tuple[int, int, int, int]] = []  # (-tp, column, number, fragment)
    for i, column in enumerate(table.columns):
        for number in range(round(x[packing.new[i]])):
            wanted += [(-f.tp, i, number, j) for j, f in enumerate(column.fragments)]
    homes: dict[tuple[int, int], dict[int, str]] = defaultdict(dict)
    for size, i, number, j in sorted(wanted):
        column = table.columns[i]
        room = _best(rooms[column.fragments[j].gpu, column.zone], -size)
        room.free += size
        homes[i, number][j] = room.name
    for (i, _), nodes in sorted(homes.items()):
        names = tuple(nodes[j] for j in range(len(nodes)))
        placed.append(PlacedReplica(table.columns[i].id, names, None))
    return tuple(placed)


def _rooms(
    table: FleetTable,
    inventory: Inventory,
    packing: Packing,
    kept: list[RunningReplica],
    x: Floats,
) -> dict[NodeClass, list[_Room]]:
    """Nodes that may take new fragments: in use where they have a price, and not cordoned."""
    fragments = {c.id: c.fragments for c in table.columns}
    taken: dict[str, int] = defaultdict(int)
    for replica in kept:
        for name, fragment in zip(replica.nodes, fragments[replica.column], strict=True):
            taken[name] += fragment.tp
    rooms: dict[NodeClass, list[_Room]] = defaultdict(list)
    for held in inventory.held:
        used = packing.held_used.get(held.node.name)
        if not held.cordoned and (used is None or x[used] > 0.5):
            free = held.node.gpus - taken[held.node.name]
            rooms[held.node_class].append(_Room(held.node.name, free))
    for group, variable in zip(inventory.open_groups, packing.open_used, strict=True):
        count = len(group.names) if variable is None else round(x[variable])
        rooms[group.node_class] += [_Room(name, group.gpus) for name in group.names[:count]]
    return rooms


def _best(rooms: list[_Room], size: int) -> _Room:
    fitting = [r for r in rooms if r.free >= size]
    if not fitting:
        raise AssertionError(f"packing rows hold, yet no node has {size} GPUs free")
    return min(fitting, key=lambda r: (r.free, r.name))
