"""Packing rows: exact where fragment sizes divide one another (1 | 2 | 4 | 8 ...).

Nested floors. For each node class and each tp size q in use there:

    sum_c (GPUs of new_c in fragments of tp >= q)  <=  sum over nodes of q floor(free / q)

is necessary and sufficient for nodes of any size: place the largest first; all placed takes whole
q-slots. `free` depends on which survivors stay, and floors of it are not linear:

- a node whose floors add up over every subset of its residents gets one gain per resident (exact);
- any other node, and any node with a price, gets integer slot counts S_nq,
  q S_nq + sum_r tp_r kept_r <= gpus (u_n), with u_n = 1 while in use (exact);
- with too many such nodes, `safe` gains make rows that always place, `relaxed` ones rows that no
  real plan breaks (gains.py).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from motley_planner.domain.table import Column
from motley_planner.formulations.flips import Targets, add_flips, targets_of
from motley_planner.formulations.gains import Mark, Mode, gains_of, slot_gains
from motley_planner.formulations.inventory import (
    HeldNode,
    Inventory,
    NodeClass,
    gpus_in_fragments_of,
)
from motley_planner.formulations.shapes import KeptGroup, Packing, Use, add_takes, find_shapes
from motley_planner.solver.milp import INF, MilpBuilder

__all__ = ["EXACT_NODES", "KeptGroup", "Packing", "PackingRows"]

_GroupKey = tuple[int, tuple[Mark, ...], tuple[tuple[str, int], ...], bool, Targets]
EXACT_NODES = 48  # nodes with integer slot counts; beyond, safe and relaxed rows


class PackingRows:
    """Adds the packing part of one table to a builder."""

    def __init__(
        self, builder: MilpBuilder, columns: tuple[Column, ...], inventory: Inventory, mode: Mode
    ) -> None:
        self.builder, self.columns, self.inventory, self.mode = builder, columns, inventory, mode
        self.shapes, self.shape_of = find_shapes(columns)
        self.sizes: dict[NodeClass, set[int]] = defaultdict(set)
        for use in self.shapes:
            for node_class, counter in use.items():
                self.sizes[node_class].update(counter)
        self.single = self._single_nodes()
        self.out = Packing()

    def add(self) -> Packing:
        """All variables and rows."""
        limits = self._capacity_limits()
        most = [self._most_replicas(use, limits) for use in self.shapes]
        uppers = [most[number] for number in self.shape_of]
        self.out.new = self.builder.variables(uppers, integer=True).tolist()
        self._add_kept()
        self._add_open()
        self._add_single_nodes()
        self._add_rows()
        add_flips(self.builder, self.out, self.columns, self.inventory)
        return self.out

    def _single_nodes(self) -> set[str]:
        awkward, chosen = list[str](), set[str]()
        for held in self.inventory.held:
            if held.price_usd_per_hour > 0 or held.free_gpus < 0:
                chosen.add(held.node.name)
            elif not held.cordoned and not self._additive(held):
                awkward.append(held.node.name)
        self.too_many = len(awkward) > EXACT_NODES
        return chosen if self.too_many else chosen | set(awkward)

    def _additive(self, held: HeldNode) -> bool:
        sizes, free = tuple(sorted(tp for _, tp in held.residents)), held.free_gpus
        return all(slot_gains(free, sizes, q)[0] for q in self.sizes[held.node_class])

    def _capacity_limits(self) -> dict[tuple[NodeClass, int], float]:
        """(node class, q) -> most GPUs in q-slots there can ever be."""
        limits: dict[tuple[NodeClass, int], float] = defaultdict(float)
        for group in self.inventory.open_groups:
            for q in self.sizes.get(group.node_class, ()):
                slots = q * (group.gpus // q)
                if slots:
                    limits[group.node_class, q] += (
                        INF if group.count is None else (group.count * slots)
                    )
        for held in self.inventory.held:
            if held.cordoned:
                continue
            for q in self.sizes.get(held.node_class, ()):
                limits[held.node_class, q] += q * (held.node.gpus // q)
        return limits

    @staticmethod
    def _most_replicas(use: Use, limits: dict[tuple[NodeClass, int], float]) -> float:
        most = INF
        for node_class, counter in use.items():
            for q in counter:
                limit = limits.get((node_class, q), 0.0)
                if math.isfinite(limit):
                    most = min(most, limit // gpus_in_fragments_of(counter, q))
        return most

    def _add_kept(self) -> None:
        """Survivors with the same column and the same effect on every row share a variable."""
        column_index = {c.id: i for i, c in enumerate(self.columns)}
        self.marks: dict[int, list[Mark]] = defaultdict(list)
        self.known: dict[tuple[int, tuple[int, ...], NodeClass], tuple[bool, list[list[Mark]]]] = {}
        alone: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for held in self.inventory.held:
            if held.node.name in self.single:
                for replica, tp in held.residents:
                    alone[replica].append((held.node.name, tp))
            elif not held.cordoned:
                self._collect_gains(held)
        groups: dict[_GroupKey, list[int]] = defaultdict(list)
        for i, survivor in enumerate(self.inventory.survivors):
            key = (
                column_index[survivor.column],
                tuple(sorted(self.marks[i])),
                tuple(sorted(alone[i])),
                i in self.inventory.bound,
                targets_of(survivor, column_index),
            )
            groups[key].append(i)
        for key, members in groups.items():
            least = len(members) if key[3] else 0
            variable = self.builder.variable(least, len(members), integer=True)
            group = KeptGroup(key[0], tuple(members), variable)
            self.out.kept.append(group)
            self.out.of_column.setdefault(group.column, []).append(group)
        self.group_of = {r: g for g in self.out.kept for r in g.replicas}

    def _collect_gains(self, held: HeldNode) -> None:
        node_class = held.node_class
        sizes = tuple(tp for _, tp in held.residents)
        key = (held.free_gpus, sizes, node_class)
        if key not in self.known:
            self.known[key] = gains_of(*key[:2], node_class, tuple(sorted(self.sizes[node_class])))
        additive, gains = self.known[key]
        self.out.exact = self.out.exact and additive
        for at, (replica, _) in enumerate(held.residents):
            # Both bounds mark a replica: safe and relaxed rows share one set of variables.
            self.marks[replica].extend(gains[at])

    def _add_open(self) -> None:
        for group in self.inventory.open_groups:
            upper = INF if group.count is None else group.count
            used = self.builder.variable(0, upper, integer=True) if group.counted else None
            self.out.open_used.append(used)

    def _add_single_nodes(self) -> None:
        for held in self.inventory.held:
            if held.node.name not in self.single:
                continue
            residents = Counter[int]()  # kept variable -> GPUs of one of its replicas here
            for replica, tp in held.residents:
                group = self.group_of[replica]
                residents[group.variable] += tp / len(group.replicas)  # type: ignore[assignment]
            gpus = {v: float(t) for v, t in residents.items()}
            self._add_single(held, gpus)

    def _add_single(self, held: HeldNode, gpus: dict[int, float]) -> None:
        builder, name, size = self.builder, held.node.name, held.node.gpus
        used: int | None = None
        if held.price_usd_per_hour > 0:
            used = builder.variable(0, 1, integer=True)
            self.out.held_used[name] = used
            for replica in {r for r, _ in held.residents}:
                group = self.group_of[replica]
                entries = [(group.variable, 1.0), (used, -float(len(group.replicas)))]
                builder.row(entries, upper=0.0, name=f"in_use[{name}]")
        whole = [(used, -float(size))] if used is not None else []
        limit = 0.0 if used is not None else float(size)
        if held.free_gpus < 0:
            builder.row([*gpus.items(), *whole], upper=limit, name=f"node[{name}]")
        if held.cordoned:
            return
        for q in self.sizes[held.node_class]:
            slot = builder.variable(0, size // q, integer=True)
            self.out.slots[name, q] = slot
            builder.row(
                [(slot, float(q)), *gpus.items(), *whole], upper=limit, name=f"slots[{name},{q}]"
            )

    def _add_rows(self) -> None:
        takes = {number: self._takes(use) for number, use in enumerate(self.shapes)}
        rows: dict[tuple[NodeClass, int], list[tuple[int, float]]] = {
            key: [] for found in takes.values() for key, _ in found
        }
        limit: dict[tuple[NodeClass, int], float] = defaultdict(float)
        self._offer_open(rows, limit)
        self._offer_held(rows, limit)
        for (node_class, q), entries in rows.items():
            if math.isfinite(limit[node_class, q]):
                name = f"gpus[{node_class[0]},{node_class[1]},tp>={q}]"
                row = self.builder.row(entries, upper=limit[node_class, q], name=name)
                self.out.rows[node_class, q] = row
        add_takes(self.builder, self.out, self.shape_of, takes)
        self._free_held()

    def _takes(self, use: Use) -> list[tuple[tuple[NodeClass, int], float]]:
        """(node class, q) -> GPUs that one replica takes in fragments of tp >= q."""
        found = [
            ((node_class, q), float(gpus_in_fragments_of(counter, q)))
            for node_class, counter in use.items()
            for q in self.sizes[node_class]
        ]
        return [(key, gpus) for key, gpus in found if gpus]

    def _offer_open(
        self,
        rows: dict[tuple[NodeClass, int], list[tuple[int, float]]],
        limit: dict[tuple[NodeClass, int], float],
    ) -> None:
        for group, used in zip(self.inventory.open_groups, self.out.open_used, strict=True):
            for q in self.sizes.get(group.node_class, ()):
                slots = q * (group.gpus // q)
                if used is not None:
                    rows[group.node_class, q].append((used, -float(slots)))
                elif slots:
                    limit[group.node_class, q] += (
                        INF if group.count is None else group.count * slots
                    )

    def _offer_held(
        self,
        rows: dict[tuple[NodeClass, int], list[tuple[int, float]]],
        limit: dict[tuple[NodeClass, int], float],
    ) -> None:
        for held in self.inventory.held:
            if held.cordoned or held.node.name in self.single:
                continue
            node_class, free = held.node_class, held.free_gpus
            for q in self.sizes[node_class]:
                limit[node_class, q] += q * (free // q)
        class_of = {h.node.name: h.node_class for h in self.inventory.held}
        for (name, q), slot in self.out.slots.items():
            rows[class_of[name], q].append((slot, -float(q)))

    def _free_held(self) -> None:
        """What stopped survivors free, in both modes, on the rows that there are."""
        for group in self.out.kept:
            gains: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
            for node_class, q, low, high in self.marks[group.replicas[0]]:
                row = self.out.rows.get((node_class, q))
                if row is not None:
                    gains[row][0] += low
                    gains[row][1] += high
            for row, (low, high) in gains.items():
                self.out.gains.append((row, group.variable, low, high, len(group.replicas)))
        for row, variable, low, high, number in self.out.gains:
            gain = low if self.mode == "safe" else high
            self.builder.widen(row, gain * number)
            self.builder.entry(row, variable, gain)
