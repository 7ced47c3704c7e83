"""Rate variables: how many requests/s of a class the replicas of a column serve, as arrays.

    sum_k time_share_ck rate_ck / capacity_ck <= replicas_c          (time)
    sum_k kv_share_ck rate_ck / capacity_ck <= replicas_c            (kv, memory of KV caches)
    sum_k rate_ck kv_bytes_k kv_scale_c <= nic_c replicas_c          (NIC, prefill and decode)
    rate_ck <= (most that is ever asked of class k) x replicas_c     (force)

Every rate variable is scaled by min(capacity, demand), so that all coefficients of the time and
demand rows lie in (0, 1] even where a demand is 1e-9 of a replica's capacity. The force rows stand
where one replica can serve more than a class asks for: implied for integers, they make the
relaxation tighter, and keep a tiny demand from being served by "zero replicas" within tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from motley_planner.domain.table import Column, FleetTable
from motley_planner.formulations.packing import Packing
from motley_planner.solver.milp import INF, AnyInts, Floats, MilpBuilder


@dataclass(frozen=True)
class RateVariables:
    """One rate variable a (column, class): requests/s = x[variable] * unit; arrays, one an entry.

    `time`, `most`, `nic` and `kv` are what one unit takes of a replica's time, the most units that
    one replica is ever asked for (INF where its time says less), and what one unit takes of its NIC
    and of its memory for KV caches. `column` rises.
    """

    names: tuple[str, ...]  # classes
    column: AnyInts
    request_class: AnyInts  # index in `names`
    variable: AnyInts
    unit: Floats
    capacity: Floats
    time: Floats
    most: Floats
    nic: Floats
    kv: Floats
    private: list[tuple[AnyInts, AnyInts]] = field(default_factory=list)  # (rows, their columns)

    @cached_property
    def _by_class(self) -> dict[str, AnyInts]:
        return {n: np.flatnonzero(self.request_class == k) for k, n in enumerate(self.names)}

    def of_class(self, name: str) -> AnyInts:
        """Positions of a class's entries, in the order of columns."""
        return self._by_class.get(name, np.zeros(0, dtype=np.int64))

    @cached_property
    def _position(self) -> dict[tuple[int, int], int]:
        pairs = zip(self.column.tolist(), self.request_class.tolist(), strict=True)
        return {pair: k for k, pair in enumerate(pairs)}

    def find(self, column: int, name: str) -> tuple[int, float] | None:
        """(variable, unit) of a column and class, None where it cannot serve it."""
        if name not in self._by_class:
            return None
        k = self._position.get((column, self.names.index(name)))
        return None if k is None else (int(self.variable[k]), float(self.unit[k]))

    def in_use(self, x: Floats) -> list[int]:
        """Positions of entries that serve something."""
        return [int(k) for k in np.flatnonzero(x[self.variable] > 0)]


@dataclass(frozen=True, slots=True)
class Worth:
    """What replicas are worth: `whole` integers (which force rows rest on), at most `limit` x the
    rate of anything, and by column the variables that a large pool serves beyond its count."""

    extra: Mapping[int, Sequence[int]] = field(default_factory=dict)
    whole: bool = True
    limit: float = INF


WHOLE = Worth()


def add_rates(
    builder: MilpBuilder,
    table: FleetTable,
    packing: Packing,
    totals: dict[str, float],
    worth: Worth,
) -> RateVariables:
    """All rate variables with their time, NIC and force rows.

    `totals` are the most requests/s of each class at scale 1.
    """
    rows = _RateRows(builder, table, packing)
    found = rows.variables(totals, worth.limit if worth.whole else INF)
    for kind, share in (("time", found.time), ("kv", found.kv)):
        owners, made = rows.limit(kind, found, share)
        row_of = dict(zip(owners.tolist(), made.tolist(), strict=True))
        for column, variables in worth.extra.items():
            for variable in variables if column in row_of else ():
                builder.entry(row_of[column], variable, -1.0)
    rows.limit("nic", found, found.nic)
    rows.force(found)
    return found


