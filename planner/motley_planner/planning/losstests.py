"""The worst loss of nodes for a resource, and what routing still serves after it.

The test of a promise, not a guess: every set of `node_loss_tolerance` nodes that carry the resource
is taken away in turn, and the best routing over what is left is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.solution import PlacedReplica
from motley_planner.domain.table import FleetTable, Scenario
from motley_planner.formulations.recourse import share_after
from motley_planner.planning.limits import demand_names

MOST_SETS = 400  # sets of nodes tried; beyond, the worst node first, then the worst beside it
ENOUGH = 1e-6
BEYOND = 1e3  # losses that all leave enough are told apart by how much more they leave

Composition = tuple[tuple[str, int], ...]  # column -> replicas, of one resource on some nodes


@dataclass(frozen=True, slots=True)
class LossTest:
    """The worst loss found for one resource, and the share of its rate that routing still serves.

    The share may pass 1: what could be served if more were asked.
    """

    key: str
    nodes: tuple[str, ...]
    share: float
    lost: Mapping[str, int]  # column -> replicas that go with the nodes
    asked: float
    served: tuple[str, ...] = ()  # the table's names of what the resource asks for

    @property
    def holds(self) -> bool:
        """Whether as much is served as was asked for."""
        return self.share >= self.asked - ENOUGH


def worst_losses(
    table: FleetTable, services: Sequence[ServingDemand], placement: Sequence[PlacedReplica]
) -> tuple[LossTest, ...]:
    """The worst loss of each service by LPs over what is left; ties go to the first by name."""
    return tuple(_worst_loss(table, service, placement) for service in services)


def _worst_loss(
    table: FleetTable, service: ServingDemand, placement: Sequence[PlacedReplica]
) -> LossTest:
    mine = _mine(table, service, placement)
    counts = Counter(p.column for p in mine)
    names = demand_names(service)
    found: dict[Composition, LossTest] = {}
    for nodes in _loss_sets(service, mine):
        lost = _lost_with(mine, nodes)
        key = tuple(sorted(lost.items()))
        if key not in found:
            left = {c: n - lost[c] for c, n in counts.items()}
            share = share_after(table, Scenario("loss", names, share=BEYOND), left)
            found[key] = LossTest(service.key, nodes, share, lost, service.loss_share, names)
    none = LossTest(service.key, (), 0.0, {}, service.loss_share, names)
    return min(found.values(), key=lambda test: test.share, default=none)


def _mine(
    table: FleetTable, service: ServingDemand, placement: Iterable[PlacedReplica]
) -> list[PlacedReplica]:
    models = {f"{service.key}/{stage.name}" for stage in service.stages}
    own = {c.id for c in table.columns if c.model in models}
    return [p for p in placement if p.column in own]


def _lost_with(mine: Sequence[PlacedReplica], nodes: tuple[str, ...]) -> Counter[str]:
    """Replicas of each column that lose a fragment; one over two of the nodes counts once."""
    gone = set(nodes)
    return Counter(p.column for p in mine if gone & set(p.nodes))


def _loss_sets(service: ServingDemand, mine: Sequence[PlacedReplica]) -> Iterable[tuple[str, ...]]:
    """Sets of nodes to take away: all of the size, of equal nodes only as many as it takes.

    Where there are more than MOST_SETS, only those among the nodes that carry most.
    """
    on_node: dict[str, Counter[str]] = {}
    for placed in mine:
        for node in set(placed.nodes):
            on_node.setdefault(node, Counter())[placed.column] += 1
    size = min(service.node_loss_tolerance, len(on_node))
    nodes = sorted(on_node)
    if all(len(set(p.nodes)) == 1 for p in mine):
        alike: dict[Composition, list[str]] = {}
        for node in nodes:
            alike.setdefault(tuple(sorted(on_node[node].items())), []).append(node)
        nodes = sorted(node for members in alike.values() for node in members[:size])
    heaviest = sorted(nodes, key=lambda n: -sum(on_node[n].values()))
    while size > 1 and comb(len(heaviest), size) > MOST_SETS:
        heaviest = heaviest[:-1]
    return combinations(sorted(heaviest), size) if size else ()
