"""The best rates for given replica counts, by LPs of scipy in plain requests/s."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import linprog

from motley_planner.domain.table import CascadeDemand, FleetTable, RequestClass

Counts = tuple[int, ...]


class Unbounded(Exception):
    """max_min has no largest scale."""


class Rates:
    """The best service levels for given counts, by LPs in requests/s, cached.

    Where the table has positive minimums, their level comes first in every result.
    """

    def __init__(self, table: FleetTable, worth: Counts | tuple[float, ...] | None = None) -> None:
        self.table = table
        self.worth = worth  # capacity in replicas by column; None: what the counts are worth
        self.cache: dict[tuple[Counts, float], tuple[float, ...] | None] = {}
        self.one_hot = [_choices(c) for c in table.cascades]

    def best(self, counts: Counts, most: float = math.inf) -> tuple[float, ...] | None:
        """Level values (goodput: by priority; max_min: a; min_cost: ()), None if infeasible.

        `most` is a bound on the scale of max_min, which counts for the minimums as well.
        """
        key = counts, most
        if key not in self.cache:
            found = [self._solve(counts, chosen, most) for chosen in product(*self.one_hot)]
            feasible = [f for f in found if f is not None]
            self.cache[key] = max(feasible) if feasible else None
        return self.cache[key]

    def _solve(
        self, counts: Counts, chosen: tuple[Any, ...], most: float
    ) -> tuple[float, ...] | None:
        lp = Lp()
        table = self.table
        upper = most if math.isfinite(most) else None
        scale = lp.add("a", 0.0, upper) if table.objective == "max_min" else None
        served = {}
        for d in self._demands():
            fixed = 1.0 if table.objective == "min_cost" else 0.0
            whole = None if scale is not None else 1.0
            served[d.name] = lp.add(("served", d.name), fixed, whole)
            if scale is not None:
                lp.equal({served[d.name]: 1.0, scale: -1.0}, 0.0)
        load = self._cascades(lp, served, chosen)
        self._replicas(lp, counts)
        self._demand(lp, served, load)
        self._flows(lp)
        short = self._side_rows(lp, counts, served)
        head: tuple[float, ...] = ()
        if short is not None:
            least = lp.maximize({v: -c for v, c in short.items()})
            if least is None:
                return None
            head = (least,)
            lp.at_most(short, -least + 1e-10)
        if scale is not None:
            value = lp.maximize({scale: 1.0})
            return None if value is None else (*head, value)
        if table.objective == "min_cost":
            return head if lp.maximize({}) is not None else None
        levels = self._levels(lp, served)
        return None if levels is None else (*head, *levels)

    def _side_rows(self, lp: Lp, counts: Counts, served: dict[str, int]) -> dict[int, float] | None:
        """Adds side rows; shortfall variables of positive minimums with their cost, if any."""
        have = dict(zip((c.id for c in self.table.columns), counts, strict=True))
        own = {d.name: d.requests_per_second for d in self._demands()}
        short: dict[int, float] | None = None
        for row in self.table.side_rows:
            fixed = sum(amount * have[c] for c, amount in row.per_replica.items())
            terms: dict[int, float] = {}
            for (column, name), amount in row.per_rate.items():
                if ("rate", column, name) in lp.names:
                    terms[lp.names["rate", column, name]] = amount
            for name, amount in row.per_served.items():
                if name in served:
                    terms[served[name]] = terms.get(served[name], 0.0) + amount * own[name]
            for (cascade, policy), amount in row.per_policy.items():
                if ("v", cascade, policy) in lp.names:
                    terms[lp.names["v", cascade, policy]] = amount
            if row.at_most is not None:
                lp.at_most(terms, row.at_most - fixed)
            if row.at_least is None:
                continue
            if row.at_least > 0:
                short = {} if short is None else short
                lacking = lp.add(("short", row.name))
                short[lacking] = row.importance / row.at_least
                terms[lacking] = 1.0
            lp.at_most({v: -c for v, c in terms.items()}, fixed - row.at_least)
        return short

    def _demands(self) -> list[RequestClass | CascadeDemand]:
        found: list[RequestClass | CascadeDemand] = [*self.table.classes, *self.table.cascades]
        return [d for d in found if d.requests_per_second > 0]

    def _levels(self, lp: Lp, served: dict[str, int]) -> tuple[float, ...] | None:
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
        if not values:
            return (0.0,) if lp.maximize({}) is not None else None
        return tuple(values)

    def _cascades(
        self, lp: Lp, served: dict[str, int], chosen: tuple[Any, ...]
    ) -> dict[str, dict[int, float]]:
        load: dict[str, dict[int, float]] = {c.name: {} for c in self.table.classes}
        for cascade, only in zip(self.table.cascades, chosen, strict=True):
            rate = cascade.requests_per_second
            if rate <= 0:
                continue
            shares = {}
            for i, policy in enumerate(cascade.policies):
                upper = None if only is None or only in (i, policy.tier) else 0.0
                shares[lp.add(("v", cascade.name, policy.id), 0.0, upper)] = policy
            lp.equal({**dict.fromkeys(shares, 1.0), served[cascade.name]: -rate}, 0.0)
            floor = cascade.quality_floor
            lp.at_most({v: floor - p.quality for v, p in shares.items()}, 0.0)
            for variable, policy in shares.items():
                for name, visits in policy.load.items():
                    load[name][variable] = visits
        return load

    def _replicas(self, lp: Lp, counts: Counts) -> None:
        classes = {c.name: c for c in self.table.classes}
        worth = self.worth or tuple(
            c.worth_of(n) for c, n in zip(self.table.columns, counts, strict=True)
        )
        for column, count, able in zip(self.table.columns, counts, worth, strict=True):
            time, nic, kv = {}, {}, {}
            for name, capacity in column.requests_per_second.items():
                if capacity <= 0:
                    continue
                rate = lp.add(("rate", column.id, name))
                time[rate] = column.time_share.get(name, 1.0) / capacity
                kv[rate] = column.kv_share.get(name, 0.0) / capacity
                nic[rate] = classes[name].kv_bytes * column.kv_scale
            lp.at_most(time, float(able))
            if column.kv_share:
                lp.at_most(kv, float(able))
            if column.nic_bytes_per_second is not None and column.phase != "both":
                lp.at_most(nic, column.nic_bytes_per_second * count)

    def _rate(self, lp: Lp, name: str, phase: str) -> dict[int, float]:
        return {
            lp.names["rate", c.id, name]: 1.0
            for c in self.table.columns
            if c.phase == phase and ("rate", c.id, name) in lp.names
        }

    def _demand(self, lp: Lp, served: dict[str, int], load: dict[str, dict[int, float]]) -> None:
        for request_class in self.table.classes:
            name = request_class.name
            row = {**self._rate(lp, name, "both"), **self._rate(lp, name, "prefill")}
            row |= {v: -visits for v, visits in load[name].items()}
            if request_class.requests_per_second > 0:
                row[served[name]] = -request_class.requests_per_second
            lp.equal(row, 0.0)

    def _flows(self, lp: Lp) -> None:
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


def _choices(cascade: CascadeDemand) -> tuple[int | str | None, ...]:
    """What may be used together: one policy, one tier (by name), or everything (None)."""
    if not cascade.mixture:
        return tuple(range(len(cascade.policies) + 1))
    tiers = tuple(dict.fromkeys(p.tier for p in cascade.policies))
    return tiers if len(tiers) > 1 else (None,)


class Lp:
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
            # Rows without terms still have a right side to keep.
            return 0.0 if all(right >= -1e-9 for _, right in self.upper) else None
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
