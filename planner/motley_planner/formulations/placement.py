"""Replicas onto concrete nodes: who stays where it runs, and where new fragments go.

Fragments are placed largest first, each on the node where it leaves the least room; with sizes that
divide one another this succeeds whenever the packing rows hold.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from heapq import heapify, heappop, heappush

from motley_planner.domain.solution import PlacedReplica
from motley_planner.domain.table import FleetTable, RunningReplica
from motley_planner.errors import SnapshotError
from motley_planner.formulations.flips import roles
from motley_planner.formulations.inventory import Inventory, NodeClass, OpenGroup
from motley_planner.formulations.packing import KeptGroup, Packing
from motley_planner.formulations.together import Residents
from motley_planner.solver.milp import Floats

MOST_PLACED = 250_000  # new fragments that are given nodes one by one; a second or two


class Rooms:
    """Free GPUs of the nodes of one class, by how many are free; the fullest fitting one first."""

    def __init__(self) -> None:
        self._by_free: dict[int, list[tuple[bool, str]]] = {}  # heaps, none of them empty
        self._sizes: list[int] = []  # its keys, sorted

    def add(self, name: str, free: int) -> None:
        """One more node."""
        if free not in self._by_free:
            self._by_free[free] = []
            insort(self._sizes, free)
        heappush(self._by_free[free], _order(name))

    def take(self, size: int, beside: Counter[str] | None = None) -> str:
        """The node for a fragment: least room left over, then by name.

        With `beside`, the node that has the least of it comes first. Any node with room will do:
        as sizes divide one another and the largest go first, none is spoilt for what follows.
        """
        fitting = self._sizes[bisect_left(self._sizes, size) :]
        if not fitting:
            raise AssertionError(f"packing rows hold, yet no node has {size} GPUs free")
        free = fitting[0]
        if beside is None:
            _, name = heappop(self._by_free[free])
        else:
            there = ((f, at) for f in fitting for at in self._by_free[f])
            free, at = min(there, key=lambda pair: (beside[pair[1][1]], pair[0], pair[1]))
            self._by_free[free].remove(at)
            heapify(self._by_free[free])
            name = at[1]
        if not self._by_free[free]:
            del self._by_free[free]
            self._sizes.remove(free)
        self.add(name, free - size)
        return name


def _order(name: str) -> tuple[bool, str]:
    """Nodes that are there before those that would have to be added."""
    return name.startswith("+"), name


def kept_replicas(
    table: FleetTable, inventory: Inventory, packing: Packing, x: Floats
) -> list[RunningReplica]:
    """The survivors that stay, in the order in which they were given.

    Where some of those that are interchangeable stop, the ones that stay are those whose nodes hold most
    of what stays (together.py). Copies of a model that is to be spread stay in their order.
    """
    chosen: set[int] = set()
    partly: list[tuple[KeptGroup, int]] = []
    for group in packing.kept:
        number = round(x[group.variable])
        if 0 < number < len(group.replicas) and not spreads(table, group):
            partly.append((group, number))
        else:
            chosen.update(group.replicas[:number])
    if partly:
        residents = Residents(table, inventory)
        stays = residents.gpus(chosen)
        for group, number in partly:
            kept = residents.closest(group.replicas, number, stays)
            stays.update(residents.gpus(kept))
            chosen.update(kept)
    return [r for i, r in enumerate(inventory.survivors) if i in chosen]


def spreads(table: FleetTable, group: KeptGroup) -> bool:
    """Whether copies of a group's model are to lie on many nodes."""
    return table.columns[group.column].model in table.spread_models


