"""Packing rows: exact where fragment sizes divide one another (1 | 2 | 4 | 8 ...).

Nested floors. For each node class and each tp size q in use there:

    sum_c (GPUs of new_c in fragments of tp >= q)  <=  sum over nodes of q floor(free / q)

is necessary and sufficient, for nodes of any size: place the largest fragments first; whatever is
placed takes whole q-slots. `free` depends on which survivors stay, and floors of it are not linear:

- a node whose floors add up over every subset of its residents gets one gain per resident (exact);
- any other node, and any node with a price, gets integer slot counts S_nq,
  q S_nq + sum_r tp_r kept_r <= gpus (u_n), with u_n = 1 while in use (exact);
- with too many such nodes, `safe` gains (a stopped fragment frees the whole slots it fills itself)
  make rows that always place, and `relaxed` gains make rows that no real plan breaks: one is
  searched, the other proves the bound.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from motley_planner.domain.table import Column
from motley_planner.formulations.inventory import (
    HeldNode,
    Inventory,
    NodeClass,
    gpus_in_fragments_of,
    use_by_class,
)
from motley_planner.solver.milp import INF, MilpBuilder

Mode = Literal["safe", "relaxed"]
_GroupKey = tuple[int, tuple[tuple[NodeClass, int, float, float], ...], tuple[tuple[str, int], ...]]
EXACT_NODES = 48  # nodes with integer slot counts; beyond, safe and relaxed rows


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """Survivors of one column that are interchangeable; `column` indexes the table's columns."""

    column: int
    replicas: tuple[int, ...]
    variable: int


@dataclass(slots=True)
class Packing:
    """Variables of the packing part: new_c, kept_g, nodes in use, slots on single nodes."""

    new: list[int] = field(default_factory=list)
    kept: list[KeptGroup] = field(default_factory=list)
    open_used: list[int | None] = field(default_factory=list)
    held_used: dict[str, int] = field(default_factory=dict)
    slots: dict[tuple[str, int], int] = field(default_factory=dict)
    exact: bool = True

    def kept_of(self, column: int) -> list[KeptGroup]:
        """Groups of survivors of one column."""
        return [g for g in self.kept if g.column == column]