class _RateRows:
    def __init__(self, builder: MilpBuilder, table: FleetTable, packing: Packing) -> None:
        self.builder, self.table = builder, table
        pairs = [(i, v) for i, v in enumerate(packing.new)]
        pairs += [(g.column, g.variable) for g in packing.kept]
        flips = {(i, v): c for i, entries in packing.flipped.items() for v, c in entries}
        pairs = sorted((*pairs, *flips))
        self.owner = np.array([i for i, _ in pairs], dtype=np.int64)
        self.replica = np.array([v for _, v in pairs], dtype=np.int64)
        self.less = np.full(len(pairs), -1.0)  # what one of them takes off a row of its column
        if flips:
            self.less = np.array([-flips.get(pair, 1.0) for pair in pairs])

    def variables(self, totals: dict[str, float], scale_limit: float) -> RateVariables:
        """The variables, without rows yet."""
        names = tuple(totals)
        number = {name: k for k, name in enumerate(names)}
        entries: list[tuple[int, int, float]] = []
        shares: list[tuple[float, float]] = []
        for i, column in enumerate(self.table.columns):
            time_of, kv_of = column.time_share, column.kv_share
            for name, capacity in column.requests_per_second.items():
                if capacity > 0 and name in number:
                    entries.append((i, number[name], capacity))
                    shares.append((time_of.get(name, 1.0), kv_of.get(name, 0.0)))
        column_of = np.array([e[0] for e in entries], dtype=np.int64)
        class_of = np.array([e[1] for e in entries], dtype=np.int64)
        capacity_of = np.array([e[2] for e in entries], dtype=np.float64)
        total = np.array([totals[n] for n in names])[class_of] if entries else np.zeros(0)
        within, moved = self._nic(names, column_of, class_of, capacity_of)
        usable = within > 0
        column_of, class_of, total = column_of[usable], class_of[usable], total[usable]
        within, capacity_of, moved = within[usable], capacity_of[usable], moved[usable]
        share = np.array(shares or np.zeros((0, 2)))[usable]
        unit = np.minimum(within, total)
        ratio = within / total
        forced = ratio > scale_limit if math.isfinite(scale_limit) else np.zeros(len(ratio), bool)
        return RateVariables(
            names=names,
            column=column_of,
            request_class=class_of,
            variable=self.builder.variables([INF] * len(unit)),
            unit=unit,
            capacity=capacity_of,
            time=unit / capacity_of * share[:, 0],
            most=np.where(forced, max(scale_limit, 1e-9) / np.clip(ratio, 1e-200, 1.0), INF),
            nic=unit * moved,
            kv=unit / capacity_of * share[:, 1],
        )

    def _nic(
        self, names: tuple[str, ...], column_of: AnyInts, class_of: AnyInts, capacity: Floats
    ) -> tuple[Floats, Floats]:
        """Capacity under the NIC alone, and the share of the NIC one request/s takes."""
        limits = np.array([_nic_limit(c) for c in self.table.columns] or [INF])
        scales = np.array([c.kv_scale for c in self.table.columns] or [1.0])
        kv_bytes = {c.name: c.kv_bytes for c in self.table.classes}
        if np.isinf(limits).all():
            return capacity, np.zeros(len(capacity))
        moved = np.array([kv_bytes[n] for n in names])[class_of] * scales[column_of]
        limit = np.where(moved > 0, limits[column_of], INF)
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.where(np.isinf(limit), INF, limit / moved)
            share = np.where(np.isinf(limit) | (limit <= 0), 0.0, moved / limit)
        return np.minimum(capacity, most), share

    def limit(self, kind: str, rates: RateVariables, share: Floats) -> tuple[AnyInts, AnyInts]:
        """sum share x rate <= replicas, for each column where any share is positive; (columns,
        rows)."""
        counted = share > 0
        column = rates.column[counted]
        owners = np.unique(column)
        ids = self.table.columns
        rows = self.builder.rows_at_most([f"{kind}[{ids[i].id}]" for i in owners.tolist()])
        self.builder.entries(
            rows[np.searchsorted(owners, column)], rates.variable[counted], share[counted]
        )
        self._less_replicas(rates, rows, owners, np.ones(len(rows)))
        return owners, rows

    def force(self, rates: RateVariables) -> None:
        """rate <= most x replicas, one row for each entry where `most` is finite."""
        (forced,) = np.nonzero(np.isfinite(rates.most))
        rows = self.builder.rows_at_most(["force"] * len(forced))
        most = np.minimum(1.0, rates.most[forced])
        self.builder.entries(rows, rates.variable[forced], most / rates.most[forced])
        self._less_replicas(rates, rows, rates.column[forced], most)

    def _less_replicas(
        self, rates: RateVariables, rows: AnyInts, owners: AnyInts, times: Floats
    ) -> None:
        """Takes `times` x the replicas of `owners` (rising) off the rows."""
        rates.private.append((rows, owners))
        first = np.searchsorted(self.owner, owners)
        sizes = np.searchsorted(self.owner, owners, side="right") - first
        start = np.cumsum(sizes) - sizes
        at = np.arange(int(sizes.sum())) - np.repeat(start, sizes) + np.repeat(first, sizes)
        each = np.repeat(times, sizes) * self.less[at]
        self.builder.entries(np.repeat(rows, sizes), self.replica[at], each)


def _nic_limit(column: Column) -> float:
    nic = column.nic_bytes_per_second
    return INF if nic is None or column.phase == "both" else nic
