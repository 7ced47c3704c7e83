"""Nodes of each kind that there are or could be, and what fits on them, for the relaxation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from motley_planner.domain.table import Column, FleetTable

INF = math.inf
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


def most_replicas(column: Column, nodes: dict[Kind, list[Nodes]]) -> float:
    """Replicas that the GPUs of its kinds of node allow."""
    need: Counter[Kind] = Counter()
    for fragment in column.fragments:
        need[fragment.gpu, column.zone] += fragment.tp
    room = {at: sum(n.gpus * n.count for n in nodes[at] if n.gpus) for at in need}
    return min((room[at] // gpus if room[at] < INF else INF) for at, gpus in need.items())
