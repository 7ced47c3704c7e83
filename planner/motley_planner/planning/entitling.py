"""Who may be stopped for whom: running work yields only to what is entitled to more.

Theory of operation. Levels of service are sums: where room is short, a plan that takes everything from one resource
to serve another a little more looks better. For what runs that is no reason to end. It gives way
to a higher priority, to a tenant of a larger weight, and to a tenant that is served less than it is guaranteed;
a newcomer of the same standing waits for room. What somebody edited yields what the edit frees.

A guarantee that is not met is made good by one more solve in which nothing is held, those below their
guarantee get no more than it, and nobody else more than now: so others lose no more than they owe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from motley_planner.domain.demand import RlDemand
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable, SideRow
from motley_planner.planning.assemble import tenant_weight
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.comparing import rank_of, slack_of_services
from motley_planner.planning.tenants import ROUNDING, is_guarantee

LEAST_LOSS = 1e-3  # of a resource's rate; below it nobody is served less


def missing(solution: Solution, assembly: Assembly, snapshot: Snapshot) -> dict[str, float]:
    """Share of what each resource asks for that the solution does not serve, 0..1 a class, by key."""
    unserved = solution.unserved or {}
    found: dict[str, float] = {demand.key: 0.0 for demand in snapshot.demands}
    for name, rate in unserved.items():
        for demand in snapshot.demands:
            if name == demand.key or name.startswith(f"{demand.key}/"):
                asked = assembly.asked(demand)
                found[demand.key] += rate / asked if asked else 0.0
    return found


def robs(one: Solution, held: Solution, assembly: Assembly, snapshot: Snapshot) -> bool:
    """Whether `one` takes from what runs, beside `held`, and gives to none that is entitled to more."""
    runs = {unit.key for unit in snapshot.running} - snapshot.edited
    before, after = missing(held, assembly, snapshot), missing(one, assembly, snapshot)
    standing = {
        demand.key: (
            rank_of(demand),
            0.0 if isinstance(demand, RlDemand) else tenant_weight(snapshot, demand),
        )
        for demand in snapshot.demands
    }
    gains = [standing[k] for k, share in after.items() if share < before[k] - LEAST_LOSS]
    most = max(gains, default=(-1, 0.0))
    return any(
        share > before[key] + LEAST_LOSS and standing[key] >= most
        for key, share in after.items()
        if key in runs
    )


def owed(solution: Solution, table: FleetTable) -> dict[str, float]:
    """Share of each guarantee that the solution does not give, by the name of its row."""
    least = {row.name: row.at_least for row in table.side_rows if is_guarantee(row)}
    return {
        short.what: short.how_much / asked
        for short in solution.shortfalls
        if (asked := least.get(short.what))
    }


def pays(one: Solution, held: Solution, table: FleetTable, snapshot: Snapshot) -> bool:
    """Whether `one` makes good what `held` owes of some guarantee, and owes no other clearly more."""
    before, after = owed(held, table), owed(one, table)
    slack = slack_of_services(snapshot)
    gains = any(share > after.get(name, 0.0) + slack for name, share in before.items())
    return gains and not any(s > before.get(name, 0.0) + slack for name, s in after.items())


def as_owed(table: FleetTable, held: Solution) -> FleetTable:
    """The table in which tenants below their guarantee get that, and nobody more than in `held`."""
    short = held.unserved or {}
    debts = owed(held, table)
    rows, owners = list(table.side_rows), set[str]()
    for row in table.side_rows:
        if row.name in debts and row.at_least is not None:
            owners |= set(row.per_served)
            most = row.at_least / (1.0 - ROUNDING)
            rows.append(replace(row, name=f"{row.name}|most", at_least=None, at_most=most))
    rows += [
        SideRow(f"{name}|most", at_most=rate - short[name], per_served={name: 1.0})
        for name, rate in _rates(table).items()
        if short.get(name, 0.0) > LEAST_LOSS * rate and name not in owners
    ]
    return replace(table, side_rows=tuple(rows))


def _rates(table: FleetTable) -> Mapping[str, float]:
    found = {one.name: one.requests_per_second for one in table.classes}
    found |= {one.name: one.requests_per_second for one in table.cascades}
    return {name: rate for name, rate in found.items() if rate > 0}
