"""Guaranteed shares: what a tenant would get with its own slice of the fleet, it gets.

Theory of operation. A tenant with a share of 30 % is planned alone on an empty fleet, with at most
30 % of the GPUs (rounded down) and of each type (rounded up). What it can serve so is the least it
must be served in the common plan: others may use its GPUs, but only as long as it is served at
least as well as it could with them. The minimum is in served demand, not in GPUs, so a tenant that
asks for less leaves the rest to others, and no GPU is held only to be counted.

Where slices do not fit together (whole nodes, rounding), the shortfall is split and reported.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from motley_planner.domain.snapshot import Snapshot, Tenant
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import Column, FleetTable, Previous, SideRow
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.limits import demand_names

GUARANTEE_IMPORTANCE = 1000.0  # beside the shares of replicas that should rather not move
ROUNDING = 0.01  # of the guaranteed service that no replica need be added for
TIME_SHARE = 0.2  # of the time limit, for all tenants together
_GUARANTEE = "|guarantee "


def guarantee_rows(
    table: FleetTable, assembly: Assembly, snapshot: Snapshot, *, use_worker: bool
) -> tuple[SideRow, ...]:
    """A minimum of served demand for each tenant with a share, one a level of priority."""
    tenants = [t for t in snapshot.tenants if t.guaranteed_share > 0]
    rows: list[SideRow] = []
    for tenant in tenants:
        alone = _alone(table, assembly, snapshot, tenant)
        if not any(d.requests_per_second > 0 for d in alone.classes) and not alone.cascades:
            continue
        limit_s = table.time_limit_s * TIME_SHARE / len(tenants)
        found = solve_table(replace(alone, time_limit_s=limit_s), use_worker=use_worker)
        rows += _minimums(alone, found, tenant)
    return tuple(rows)


def is_guarantee(row: SideRow) -> bool:
    """Whether a row is the minimum of a tenant's guaranteed share."""
    return _GUARANTEE in row.name


def _minimums(alone: FleetTable, found: Solution, tenant: Tenant) -> list[SideRow]:
    """sum of weight x served requests/s >= what the tenant alone reached, by priority."""
    rows, short = [], found.unserved
    demands = [(c.name, c.priority, c.weight, c.requests_per_second) for c in alone.classes]
    demands += [(c.name, c.priority, c.weight, c.requests_per_second) for c in alone.cascades]
    for priority in sorted({p for _, p, _, rate in demands if rate > 0}, reverse=True):
        here = {n: (w, rate) for n, p, w, rate in demands if p == priority and rate > 0}
        if short is None:
            continue
        served = sum(w * (rate - short.get(n, 0.0)) for n, (w, rate) in here.items())
        if served > 0:
            rows.append(
                SideRow(
                    f"tenant {tenant.name}{_GUARANTEE}{priority}",
                    at_least=served * (1.0 - ROUNDING),
                    per_served={n: w for n, (w, _) in here.items()},
                    importance=GUARANTEE_IMPORTANCE,
                )
            )
    return rows


def _alone(table: FleetTable, assembly: Assembly, snapshot: Snapshot, tenant: Tenant) -> FleetTable:
    """The tenant's own part of the table, on its slice of the fleet, with nothing running."""
    assert table.previous is not None
    keys = {d.key for d in snapshot.demands if d.tenant == tenant.name}
    names = {n for d in snapshot.demands if d.key in keys for n in demand_names(d)}
    columns = tuple(c for c in table.columns if assembly.candidates[c.id].key in keys)
    models = {c.model for c in columns}
    kept = {c.id for c in columns}
    own = tuple(
        row
        for row in table.side_rows
        if row.name.split("|")[0] in keys
        and "|frozen|" not in row.name
        and set(row.per_replica) | {c for c, _ in row.per_rate} <= kept
    )
    slice_rows = _slice_rows(table, columns, tenant.guaranteed_share)
    return replace(
        table,
        classes=tuple(
            c if c.name in names else replace(c, requests_per_second=0.0)
            for c in table.classes
            if c.model in models
        ),
        columns=columns,
        cascades=tuple(c for c in table.cascades if c.name in names),
        side_rows=(*own, *slice_rows),
        scenarios=(),
        previous=Previous(nodes=table.previous.nodes),
        penalty_in_price=True,
    )


def _slice_rows(
    table: FleetTable, columns: tuple[Column, ...], share: float
) -> tuple[SideRow, ...]:
    """GPUs of each type, and of all: the tenant's share of what is there."""
    assert table.previous is not None
    there: Counter[str] = Counter()
    for node in table.previous.nodes:
        if node.name not in table.lost_nodes:
            there[node.gpu] += node.gpus
    rows = []
    for gpu, count in sorted(there.items()):
        held = {c.id: float(sum(f.tp for f in c.fragments if f.gpu == gpu)) for c in columns}
        rows.append(SideRow(f"slice|{gpu}", held, at_most=float(math.ceil(share * count - 1e-9))))
    total = float(max(1, math.floor(share * sum(there.values()) + 1e-9)))
    rows.append(SideRow("slice", {c.id: float(c.gpus) for c in columns}, at_most=total))
    return tuple(rows)
