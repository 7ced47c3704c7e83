"""A linear relaxation of the real problem, written down anew from the table for proofs of bounds.

Every plan is a point of it: replicas in whole numbers and packing on single nodes are left out, and
so are links, scenarios, minimum counts and tiers. What is kept holds for every plan:

    gpus[gpu,zone,q]  sum y tp (fragments of tp >= q) <= sum of nodes u q floor(gpus / q)
    time[c], kv[c]    sum_k share_ck r_ck / h_ck <= f_c y_c   f: best pool step
    force[c,k]        r_ck <= T_k y_c                         T: most that is asked of k (scale 1)
    nic[c]            sum_k r_ck bytes_k kv_scale_c <= nic_c y_c
    demand[k,phase]   sum_c r_ck = own_k s_k + sum_p w_p rate load_pk
    cascade[n]        sum_p w_p = s_n;  quality[n]  sum_p w_p (quality_p - floor) >= 0
    budget, side[..]  as they stand
    moves[c]          start_c - stop_c + sum_b flip_bc - sum_d flip_cd = y_c - running_c

y: replicas, r: rates as shares of T, u: nodes in use, w: policy shares, s: served share (max_min:
the scale, min_cost: 1). In a re-plan nodes are those left; a cordoned one counts for what runs there.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from motley_planner.checker.asked import largest_scale, most_asked
from motley_planner.checker.room import (
    MOST_REPLICAS,
    flips_of,
    going_on,
    gpus_by_kind,
    most_replicas,
    nodes_by_kind,
    slot_sizes,
)
from motley_planner.domain.table import CascadeDemand, FleetTable, RequestClass, SideRow

INF = math.inf
Demands = tuple[RequestClass | CascadeDemand, ...]


@dataclass(slots=True)
class Row:
    """lower <= sum coefficient x variable <= upper."""

    entries: dict[int, float]
    lower: float
    upper: float


@dataclass(slots=True)
class Relaxation:
    """Variables with bounds, named rows, and each level as a row to be maximized."""

    upper: list[float] = field(default_factory=list)  # all variables are >= 0
    rows: dict[str, Row] = field(default_factory=dict)
    levels: dict[str, tuple[dict[int, float], float]] = field(default_factory=dict)

    def variable(self, upper: float) -> int:
        """A new variable in 0..upper."""
        self.upper.append(upper)
        return len(self.upper) - 1

    def row(
        self, name: str, entries: dict[int, float], lower: float = -INF, upper: float = INF
    ) -> None:
        """A new row; rows without entries say nothing."""
        if entries:
            self.rows[name] = Row(entries, lower, upper)


def relax(table: FleetTable) -> Relaxation:
    """The relaxation of a table; levels as maxima (a price counts negative)."""
    return _Builder(table).build()


class _Builder:
    def __init__(self, table: FleetTable) -> None:
        self.table, self.out = table, Relaxation()
        self.phase = {c.id: c.phase for c in table.columns}
        self.demands: Demands = (*table.classes, *table.cascades)
        self.own = {c.name: c.requests_per_second for c in table.classes}
        self.asked = most_asked(table)
        self.running = going_on(table)
        self.y: dict[str, int] = {}
        self.z: dict[tuple[str, str], int] = {}
        self.paid: dict[int, float] = {}  # USD/h of variables
        self.waited: dict[int, float] = {}  # what waiting for nodes is worth, beside the price
        self.moved: dict[int, float] = {}  # what moves cost
        self.shares: dict[tuple[str, str], int] = {}
        self.served: dict[str, int] = {}
        self.scale: int | None = None
        self.lacking: dict[int, float] = {}

    def build(self) -> Relaxation:
        """All variables, rows and levels."""
        self._add_replicas()
        self._add_rates()
        self._add_served()
        self._add_demand()
        self._add_moves()
        if self.table.budget_usd_per_hour is not None:
            self.out.row("budget", dict(self.paid), upper=self.table.budget_usd_per_hour)
        for row in self.table.side_rows:
            self._add_side(row)
        self._add_levels()
        return self.out

    def _add_replicas(self) -> None:
        """y and u, and the room on nodes by GPU, zone and size."""
        needs: dict[tuple[str, str], dict[str, Counter[int]]] = defaultdict(dict)
        for column in self.table.columns:
            for fragment in column.fragments:
                sizes = needs[fragment.gpu, column.zone].setdefault(column.id, Counter())
                sizes[fragment.tp] += 1
        nodes = nodes_by_kind(self.table, needs)
        gpus_there = gpus_by_kind(nodes)
        for column in self.table.columns:
            most = most_replicas(column, gpus_there)
            self.y[column.id] = variable = self.out.variable(max(most, self.running[column.id]))
            if column.price_usd_per_hour:
                self.paid[variable] = column.price_usd_per_hour
        for (gpu, zone), found in nodes.items():
            used = []
            for one in found:
                variable = self.out.variable(min(one.count, MOST_REPLICAS))
                used.append((variable, one.gpus))
                self.paid |= {variable: one.price} if one.price else {}
                self.waited |= {variable: one.delay} if one.delay else {}
            for q in slot_sizes(needs[gpu, zone]):
                entries: dict[int, float] = {}
                for column_id, sizes in needs[gpu, zone].items():
                    taken = sum(tp * n for tp, n in sizes.items() if tp >= q)
                    if taken:
                        entries[self.y[column_id]] = float(taken)
                for variable, gpus in used:
                    entries[variable] = -float(q * (gpus // q))
                self.out.row(f"gpus[{gpu},{zone},{q}]", entries, upper=0.0)

    def _add_rates(self) -> None:
        """r as shares of T, within time, NIC and (at scale 1) what is asked."""
        kv_bytes = {c.name: c.kv_bytes for c in self.table.classes}
        at_one = self.table.objective != "max_min"
        for column in self.table.columns:
            y, factor = self.y[column.id], max([1.0, *(s.factor for s in column.pool_steps)])
            time, kv, nic = {y: -factor}, {y: -factor}, {}
            for name, capacity in column.requests_per_second.items():
                if capacity <= 0 or name not in self.asked:
                    continue
                asked = self.asked[name]
                most = 1.0 if at_one else factor * self.out.upper[y] * capacity / asked
                self.z[column.id, name] = rate = self.out.variable(most)
                time[rate] = asked / capacity * column.time_share.get(name, 1.0)
                if column.kv_share.get(name):
                    kv[rate] = asked / capacity * column.kv_share[name]
                if column.phase != "both" and column.nic_bytes_per_second is not None:
                    nic[rate] = asked * kv_bytes[name] * column.kv_scale
                if at_one and asked < capacity:
                    self.out.row(f"force[{column.id},{name}]", {rate: 1.0, y: -1.0}, upper=0.0)
            for what, entries in (("time", time), ("kv", kv)):
                if len(entries) > 1:
                    self.out.row(f"{what}[{column.id}]", entries, upper=0.0)
            if any(nic.values()):
                nic[y] = -(column.nic_bytes_per_second or 0.0)
                self.out.row(f"nic[{column.id}]", nic, upper=0.0)

    def _add_served(self) -> None:
        """s of every demand, and w of every policy."""
        if self.table.objective == "max_min":
            self.scale = self.out.variable(self._largest_scale())
        for demand in self.demands if self.table.objective == "goodput" else ():
            if demand.requests_per_second > 0:
                self.served[demand.name] = self.out.variable(1.0)
        for cascade in self.table.cascades:
            if cascade.requests_per_second > 0:
                self._add_cascade(cascade)

    def _largest_scale(self) -> float:
        given: dict[str, float] = defaultdict(float)
        for (column_id, name), rate in self.z.items():
            if self.phase[column_id] != "decode":
                given[name] += self.out.upper[rate] * self.asked[name]
        return largest_scale(self.table, given)

    def _share(self, name: str) -> tuple[dict[int, float], float]:
        """The served share of a demand as entries and a constant."""
        if self.scale is not None:
            return {self.scale: 1.0}, 0.0
        return ({self.served[name]: 1.0}, 0.0) if name in self.served else ({}, 1.0)

    def _add_cascade(self, cascade: CascadeDemand) -> None:
        entries, one = self._share(cascade.name)
        most = 1.0 if self.scale is None else self.out.upper[self.scale]
        total = {variable: -c for variable, c in entries.items()}
        better: dict[int, float] = {}
        for policy in cascade.policies:
            share = self.shares[cascade.name, policy.id] = self.out.variable(most)
            total[share] = 1.0
            better[share] = policy.quality - cascade.quality_floor
        self.out.row(f"cascade[{cascade.name}]", total, one, one)
        self.out.row(f"quality[{cascade.name}]", better, lower=0.0)

    def _add_demand(self) -> None:
        given: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for (column_id, name), rate in self.z.items():
            phase = self.phase[column_id]
            for one in ("prefill", "decode") if phase == "both" else (phase,):
                given[name, one][rate] = 1.0
        for name, asked in self.asked.items():
            share, constant = self._share(name) if self.own[name] > 0 else ({}, 0.0)
            need = {v: -c * self.own[name] / asked for v, c in share.items()}
            right = constant * self.own[name] / asked if self.own[name] > 0 else 0.0
            for cascade in self.table.cascades:
                for policy in cascade.policies:
                    at = (cascade.name, policy.id)
                    if at in self.shares and policy.load.get(name, 0.0):
                        load = policy.load[name] * cascade.requests_per_second / asked
                        need[self.shares[at]] = -load
            for phase in ("prefill", "decode"):
                entries = {**given[name, phase], **need}
                self.out.row(f"demand[{name},{phase}]", entries, right, right)

    def _add_moves(self) -> None:
        """Replicas that start and stop, where that costs something."""
        table = self.table
        if not (table.penalty_per_started_gpu or table.penalty_per_stopped_gpu):
            return
        flips = self._add_flips()
        for column in table.columns:
            y, before = self.y[column.id], float(self.running[column.id])
            start, stop = self.out.variable(self.out.upper[y]), self.out.variable(before)
            self.moved[start] = table.penalty_per_started_gpu * column.gpus
            self.moved[stop] = table.penalty_per_stopped_gpu * column.gpus
            entries = {y: 1.0, start: -1.0, stop: 1.0, **flips[column.id]}
            self.out.row(f"moves[{column.id}]", entries, before, before)

    def _add_flips(self) -> dict[str, dict[int, float]]:
        """Replicas that go on in another role: what each takes of the rows of moves, by column."""
        table, gpus = self.table, {c.id: c.gpus for c in self.table.columns}
        entries: dict[str, dict[int, float]] = defaultdict(dict)
        for (source, target), number in flips_of(table).items():
            if source in gpus and target in gpus:
                flip = self.out.variable(float(number))
                self.moved[flip] = table.penalty_per_flipped_gpu * gpus[source]
                entries[source][flip], entries[target][flip] = 1.0, -1.0
        return entries

    def _add_side(self, row: SideRow) -> None:
        entries: dict[int, float] = defaultdict(float)
        constant = 0.0
        for column_id, amount in row.per_replica.items():
            entries[self.y[column_id]] += amount
        for at, amount in row.per_rate.items():
            if at in self.z:
                entries[self.z[at]] += amount * self.asked[at[1]]
        own = self.own | {c.name: c.requests_per_second for c in self.table.cascades}
        for name, amount in row.per_served.items():
            share, one = self._share(name) if own[name] > 0 else ({}, 1.0)
            constant += one * amount * own[name]
            for variable, c in share.items():
                entries[variable] += c * amount * own[name]
        for at, amount in row.per_policy.items():
            if at in self.shares:
                entries[self.shares[at]] += amount * own[at[0]]
        scale = max((abs(c) for c in entries.values()), default=1.0) or 1.0
        scaled = {v: c / scale for v, c in entries.items()}
        if row.at_most is not None:
            self.out.row(f"side[{row.name}]<", scaled, upper=(row.at_most - constant) / scale)
        if row.at_least is not None:
            if row.at_least > 0:
                missing = self.out.variable(row.at_least + abs(constant))
                self.lacking[missing] = row.importance / row.at_least
                scaled = {**scaled, missing: 1.0 / scale}
            self.out.row(f"side[{row.name}]>", scaled, lower=(row.at_least - constant) / scale)

    def _add_levels(self) -> None:
        table, levels = self.table, self.out.levels
        if self.lacking:
            levels["minimums"] = {v: -c for v, c in self.lacking.items()}, 0.0
        moves = {v: -c for v, c in self.moved.items()}
        in_service = {} if table.penalty_in_price else moves
        dear = (self.paid, self.waited)
        price = {v: -sum(c.get(v, 0.0) for c in dear) for v in self.paid | self.waited}
        if self.scale is not None:
            levels["max_min"] = {self.scale: 1.0, **in_service}, 0.0
        elif table.objective == "goodput":
            self._add_goodput(in_service)
        if table.objective != "max_min" or table.penalty_in_price:
            counted = table.penalty_in_price or table.objective == "min_cost"
            levels["price"] = {**price, **(moves if counted else {})}, 0.0

    def _add_goodput(self, in_service: dict[int, float]) -> None:
        worth: dict[int, dict[int, float]] = defaultdict(dict)
        for demand in self.demands:
            weight = demand.weight * demand.requests_per_second
            if weight > 0:
                worth[demand.priority][self.served[demand.name]] = weight
        names = sorted(worth, reverse=True)
        for priority in names:
            total = sum(worth[priority].values())
            entries = {v: w / total for v, w in worth[priority].items()}
            self.out.levels[f"goodput[{priority}]"] = entries, 0.0
        last = f"goodput[{names[-1]}]" if names else "goodput"
        entries, constant = self.out.levels.get(last, ({}, 0.0))
        self.out.levels[last] = {**entries, **in_service}, constant
