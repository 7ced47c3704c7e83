"""The best plan of a tiny table by enumeration: every set of survivors, every multiset of new
replicas, placed by search, rates by an LP of scipy. Shares no code with the formulations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import Any

import numpy as np
from scipy.optimize import linprog

from motley_planner.domain.table import (
    CascadeDemand,
    Column,
    FleetTable,
    RequestClass,
    RunningReplica,
    TableNode,
)

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Replicas without rates: counts by column, price of everything, P, lacking of minimums."""

    counts: Counts
    price: float
    penalty: float
    lacking: float


def best_value(table: FleetTable) -> tuple[float, ...] | None:
    """Level values of the best plan (minimums first if there are any); None where min_cost cannot.

    Levels are those of the table's objective, all turned so that more is better.

    Raises: Unbounded where max_min has no largest scale.
    """
    rates = _Rates(table)
    best: tuple[float, ...] | None = None
    for choice in _choices(table):
        head = (-choice.lacking,) if _has_minimums(table) else ()
        service = rates.best(choice.counts)
        if service is None:
            continue
        in_price = choice.price + (choice.penalty if table.penalty_in_price else 0.0)
        in_service = 0.0 if table.penalty_in_price else choice.penalty
        if table.objective == "min_cost":
            values = (*head, -choice.price - choice.penalty)
        else:
            values = (*head, *service[:-1], service[-1] - in_service)
            if table.objective == "goodput" or table.penalty_in_price:
                values = (*values, -in_price)
        if best is None or _better(values, best):
            best = values
    return best


