"""Rates: which replica serves how much of which class, cascade policies, and P/D flows.

    sum_k rate_ck / capacity_ck <= replicas_c                        (time)
    sum_k rate_ck kv_bytes_k kv_scale_c <= nic_c replicas_c          (NIC, prefill and decode)
    both + prefill = own_k + sum_p v_p load_pk                       (demand)
    prefill of (zone, kv_scale) = flows out, flows in = decode       (balance)
    sum of flows' bytes from zone a to b <= link_ab                  (link)
    sum_p v_p = rate x (scale | served | 1), sum_p v_p (quality_p - floor) >= 0

Every rate variable is scaled by min(capacity, demand), so that all coefficients of the time and
demand rows lie in (0, 1] even where a demand is 1e-9 of a replica's capacity. Where a replica can
serve more than a class asks for, rate <= (most that is ever asked) x replicas is added: it is
implied for integers, makes the relaxation tighter, and keeps a tiny demand from being served by
"zero replicas" within tolerances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from motley_planner.domain.table import CascadeDemand, Column, FleetTable
from motley_planner.formulations.packing import Packing
from motley_planner.solver.milp import INF, MilpBuilder

FORCING_ROWS = 4000  # most rows of the tighter relaxation; tiny demands always get theirs
TINY = 1e-3
Entry = tuple[int, float]


@dataclass(slots=True)
class Demand:
    """Variables of the demand part and the scales that turn them into requests/s."""

    scale: int | None = None  # a
    served: dict[str, int] = field(default_factory=dict)  # class or cascade name -> share variable
    totals: dict[str, float] = field(default_factory=dict)  # class -> requests/s at share 1
    rates: dict[tuple[int, str], Entry] = field(default_factory=dict)  # (column, class)
    shares: dict[tuple[str, str], int] = field(default_factory=dict)  # (cascade, policy)
    flows: dict[tuple[str, str, str, float], Entry] = field(default_factory=dict)
    chosen: dict[tuple[str, str], int] = field(default_factory=dict)  # one-hot binaries
    tiers: dict[tuple[str, str], int] = field(default_factory=dict)  # (cascade, tier) binaries


def demand_totals(table: FleetTable) -> dict[str, float]:
    """Most requests/s each class can be asked for at scale 1; classes never asked are absent."""
    totals = {c.name: c.requests_per_second for c in table.classes}
    for cascade in table.cascades:
        for name in totals:
            most = max((p.load.get(name, 0.0) for p in cascade.policies), default=0.0)
            totals[name] += cascade.requests_per_second * most
    return {name: total for name, total in totals.items() if total > 0}


class DemandRows:
    """Adds the demand part of one table to a builder that already has its replica counts."""

    def __init__(
        self,
        builder: MilpBuilder,
        table: FleetTable,
        packing: Packing,
        scale_limit: float,
        extra: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self.builder, self.table, self.packing = builder, table, packing
        self.scale_limit = scale_limit  # most that a class is ever served at, in units of its rate
        self.out = Demand(totals=demand_totals(table))
        self.kv_bytes = {c.name: c.kv_bytes for c in table.classes}
        self.replicas: list[list[Entry]] = [[(v, 1.0)] for v in packing.new]
        for group in packing.kept:
            self.replicas[group.column].append((group.variable, 1.0))
        self.whole = True  # whether replicas are integers, which is what forcing rows rest on
        self.extra = extra or {}  # by column: what a large pool serves beyond its count

    def add(self) -> Demand:
        """All variables and rows."""
        if self.table.objective == "max_min":
            self.out.scale = self.builder.variable()
        self._add_rates()
        loads = self._add_cascades()
        self._add_demand(loads)
        self._add_flows()
        return self.out

    def _add_rates(self) -> None:
        for i, column in enumerate(self.table.columns):
            time: list[Entry] = []
            nic: list[Entry] = []
            for name, capacity in column.requests_per_second.items():
                total = self.out.totals.get(name)
                if total is None or capacity <= 0:
                    continue
                capacity, moved = self._nic_capacity(column, name, capacity)
                if capacity <= 0:
                    continue
                unit = min(capacity, total)
                variable = self.builder.variable()
                self.out.rates[i, name] = (variable, unit)
                time.append((variable, unit / column.requests_per_second[name]))
                if moved > 0:
                    nic.append((variable, unit * moved))
                self._force(i, variable, capacity / total)
            self._limit_by_replicas(i, time, "time", self.extra.get(i, ()))
            self._limit_by_replicas(i, nic, "nic")

    def _nic_capacity(self, column: Column, name: str, capacity: float) -> tuple[float, float]:
        """Capacity under the NIC alone, and the share of the NIC one request/s takes."""
        nic = column.nic_bytes_per_second
        moved = self.kv_bytes[name] * column.kv_scale
        if nic is None or column.phase == "both" or moved <= 0:
            return capacity, 0.0
        return (0.0, 0.0) if nic <= 0 else (min(capacity, nic / moved), moved / nic)

    def _limit_by_replicas(
        self, column: int, entries: list[Entry], kind: str, extra: Sequence[int] = ()
    ) -> None:
        if entries:
            negative = [(v, -1.0) for v, _ in self.replicas[column]] + [(v, -1.0) for v in extra]
            name = f"{kind}[{self.table.columns[column].id}]"
            self.builder.row([*entries, *negative], upper=0.0, name=name)

    def _force(self, column: int, variable: int, ratio: float) -> None:
        """`ratio` = capacity / demand at scale 1; the variable is in units of demand if > 1."""
        limit = self.scale_limit
        if ratio <= limit or not math.isfinite(limit) or not self.whole:
            return
        if ratio > limit / TINY or len(self.out.rates) <= FORCING_ROWS:
            entries = [(v, -max(limit, 1e-9)) for v, _ in self.replicas[column]]
            self.builder.row([(variable, min(1.0, ratio)), *entries], upper=0.0, name="force")

    def _level_entry(self, name: str) -> tuple[list[Entry], float]:
        """How much of a demand is asked for: (entries, constant) in units of its rate."""
        if self.out.scale is not None:
            return [(self.out.scale, 1.0)], 0.0
        if self.table.objective == "min_cost":
            return [], 1.0
        variable = self.builder.variable(0.0, 1.0)
        self.out.served[name] = variable
        return [(variable, 1.0)], 0.0

    def _add_cascades(self) -> dict[str, list[Entry]]:
        """The rows of each cascade; gives the load on each class, entries in requests/s."""
        loads: dict[str, list[Entry]] = {}
        for cascade in self.table.cascades:
            if cascade.requests_per_second <= 0:
                continue
            shares = self._add_policies(cascade)
            level, constant = self._level_entry(cascade.name)
            balance = [(v, 1.0) for v in shares] + [(v, -c) for v, c in level]
            self.builder.row(balance, constant, constant, name=f"cascade[{cascade.name}]")
            for policy, variable in zip(cascade.policies, shares, strict=True):
                for name, load in policy.load.items():
                    if load > 0:
                        rate = load * cascade.requests_per_second
                        loads.setdefault(name, []).append((variable, rate))
        return loads

    def _add_policies(self, cascade: CascadeDemand) -> list[int]:
        one_hot: list[int] = []
        shares: list[int] = []
        for policy in cascade.policies:
            allowed = cascade.mixture or policy.quality >= cascade.quality_floor
            variable = self.builder.variable(0.0, INF if allowed else 0.0)
            self.out.shares[cascade.name, policy.id] = variable
            shares.append(variable)
            if not cascade.mixture:
                chosen = self.builder.variable(0, 1, integer=True)
                self.out.chosen[cascade.name, policy.id] = chosen
                most = self.scale_limit if math.isfinite(self.scale_limit) else 1e6
                self.builder.row([(variable, 1.0), (chosen, -most)], upper=0.0, name="one_hot")
                one_hot.append(chosen)
        if one_hot:
            self.builder.row([(v, 1.0) for v in one_hot], upper=1.0, name="one_hot")
        self._add_tiers(cascade, shares)
        quality = [
            (v, p.quality - cascade.quality_floor)
            for v, p in zip(shares, cascade.policies, strict=True)
        ]
        if cascade.mixture:
            self.builder.row(quality, lower=0.0, name=f"quality[{cascade.name}]")
        return shares

    def _add_tiers(self, cascade: CascadeDemand, shares: list[int]) -> None:
        """sum of v_p of a tier <= most x chosen_t, sum of chosen_t <= 1, where there are several."""
        tiers: dict[str, list[Entry]] = {}
        for policy, variable in zip(cascade.policies, shares, strict=True):
            tiers.setdefault(policy.tier, []).append((variable, 1.0))
        if len(tiers) < 2:
            return
        most = self.scale_limit if math.isfinite(self.scale_limit) else 1e6
        for tier, entries in tiers.items():
            chosen = self.builder.variable(0, 1, integer=True)
            self.out.tiers[cascade.name, tier] = chosen
            self.builder.row([*entries, (chosen, -most)], upper=0.0, name="one_hot")
        chosen_all = [(self.out.tiers[cascade.name, tier], 1.0) for tier in tiers]
        self.builder.row(chosen_all, upper=1.0, name="one_hot")

    def _add_demand(self, loads: dict[str, list[Entry]]) -> None:
        given: dict[str, list[Entry]] = {name: [] for name in self.out.totals}
        for (i, name), (variable, unit) in self.out.rates.items():
            if self.table.columns[i].phase != "decode":
                given[name].append((variable, unit / self.out.totals[name]))
        for request_class in self.table.classes:
            name = request_class.name
            total = self.out.totals.get(name)
            if total is None:
                continue
            entries, constant = list(given[name]), 0.0
            own = request_class.requests_per_second / total
            if own > 0:
                level, constant = self._level_entry(name)
                entries += [(v, -own * c) for v, c in level]
            entries += [(v, -rate / total) for v, rate in loads.get(name, [])]
            right = own * constant
            self.builder.row(entries, right, right, name=f"demand[{name}]")

    def _add_flows(self) -> None:
        links = {(link.source, link.target): link.bytes_per_second for link in self.table.links}
        sides: dict[tuple[str, str, str, float], list[Entry]] = {}
        for (i, name), (variable, unit) in self.out.rates.items():
            column = self.table.columns[i]
            if column.phase != "both":
                key = (name, column.phase, column.zone, column.kv_scale)
                sides.setdefault(key, []).append((variable, -unit / self.out.totals[name]))
        on_link: dict[tuple[str, str], list[Entry]] = {}
        for name, phase, source, kv_scale in list(sides):
            if phase != "prefill":
                continue
            for other, other_phase, target, other_scale in list(sides):
                if (other, other_phase, other_scale) != (name, "decode", kv_scale):
                    continue
                if links.get((source, target)) == 0:
                    continue
                variable, total = self.builder.variable(), self.out.totals[name]
                self.out.flows[name, source, target, kv_scale] = (variable, total)
                sides[name, "prefill", source, kv_scale].append((variable, 1.0))
                sides[name, "decode", target, kv_scale].append((variable, 1.0))
                moved = total * self.kv_bytes[name] * kv_scale
                on_link.setdefault((source, target), []).append((variable, moved))
        for (name, phase, zone, _), entries in sides.items():
            self.builder.row(entries, 0.0, 0.0, name=f"{phase}[{name},{zone}]")
        for pair, entries in on_link.items():
            if pair in links:
                scaled = [(v, moved / links[pair]) for v, moved in entries]
                self.builder.row(scaled, upper=1.0, name=f"link[{pair[0]},{pair[1]}]")
