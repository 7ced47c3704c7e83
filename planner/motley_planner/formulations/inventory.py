"""What the fleet offers: open nodes, nodes with running replicas, and which replicas survive.

A node class is (gpu, zone); all its nodes are interchangeable for packing, whatever their size.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from motley_planner.domain.table import Column, FleetTable, RunningReplica, TableNode
from motley_planner.errors import SnapshotError

NodeClass = tuple[str, str]


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """Equal nodes on which nothing of ours runs; `count` None = unlimited, names with `previous`."""

    node_class: NodeClass
    gpus: int
    count: int | None
    price_usd_per_hour: float
    names: tuple[str, ...] = ()
    shape: str = ""  # of nodes that would have to be added: the i-th is "+<shape>/<i>"
    delay_usd_per_hour: float = 0.0

    @property
    def counted(self) -> bool:
        """Whether the number of its nodes in use matters."""
        return self.price_usd_per_hour > 0 or self.delay_usd_per_hour > 0


@dataclass(frozen=True, slots=True)
class HeldNode:
    """A node with survivors: `residents` are (survivor index, tp) for each fragment on it."""

    node: TableNode
    residents: tuple[tuple[int, int], ...]
    cordoned: bool

    @property
    def node_class(self) -> NodeClass:
        """(gpu, zone)."""
        return self.node.gpu, self.node.zone

    @property
    def price_usd_per_hour(self) -> float:
        """Price of the node while in use."""
        return self.node.price_usd_per_hour or 0.0

    @property
    def free_gpus(self) -> int:
        """GPUs left while every resident stays; negative where the node shrank under them."""
        return self.node.gpus - sum(tp for _, tp in self.residents)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Open groups, held nodes and the replicas that survived the losses."""

    open_groups: tuple[OpenGroup, ...]
    held: tuple[HeldNode, ...]
    survivors: tuple[RunningReplica, ...]
    lost: tuple[RunningReplica, ...]
    bound: frozenset[int] = frozenset()  # positions of survivors that must go on


def take_inventory(table: FleetTable) -> Inventory:
    """The table's nodes, sorted into open groups and held nodes.

    Raises: SnapshotError where a running replica does not fit its column or its nodes.
    """
    if table.previous is None:
        groups = tuple(
            OpenGroup((g.gpu, g.zone), g.gpus, g.count, g.price_usd_per_hour or 0.0)
            for g in table.nodes
            if g.count != 0 and g.gpus > 0
        )
        return Inventory(groups, (), (), ())
    columns = {c.id: c for c in table.columns}
    nodes = {n.name: n for n in table.previous.nodes}
    survivors: list[RunningReplica] = []
    lost: list[RunningReplica] = []
    residents: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for replica in table.previous.replicas:
        _check_replica(replica, columns, nodes, table.lost_nodes)
        if any(name in table.lost_nodes for name in replica.nodes):
            lost.append(replica)
            continue
        for name, fragment in zip(replica.nodes, columns[replica.column].fragments, strict=True):
            residents[name].append((len(survivors), fragment.tp))
        survivors.append(replica)
    held = tuple(
        HeldNode(n, tuple(residents[n.name]), n.name in table.cordoned_nodes)
        for n in table.previous.nodes
        if n.name in residents and n.name not in table.lost_nodes
    )
    open_groups = (*_open_groups(table, set(residents)), *_shapes(table))
    bound = frozenset(i for i, r in enumerate(survivors) if r.id in table.held_replicas)
    return Inventory(open_groups, held, tuple(survivors), tuple(lost), bound)


def _shapes(table: FleetTable) -> tuple[OpenGroup, ...]:
    return tuple(
        OpenGroup(
            node_class=(s.gpu, s.zone),
            gpus=s.gpus,
            count=s.count,
            price_usd_per_hour=s.price_usd_per_hour or 0.0,
            shape=s.name,
            delay_usd_per_hour=s.delay_usd_per_hour,
        )
        for s in table.purchasable
        if s.count != 0 and s.gpus > 0
    )


def _open_groups(table: FleetTable, occupied: set[str]) -> tuple[OpenGroup, ...]:
    assert table.previous is not None
    empty: dict[tuple[NodeClass, int, float], list[str]] = defaultdict(list)
    for node in table.previous.nodes:
        closed = node.name in table.lost_nodes or node.name in table.cordoned_nodes
        if closed or node.name in occupied or node.gpus <= 0:
            continue
        price = node.price_usd_per_hour or 0.0
        empty[(node.gpu, node.zone), node.gpus, price].append(node.name)
    return tuple(
        OpenGroup(node_class, gpus, len(names), price, tuple(names))
        for (node_class, gpus, price), names in empty.items()
    )


def _check_replica(
    replica: RunningReplica,
    columns: dict[str, Column],
    nodes: dict[str, TableNode],
    lost_nodes: frozenset[str],
) -> None:
    where = f"previous.replicas[{replica.id!r}]"
    column = columns.get(replica.column)
    if column is None:
        raise SnapshotError(where, f"unknown column {replica.column!r}; list it in columns")
    if len(replica.nodes) != len(column.fragments):
        raise SnapshotError(
            where, f"name one node for each of the {len(column.fragments)} fragments"
        )
    for name, fragment in zip(replica.nodes, column.fragments, strict=True):
        node = nodes.get(name)
        if node is None:
            if name in lost_nodes:
                continue
            raise SnapshotError(where, f"unknown node {name!r}; list it in previous.nodes")
        if (node.gpu, node.zone) != (fragment.gpu, column.zone):
            raise SnapshotError(
                where,
                f"node {name!r} is ({node.gpu}, {node.zone}), "
                f"its fragment needs ({fragment.gpu}, {column.zone})",
            )
    for name in replica.flips_to:
        other = columns.get(name)
        if other is not None and other.frame != column.frame:
            rule = f"cannot go on as {name!r}, which takes other GPUs, zone, price or model"
            raise SnapshotError(where, f"{rule}; remove it from flips_to")


def use_by_class(column: Column) -> dict[NodeClass, Counter[int]]:
    """Fragments of one replica: node class -> tp -> how many."""
    use: dict[NodeClass, Counter[int]] = defaultdict(Counter)
    for fragment in column.fragments:
        use[(fragment.gpu, column.zone)][fragment.tp] += 1
    return use


def gpus_in_fragments_of(use: Counter[int], at_least: int) -> int:
    """GPUs that one replica takes in fragments of tp >= `at_least`."""
    return sum(tp * n for tp, n in use.items() if tp >= at_least)