def _better(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    for left, right in zip(a, b, strict=True):
        if abs(left - right) > 1e-8:
            return left > right
    return False


def _has_minimums(table: FleetTable) -> bool:
    return any(r.at_least is not None and r.at_least > 0 for r in table.side_rows)


def _choices(table: FleetTable) -> Iterator[Choice]:
    nodes, survivors = _nodes(table), _survivors(table)
    columns = {c.id: i for i, c in enumerate(table.columns)}
    for size in range(len(survivors) + 1):
        for kept in combinations(survivors, size):
            free = _free(table, nodes, kept)
            if free is None:
                continue
            base = [0] * len(table.columns)
            for replica in kept:
                base[columns[replica.column]] += 1
            stopped = sum(table.columns[columns[r.column]].gpus for r in survivors if r not in kept)
            used = frozenset(name for r in kept for name in r.nodes)
            yield from _with_new(table, nodes, (free, used), (tuple(base), stopped))


def _with_new(
    table: FleetTable,
    nodes: list[TableNode],
    room: tuple[dict[str, int], frozenset[str]],
    base: tuple[Counts, int],
) -> Iterator[Choice]:
    """All multisets of new replicas that fit, each with the cheapest nodes that hold it."""
    columns, (free, used), (kept, stopped) = table.columns, room, base
    open_nodes = [n for n in nodes if n.name not in table.cordoned_nodes]
    limits = [_limit(c, open_nodes, free) for c in columns]
    for new in product(*(range(limit + 1) for limit in limits)):
        counts = tuple(a + b for a, b in zip(kept, new, strict=True))
        if any(
            c.max_count is not None and n > c.max_count
            for c, n in zip(columns, counts, strict=True)
        ):
            continue
        node_price = _cheapest(columns, new, open_nodes, free, used, nodes)
        if node_price is None:
            continue
        price = node_price + sum(
            n * c.price_usd_per_hour for n, c in zip(counts, columns, strict=True)
        )
        if table.budget_usd_per_hour is not None and price > table.budget_usd_per_hour + 1e-9:
            continue
        lacking = _lacking(table, counts)
        if lacking is None:
            continue
        started = sum(n * c.gpus for n, c in zip(new, columns, strict=True))
        penalty = table.penalty_per_started_gpu * started + table.penalty_per_stopped_gpu * stopped
        yield Choice(counts, price, penalty, lacking)


def _limit(column: Column, nodes: list[TableNode], free: dict[str, int]) -> int:
    total = sum(
        free[n.name]
        for n in nodes
        if n.zone == column.zone and any(f.gpu == n.gpu for f in column.fragments)
    )
    return total // column.gpus


def _cheapest(
    columns: tuple[Column, ...],
    new: Counts,
    open_nodes: list[TableNode],
    free: dict[str, int],
    used: frozenset[str],
    nodes: list[TableNode],
) -> float | None:
    wanted = tuple(
        sorted(
            (f.gpu, c.zone, f.tp)
            for c, n in zip(columns, new, strict=True)
            for f in c.fragments
            for _ in range(n)
        )
    )
    price_of = {n.name: n.price_usd_per_hour or 0.0 for n in nodes}
    paid = sum(price_of[name] for name in used)
    extra = [n for n in open_nodes if n.name not in used and price_of[n.name] > 0]
    always = [n for n in open_nodes if n.name in used or price_of[n.name] == 0]
    best: float | None = None
    for size in range(len(extra) + 1):
        for bought in combinations(extra, size):
            price = paid + sum(price_of[n.name] for n in bought)
            if best is not None and price >= best:
                continue
            bins = tuple(sorted((n.gpu, n.zone, free[n.name]) for n in (*always, *bought)))
            if fits(wanted, bins):
                best = price
    return best


@lru_cache(maxsize=200_000)
def fits(wanted: tuple[tuple[str, str, int], ...], bins: tuple[tuple[str, str, int], ...]) -> bool:
    """Whether fragments (gpu, zone, size) can be put into bins (gpu, zone, free), by search."""
    if not wanted:
        return True
    gpu, zone, size = wanted[-1]
    for i in range(len(bins)):
        if bins[i][:2] == (gpu, zone) and bins[i][2] >= size and bins[i] not in bins[:i]:
            left = (*bins[:i], (gpu, zone, bins[i][2] - size), *bins[i + 1 :])
            if fits(wanted[:-1], tuple(sorted(left))):
                return True
    return False


def _lacking(table: FleetTable, counts: Counts) -> float | None:
    """Relative shortfall of the minimums; None where a hard side row is broken."""
    total = 0.0
    for row in table.side_rows:
        amount = sum(
            row.per_replica.get(c.id, 0.0) * n for c, n in zip(table.columns, counts, strict=True)
        )
        if row.at_most is not None and amount > row.at_most + 1e-9:
            return None
        if row.at_least is not None and row.at_least > 0:
            total += max(0.0, row.at_least - amount) / row.at_least
    return total


def _nodes(table: FleetTable) -> list[TableNode]:
    if table.previous is not None:
        return [n for n in table.previous.nodes if n.name not in table.lost_nodes]
    found = []
    for i, group in enumerate(table.nodes):
        assert group.count is not None, "the oracle needs finite inventory"
        for j in range(group.count):
            price = group.price_usd_per_hour
            found.append(TableNode(f"{i}/{j}", group.gpu, group.zone, group.gpus, price))
    return found


def _survivors(table: FleetTable) -> list[RunningReplica]:
    if table.previous is None:
        return []
    return [r for r in table.previous.replicas if not set(r.nodes) & table.lost_nodes]


def _free(
    table: FleetTable, nodes: list[TableNode], kept: tuple[RunningReplica, ...]
) -> dict[str, int] | None:
    free = {n.name: n.gpus for n in nodes}
    columns = {c.id: c for c in table.columns}
    for replica in kept:
        for name, fragment in zip(replica.nodes, columns[replica.column].fragments, strict=True):
            free[name] -= fragment.tp
    return free if all(f >= 0 for f in free.values()) else None


class Unbounded(Exception):
    """max_min has no largest scale."""


class _Rates:
    """The best service levels for given counts, by LPs in requests/s, cached."""

    def __init__(self, table: FleetTable) -> None:
        self.table = table
        self.cache: dict[Counts, tuple[float, ...] | None] = {}
        self.one_hot = [
            range(len(c.policies) + 1) if not c.mixture else (None,) for c in table.cascades
        ]

    def best(self, counts: Counts) -> tuple[float, ...] | None:
        """Level values (goodput: by priority; max_min: a; min_cost: ()), None if infeasible."""
        if counts not in self.cache:
            found = [self._solve(counts, chosen) for chosen in product(*self.one_hot)]
            feasible = [f for f in found if f is not None]
            self.cache[counts] = max(feasible) if feasible else None
        return self.cache[counts]

    def _solve(self, counts: Counts, chosen: tuple[Any, ...]) -> tuple[float, ...] | None:
        lp = _Lp()
        table = self.table
        scale = lp.add("a") if table.objective == "max_min" else None
        served = {}
        for d in self._demands():
            fixed = 1.0 if table.objective == "min_cost" else 0.0
            upper = None if scale is not None else 1.0
            served[d.name] = lp.add(("served", d.name), fixed, upper)
            if scale is not None:
                lp.equal({served[d.name]: 1.0, scale: -1.0}, 0.0)
        load = self._cascades(lp, served, chosen)
        self._replicas(lp, counts)
        self._demand(lp, served, load)
        self._flows(lp)
        if scale is not None:
            value = lp.maximize({scale: 1.0})
            return None if value is None else (value,)
        if table.objective == "min_cost":
            return () if lp.maximize({}) is not None else None
        return self._levels(lp, served)

    def _demands(self) -> list[RequestClass | CascadeDemand]:
        found: list[RequestClass | CascadeDemand] = [*self.table.classes, *self.table.cascades]
        return [d for d in found if d.requests_per_second > 0]

    def _levels(self, lp: _Lp, served: dict[str, int]) -> tuple[float, ...] | None:
        worth = {d.name: d.weight * d.requests_per_second for d in self._demands()}
        priorities = {d.priority for d in self._demands() if worth[d.name] > 0}
        values = []
        for priority in sorted(priorities, reverse=True):
            mine = [d.name for d in self._demands() if d.priority == priority]
            total = sum(worth[name] for name in mine)
            goal = {served[name]: worth[name] / total for name in mine}
            value = lp.maximize(goal)
            if value is None:
                return None
            values.append(value)
            lp.at_most({v: -c for v, c in goal.items()}, -value + 1e-10)
        return tuple(values) or (0.0,)

    def _cascades(
        self, lp: _Lp, served: dict[str, int], chosen: tuple[Any, ...]
    ) -> dict[str, dict[int, float]]:
        load: dict[str, dict[int, float]] = {c.name: {} for c in self.table.classes}
        for cascade, only in zip(self.table.cascades, chosen, strict=True):
            rate = cascade.requests_per_second
            if rate <= 0:
                continue
            shares = {}
            for i, policy in enumerate(cascade.policies):
                upper = None if only is None or only == i else 0.0
                shares[lp.add(("v", cascade.name, policy.id), 0.0, upper)] = policy
            lp.equal({**dict.fromkeys(shares, 1.0), served[cascade.name]: -rate}, 0.0)
            floor = cascade.quality_floor
            lp.at_most({v: floor - p.quality for v, p in shares.items()}, 0.0)
            for variable, policy in shares.items():
                for name, visits in policy.load.items():
                    load[name][variable] = visits
        return load

    def _replicas(self, lp: _Lp, counts: Counts) -> None:
        classes = {c.name: c for c in self.table.classes}
        for column, count in zip(self.table.columns, counts, strict=True):
            time, nic = {}, {}
            for name, capacity in column.requests_per_second.items():
                if capacity <= 0:
                    continue
                rate = lp.add(("rate", column.id, name))
                time[rate] = 1.0 / capacity
                nic[rate] = classes[name].kv_bytes * column.kv_scale
            lp.at_most(time, float(count))
            if column.nic_bytes_per_second is not None and column.phase != "both":
                lp.at_most(nic, column.nic_bytes_per_second * count)

    def _rate(self, lp: _Lp, name: str, phase: str) -> dict[int, float]:
        return {
            lp.names["rate", c.id, name]: 1.0
            for c in self.table.columns
            if c.phase == phase and ("rate", c.id, name) in lp.names
        }

    def _demand(self, lp: _Lp, served: dict[str, int], load: dict[str, dict[int, float]]) -> None:
        for request_class in self.table.classes:
            name = request_class.name
            row = {**self._rate(lp, name, "both"), **self._rate(lp, name, "prefill")}
            row |= {v: -visits for v, visits in load[name].items()}
            if request_class.requests_per_second > 0:
                row[served[name]] = -request_class.requests_per_second
            lp.equal(row, 0.0)

    def _flows(self, lp: _Lp) -> None:
        links = {(k.source, k.target): k.bytes_per_second for k in self.table.links}
        on_link: dict[tuple[str, str], dict[int, float]] = {}
        split = [c for c in self.table.columns if c.phase != "both"]
        scales = sorted({c.kv_scale for c in split})
        zones = sorted({c.zone for c in split})
        for request_class, kv_scale in product(self.table.classes, scales):
            name = request_class.name
            flows = {(a, b): lp.add(("flow", name, kv_scale, a, b)) for a in zones for b in zones}
            for pair, flow in flows.items():
                on_link.setdefault(pair, {})[flow] = request_class.kv_bytes * kv_scale
                if links.get(pair) == 0:
                    lp.at_most({flow: 1.0}, 0.0)
            for zone, (side, phase) in product(zones, ((0, "prefill"), (1, "decode"))):
                row = {f: -1.0 for pair, f in flows.items() if pair[side] == zone}
                for c in split:
                    here = (c.phase, c.zone, c.kv_scale) == (phase, zone, kv_scale)
                    if here and ("rate", c.id, name) in lp.names:
                        row[lp.names["rate", c.id, name]] = 1.0
                lp.equal(row, 0.0)
        for pair, row in on_link.items():
            if pair in links:
                lp.at_most(row, links[pair])


class _Lp:
    """A small LP, solved by scipy."""

    def __init__(self) -> None:
        self.names: dict[Any, int] = {}
        self.bounds: list[tuple[float, float | None]] = []
        self.upper: list[tuple[dict[int, float], float]] = []
        self.equals: list[tuple[dict[int, float], float]] = []

    def add(self, name: Any, lower: float = 0.0, upper: float | None = None) -> int:
        """A new variable."""
        self.names[name] = len(self.bounds)
        self.bounds.append((lower, upper))
        return len(self.bounds) - 1

    def at_most(self, row: dict[int, float], right: float) -> None:
        """row . x <= right."""
        self.upper.append((row, right))

    def equal(self, row: dict[int, float], right: float) -> None:
        """row . x == right."""
        self.equals.append((row, right))

    def maximize(self, goal: dict[int, float]) -> float | None:
        """The maximum, or None where infeasible."""
        if not self.bounds:
            return 0.0
        cost = np.zeros(len(self.bounds))
        for variable, worth in goal.items():
            cost[variable] = -worth
        found = linprog(
            cost, *self._dense(self.upper), *self._dense(self.equals), bounds=self.bounds
        )
        if found.status == 3:
            raise Unbounded
        return -float(found["fun"]) if found.status == 0 else None

    def _dense(self, rows: list[tuple[dict[int, float], float]]) -> tuple[Any, Any]:
        if not rows:
            return None, None
        matrix = np.zeros((len(rows), len(self.bounds)))
        for i, (row, _) in enumerate(rows):
            for variable, value in row.items():
                matrix[i, variable] = value
        return matrix, np.array([right for _, right in rows])