def place(
    table: FleetTable,
    inventory: Inventory,
    packing: Packing,
    kept: list[RunningReplica],
    x: Floats,
) -> tuple[PlacedReplica, ...]:
    """Every replica with its nodes, kept ones first.

    Raises: SnapshotError where the plan starts more replicas than any list of them could hold.
    """
    _check_size(table, packing, x)
    placed = [*roles(table, inventory, packing, kept, x)]
    rooms = _rooms(table, inventory, packing, kept, x)
    wanted: list[tuple[int, int, int, int]] = []  # (-tp, column, number, fragment)
    for i, column in enumerate(table.columns):
        for number in range(round(x[packing.new[i]])):
            wanted += [(-f.tp, i, number, j) for j, f in enumerate(column.fragments)]
    homes: dict[tuple[int, int], dict[int, str]] = defaultdict(dict)
    beside = _spread_so_far(table, kept)
    for size, i, number, j in sorted(wanted):
        column = table.columns[i]
        room = rooms[column.fragments[j].gpu, column.zone]
        mates = beside.get(column.model)
        homes[i, number][j] = name = room.take(-size, mates)
        if mates is not None:
            mates[name] += 1
    for (i, _), nodes in sorted(homes.items()):
        names = tuple(nodes[j] for j in range(len(nodes)))
        placed.append(PlacedReplica(table.columns[i].id, names, None))
    return tuple(placed)


def _check_size(table: FleetTable, packing: Packing, x: Floats) -> None:
    """Refuses to list replicas without end; only nodes far beyond real ones have room for them."""
    fragments = sum(
        round(x[v]) * len(c.fragments) for c, v in zip(table.columns, packing.new, strict=True)
    )
    if fragments > MOST_PLACED:
        raise SnapshotError(
            "nodes",
            f"the plan starts {fragments} parts of replicas, over {MOST_PLACED} that are given "
            "nodes by name; lower gpus or count, or leave previous and prices out",
        )


def _spread_so_far(table: FleetTable, kept: list[RunningReplica]) -> dict[str, Counter[str]]:
    """Of each model that is to be spread: node -> fragments that stay there."""
    models = {c.id: c.model for c in table.columns}
    found: dict[str, Counter[str]] = {model: Counter() for model in table.spread_models}
    for replica in kept:
        if models[replica.column] in found:
            found[models[replica.column]].update(replica.nodes)
    return found


def _rooms(
    table: FleetTable,
    inventory: Inventory,
    packing: Packing,
    kept: list[RunningReplica],
    x: Floats,
) -> dict[NodeClass, Rooms]:
    """Nodes that may take new fragments: in use where they have a price, and not cordoned."""
    fragments = {c.id: c.fragments for c in table.columns}
    taken: dict[str, int] = defaultdict(int)
    for replica in kept:
        for name, fragment in zip(replica.nodes, fragments[replica.column], strict=True):
            taken[name] += fragment.tp
    rooms: dict[NodeClass, Rooms] = defaultdict(Rooms)
    for held in inventory.held:
        used = packing.held_used.get(held.node.name)
        if not held.cordoned and (used is None or x[used] > 0.5):
            free = held.node.gpus - taken[held.node.name]
            rooms[held.node_class].add(held.node.name, free)
    fragments_placed = sum(
        round(x[v]) * len(c.fragments) for c, v in zip(table.columns, packing.new, strict=True)
    )
    for i, (group, variable) in enumerate(
        zip(inventory.open_groups, packing.open_used, strict=True)
    ):
        count = fragments_placed if group.count is None else group.count
        if variable is not None:
            count = round(x[variable])
        for name in node_names(i, group, min(count, fragments_placed)):
            rooms[group.node_class].add(name, group.gpus)
    return rooms


def node_names(number: int, group: OpenGroup, count: int) -> list[str]:
    """The first `count` nodes of a group; invented names where the table gives none."""
    if group.names:
        return list(group.names[:count])
    if group.shape:
        return [f"+{group.shape}/{j}" for j in range(count)]
    return [f"{number}/{j}" for j in range(count)]


def release_unused(
    inventory: Inventory, packing: Packing, placed: tuple[PlacedReplica, ...], x: Floats
) -> None:
    """Sets nodes in use to those that carry something: no objective but price sees to that."""
    used = {name for replica in placed for name in replica.nodes}
    most = sum(len(replica.nodes) for replica in placed)  # as many were named (_rooms)
    for name, variable in packing.held_used.items():
        x[variable] = float(name in used)
    for i, (group, paid) in enumerate(zip(inventory.open_groups, packing.open_used, strict=True)):
        if paid is not None:
            names = node_names(i, group, min(round(x[paid]), most))
            x[paid] = sum(name in used for name in names)