@lru_cache(maxsize=4096)
def slot_gains(free: int, sizes: tuple[int, ...], q: int) -> tuple[bool, tuple[float, ...]]:
    """Whether q-slots freed add up over residents of `sizes`, and what each alone frees (GPUs)."""
    base = free // q
    alone = tuple(q * ((free + t) // q - base) for t in sizes)
    sums = {(0, 0)}
    for size, gain in zip(sizes, alone, strict=True):
        sums |= {(freed + size, total + gain) for freed, total in sums}
    additive = all(q * ((free + freed) // q - base) == total for freed, total in sums)
    return additive, tuple(float(a) for a in alone)


def bounding_gains(free: int, sizes: tuple[int, ...], q: int, mode: Mode) -> tuple[float, ...]:
    """Linear gains below (`safe`) or above (`relaxed`) what any subset of residents frees."""
    if mode == "safe":
        return tuple(float(q * (t // q)) for t in sizes)
    remainder = free % q
    small = sum(t for t in sizes if t < q)
    slope = q / (q - remainder) if remainder + small >= q else 0.0
    return tuple(float(t) if t >= q else t * slope for t in sizes)


class PackingRows:
    """Adds the packing part of one table to a builder."""

    def __init__(
        self, builder: MilpBuilder, columns: tuple[Column, ...], inventory: Inventory, mode: Mode
    ) -> None:
        self.builder, self.columns, self.inventory, self.mode = builder, columns, inventory, mode
        self.uses = [use_by_class(c) for c in columns]
        self.sizes: dict[NodeClass, set[int]] = defaultdict(set)
        for use in self.uses:
            for node_class, counter in use.items():
                self.sizes[node_class].update(counter)
        self.single = self._single_nodes()
        self.out = Packing()

    def add(self) -> Packing:
        """All variables and rows."""
        limits = self._capacity_limits()
        for use in self.uses:
            upper = self._most_replicas(use, limits)
            self.out.new.append(self.builder.variable(0, upper, integer=True))
        self._add_kept()
        self._add_open()
        self._add_single_nodes()
        self._add_rows()
        return self.out

    def _single_nodes(self) -> set[str]:
        awkward, chosen = [], set()
        for held in self.inventory.held:
            if held.price_usd_per_hour > 0 or held.free_gpus < 0:
                chosen.add(held.node.name)
            elif not held.cordoned and not self._additive(held):
                awkward.append(held.node.name)
        self.too_many = len(awkward) > EXACT_NODES
        return chosen if self.too_many else chosen | set(awkward)

    def _additive(self, held: HeldNode) -> bool:
        sizes = tuple(sorted(tp for _, tp in held.residents))
        levels = self.sizes[held.node_class]
        return all(slot_gains(held.free_gpus, sizes, q)[0] for q in levels)

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
    def _most_replicas(
        use: dict[NodeClass, Counter[int]], limits: dict[tuple[NodeClass, int], float]
    ) -> float:
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
        self.gains: dict[int, Counter[tuple[NodeClass, int]]] = defaultdict(Counter)
        self.marks: dict[int, list[tuple[NodeClass, int, float, float]]] = defaultdict(list)
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
            )
            groups[key].append(i)
        for key, members in groups.items():
            variable = self.builder.variable(0, len(members), integer=True)
            self.out.kept.append(KeptGroup(key[0], tuple(members), variable))
        self.group_of = {r: g for g in self.out.kept for r in g.replicas}

    def _collect_gains(self, held: HeldNode) -> None:
        sizes = tuple(tp for _, tp in held.residents)
        free = held.free_gpus
        additive = self._additive(held)
        self.out.exact = self.out.exact and additive
        for q in self.sizes[held.node_class]:
            exact = slot_gains(free, sizes, q)[1]
            safe = exact if additive else bounding_gains(free, sizes, q, "safe")
            relaxed = exact if additive else bounding_gains(free, sizes, q, "relaxed")
            gains = safe if self.mode == "safe" else relaxed
            for (replica, _), gain, low, high in zip(
                held.residents, gains, safe, relaxed, strict=True
            ):
                self.gains[replica][held.node_class, q] += gain  # type: ignore[assignment]
                # Both modes must group alike: their programs share one set of variables.
                self.marks[replica].append((held.node_class, q, low, high))

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
        rows: dict[tuple[NodeClass, int], list[tuple[int, float]]] = defaultdict(list)
        for variable, use in zip(self.out.new, self.uses, strict=True):
            for node_class, counter in use.items():
                for q in self.sizes[node_class]:
                    gpus = gpus_in_fragments_of(counter, q)
                    if gpus:
                        rows[node_class, q].append((variable, float(gpus)))
        limit: dict[tuple[NodeClass, int], float] = defaultdict(float)
        self._offer_open(rows, limit)
        self._offer_held(rows, limit)
        for (node_class, q), entries in rows.items():
            if math.isfinite(limit[node_class, q]):
                name = f"gpus[{node_class[0]},{node_class[1]},tp>={q}]"
                self.builder.row(entries, upper=limit[node_class, q], name=name)

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
            for q in self.sizes[held.node_class]:
                limit[held.node_class, q] += q * (held.free_gpus // q)
        for group in self.out.kept:
            for key, gain in self.gains[group.replicas[0]].items():
                limit[key] += gain * len(group.replicas)
                rows[key].append((group.variable, float(gain)))
        for (name, q), slot in self.out.slots.items():
            held = next(h for h in self.inventory.held if h.node.name == name)
            rows[held.node_class, q].append((slot, -float(q)))
