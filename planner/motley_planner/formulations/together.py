"""Which of several replicas that are alike go on, so that as few nodes as possible stay in use.

No row and no price says it where GPUs are paid one by one. But a node that is left empty can be given
back to whom it was bought from, or takes something larger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from motley_planner.domain.table import FleetTable
from motley_planner.formulations.inventory import Inventory


class Residents:
    """The survivors of a table by their positions, and what they hold of which node."""

    def __init__(self, table: FleetTable, inventory: Inventory) -> None:
        self._survivors = inventory.survivors
        self._closed = table.cordoned_nodes
        self._bought = table.bought_nodes
        self._fragments = {column.id: column.fragments for column in table.columns}

    def gpus(self, replicas: Iterable[int]) -> Counter[str]:
        """GPUs that these hold, by node."""
        found = Counter[str]()
        for replica in (self._survivors[i] for i in replicas):
            parts = self._fragments[replica.column]
            for name, fragment in zip(replica.nodes, parts, strict=True):
                found[name] += fragment.tp
        return found

    def closest(self, alike: Sequence[int], number: int, stays: Counter[str]) -> list[int]:
        """So many of those that are alike: where most stays anyway, then where most of them are.

        Before all that come nodes that nobody would take back, and last cordoned ones: somebody empties
        these, or they are not even there yet.
        """
        mine = self.gpus(alike)

        def rank(replica: int) -> tuple[bool, bool, int, int, int]:
            nodes = self._survivors[replica].nodes
            closed = any(name in self._closed for name in nodes)
            return (
                closed,
                any(name in self._bought for name in nodes),
                -sum(stays[name] for name in nodes),
                -sum(mine[name] for name in nodes),
                replica,
            )

        return sorted(alike, key=rank)[:number]
