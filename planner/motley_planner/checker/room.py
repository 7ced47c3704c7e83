"""Nodes of each kind that there are or could be, and what fits on them, for the relaxation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from motley_planner.domain.solution import PlacedReplica
from motley_planner.domain.table import Column, FleetTable

INF = math.inf
MOST_REPLICAS = 1e6  # of a column; beyond is no plan, and a bound needs finite variables
Kind = tuple[str, str]  # gpu, zone


@dataclass(frozen=True, slots=True)
class Nodes:
    """`count` equal nodes: what one in use costs, and what waiting for it is worth, in USD/h."""

    gpus: int
    count: float
    price: float = 0.0
    delay: float = 0.0


def slot_sizes(needs: dict[str, Counter[int]]) -> list[int]:
    """Sizes that all larger ones are multiples of: only there slots of a node add up."""
    sizes = {tp for found in needs.values() for tp in found}
    return [q for q in sorted({1, *sizes}) if all(tp % q == 0 for tp in sizes if tp >= q)]


def nodes_by_kind(table: FleetTable, kinds: Iterable[Kind]) -> dict[Kind, list[Nodes]]:
    """All nodes of the kinds that somebody could use."""
    found: dict[Kind, list[Nodes]] = {at: [] for at in kinds}
    if table.previous is None:
        for group in table.nodes:
            count = INF if group.count is None else float(group.count)
            if (group.gpu, group.zone) in found:
                row = Nodes(group.gpus, count, group.price_usd_per_hour or 0.0)
                found[group.gpu, group.zone].append(row)
        return found
    held = _held(table)
    equal: Counter[tuple[str, str, int, float]] = Counter()
    for node in table.previous.nodes:
        if node.name in table.lost_nodes:
            continue
        gpus = max(node.gpus, held[node.name])  # a node may have shrunk under what runs there
        gpus = held[node.name] if node.name in table.cordoned_nodes else gpus
        equal[node.gpu, node.zone, gpus, node.price_usd_per_hour or 0.0] += 1
    for (gpu, zone, gpus, price), number in equal.items():
        if (gpu, zone) in found:
            found[gpu, zone].append(Nodes(gpus, float(number), price))
    for shape in table.purchasable:
        count = INF if shape.count is None else float(shape.count)
        if (shape.gpu, shape.zone) in found:
            price = shape.price_usd_per_hour or 0.0
            row = Nodes(shape.gpus, count, price, shape.delay_usd_per_hour)
            found[shape.gpu, shape.zone].append(row)
    return found


def _held(table: FleetTable) -> Counter[str]:
    """GPUs of each node that survivors hold."""
    assert table.previous is not None
    columns = {c.id: c for c in table.columns}
    held: Counter[str] = Counter()
    for replica in table.previous.replicas:
        if not set(replica.nodes) & table.lost_nodes:
            fragments = columns[replica.column].fragments
            for name, fragment in zip(replica.nodes, fragments, strict=True):
                held[name] += fragment.tp
    return held


def gpus_by_kind(nodes: dict[Kind, list[Nodes]]) -> dict[Kind, float]:
    """GPUs of all nodes of each kind; infinite where one of them is unlimited."""
    return {at: sum(n.gpus * n.count for n in found if n.gpus) for at, found in nodes.items()}


def most_replicas(column: Column, gpus: dict[Kind, float]) -> float:
    """Replicas that the GPUs of its kinds of node and its own limit allow."""
    need: Counter[Kind] = Counter()
    for fragment in column.fragments:
        need[fragment.gpu, column.zone] += fragment.tp
    fits = min(gpus[at] // each if gpus[at] < INF else INF for at, each in need.items())
    highest = INF if column.max_count is None else column.max_count
    return min(fits, highest, MOST_REPLICAS)


def going_on(table: FleetTable) -> Counter[str]:
    """Replicas of each column that run on nodes that are not lost."""
    previous = table.previous
    return Counter(
        r.column
        for r in (previous.replicas if previous else ())
        if not set(r.nodes) & table.lost_nodes
    )


def flips_of(table: FleetTable) -> Counter[tuple[str, str]]:
    """(column, column it may go on as) -> replicas that run on nodes that are not lost."""
    previous = table.previous
    return Counter(
        (r.column, target)
        for r in (previous.replicas if previous else ())
        if not set(r.nodes) & table.lost_nodes
        for target in dict.fromkeys(r.flips_to)
        if target != r.column
    )


def flipped_gpus(table: FleetTable, placement: Iterable[PlacedReplica]) -> int:
    """GPUs of the replicas of a placement that go on as another column than they ran as."""
    replicas = table.previous.replicas if table.previous else ()
    gpus = {c.id: c.gpus for c in table.columns}
    ran = {r.id: r.column for r in replicas}
    return sum(gpus[p.column] for p in placement if p.kept in ran and ran[p.kept] != p.column)
