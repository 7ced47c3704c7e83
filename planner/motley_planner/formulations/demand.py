"""Rates: which replica serves how much of which class, cascade policies, and P/D flows.

    both + prefill = own_k + sum_p v_p load_pk                       (demand)
    prefill of (zone, kv_scale) = flows out, flows in = decode       (balance)
    sum of flows' bytes from zone a to b <= link_ab                  (link)
    sum_p v_p = rate x (scale | served | 1), sum_p v_p (quality_p - floor) >= 0

The rates themselves, with time, NIC and force rows, are in rates.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from motley_planner.domain.table import CascadeDemand, FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.packing import Packing
from motley_planner.formulations.rates import WHOLE, RateVariables, Worth, add_rates
from motley_planner.solver.milp import INF, Floats, MilpBuilder

SMALLEST_PART = 1e-6  # of what a class is asked for altogether: the solver's tolerance is relative
Entry = tuple[int, float]
Side = tuple[str, str, str, float]  # class, phase, zone, KV scale


@dataclass(slots=True)
class Demand:
    """Variables of the demand part and the scales that turn them into requests/s."""

    rates: RateVariables
    scale: int | None = None  # a
    served: dict[str, int] = field(default_factory=dict)  # class or cascade name -> share variable
    totals: dict[str, float] = field(default_factory=dict)  # class -> requests/s at share 1
    shares: dict[tuple[str, str], int] = field(default_factory=dict)  # (cascade, policy)
    flows: dict[tuple[str, str, str, float], Entry] = field(default_factory=dict)
    chosen: dict[tuple[str, str], int] = field(default_factory=dict)  # one-hot binaries
    tiers: dict[tuple[str, str], int] = field(default_factory=dict)  # (cascade, tier) binaries


def demand_totals(table: FleetTable) -> dict[str, float]:
    """Most requests/s each class can be asked for at scale 1; classes never asked are absent.

    Raises: SnapshotError for a part so small beside the others that the solver would not see it.
    """
    totals = {c.name: c.requests_per_second for c in table.classes}
    least = {c.name: (c.requests_per_second or INF, f"classes[{c.name!r}]") for c in table.classes}
    for cascade in table.cascades:
        for name in totals:
            loads = [p.load.get(name, 0.0) for p in cascade.policies]
            totals[name] += cascade.requests_per_second * max(loads, default=0.0)
            parts = [cascade.requests_per_second * load for load in loads if load > 0]
            where = f"cascades[{cascade.name!r}].policies"
            least[name] = min([least[name], *((part, where) for part in parts if part > 0)])
    for name, (part, where) in least.items():
        if part < SMALLEST_PART * totals[name]:
            rule = f"asks for {part:g} of class {name!r}'s {totals[name]:g} requests/s"
            fix = f"make it 0 or at least {SMALLEST_PART * totals[name]:g}"
            raise SnapshotError(where, f"{rule}, which a plan cannot see; {fix}")
    return {name: total for name, total in totals.items() if total > 0}


class DemandRows:
    """Adds the demand part of one table to a builder that already has its replica counts."""

    def __init__(
        self,
        builder: MilpBuilder,
        table: FleetTable,
        packing: Packing,
        scale_limit: float,
        worth: Worth = WHOLE,
    ) -> None:
        self.builder, self.table = builder, table
        self.scale_limit = scale_limit  # most that a class is ever served at, in units of its rate
        totals = demand_totals(table)
        scale = builder.variable() if table.objective == "max_min" else None
        rates = add_rates(builder, table, packing, totals, replace(worth, limit=scale_limit))
        self.out = Demand(rates=rates, scale=scale, totals=totals)
        self.kv_bytes = {c.name: c.kv_bytes for c in table.classes}

    def add(self) -> Demand:
        """All variables and rows."""
        loads = self._add_cascades()
        self._add_demand(loads)
        self._add_flows()
        return self.out

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
        rates = self.out.rates
        decode = np.array([c.phase == "decode" for c in self.table.columns], dtype=np.bool_)
        row_of = np.full(len(rates.names), -1, dtype=np.int64)
        for request_class in self.table.classes:
            name = request_class.name
            total = self.out.totals.get(name)
            if total is None:
                continue
            entries, constant = list[Entry](), 0.0
            own = request_class.requests_per_second / total
            if own > 0:
                level, constant = self._level_entry(name)
                entries += [(v, -own * c) for v, c in level]
            entries += [(v, -rate / total) for v, rate in loads.get(name, [])]
            right = own * constant
            row = self.builder.row(entries, right, right, name=f"demand[{name}]")
            row_of[rates.names.index(name)] = row
        if len(rates.column):
            given = ~decode[rates.column]
            share = rates.unit / self._totals()[rates.request_class]
            rows = row_of[rates.request_class[given]]
            self.builder.entries(rows, rates.variable[given], share[given])

    def _totals(self) -> Floats:
        return np.array([self.out.totals[name] for name in self.out.rates.names])

    def _sides(self) -> dict[Side, list[int]]:
        """Positions of the prefill and decode rates of each side of a transfer."""
        rates, sides = self.out.rates, dict[Side, list[int]]()
        split = np.array([c.phase != "both" for c in self.table.columns], dtype=np.bool_)
        if not split.any() or not len(rates.column):
            return sides
        for k in np.flatnonzero(split[rates.column]).tolist():
            column = self.table.columns[rates.column[k]]
            name = rates.names[rates.request_class[k]]
            sides.setdefault((name, column.phase, column.zone, column.kv_scale), []).append(k)
        return sides

    def _add_flows(self) -> None:
        sides = self._sides()
        links = {(link.source, link.target): link.bytes_per_second for link in self.table.links}
        flows: dict[Side, list[Entry]] = {side: [] for side in sides}
        on_link: dict[tuple[str, str], list[Entry]] = {}
        for name, phase, source, kv_scale in sides:
            if phase != "prefill":
                continue
            for other, other_phase, target, other_scale in sides:
                if (other, other_phase, other_scale) != (name, "decode", kv_scale):
                    continue
                if links.get((source, target)) == 0:
                    continue
                variable, total = self.builder.variable(), self.out.totals[name]
                self.out.flows[name, source, target, kv_scale] = (variable, total)
                flows[name, "prefill", source, kv_scale].append((variable, 1.0))
                flows[name, "decode", target, kv_scale].append((variable, 1.0))
                moved = total * self.kv_bytes[name] * kv_scale
                on_link.setdefault((source, target), []).append((variable, moved))
        rates = self.out.rates
        for side, entries in flows.items():
            name, phase, zone, _ = side
            row = self.builder.row(entries, 0.0, 0.0, name=f"{phase}[{name},{zone}]")
            at = np.array(sides[side])
            share = -rates.unit[at] / self.out.totals[name]
            self.builder.entries(np.full(len(at), row), rates.variable[at], share)
        for pair, entries in on_link.items():
            if pair in links:
                scaled = [(v, moved / links[pair]) for v, moved in entries]
                self.builder.row(scaled, upper=1.0, name=f"link[{pair[0]},{pair[1]}]")
