"""Tables seen as a strategy wants them: without what runs, fewer columns, one policy a cascade."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import Column, FleetTable, NodeGroup
from motley_planner.errors import SnapshotError

Counts = tuple[int, ...]
NOTHING_FOUND = Solution(status="no_solution")


def refuse(strategy: str, needs: str) -> SnapshotError:
    """The error of a strategy that does not apply to a table."""
    return SnapshotError("strategy", f"{strategy!r} needs {needs}; use another, such as 'exact'")


def from_scratch(table: FleetTable) -> FleetTable:
    """The table as if nothing ran: nodes in service or for sale as groups, moves for free."""
    if table.previous is None:
        return table
    closed = table.lost_nodes | table.cordoned_nodes
    sizes = Counter(
        (n.gpu, n.zone, n.gpus, n.price_usd_per_hour)
        for n in table.previous.nodes
        if n.name not in closed
    )
    nodes = [
        NodeGroup(gpu, zone, gpus, count, price)
        for (gpu, zone, gpus, price), count in sizes.items()
    ]
    nodes += [
        NodeGroup(s.gpu, s.zone, s.gpus, s.count, s.price_usd_per_hour) for s in table.purchasable
    ]
    return replace(
        table,
        nodes=tuple(nodes),
        purchasable=(),
        previous=None,
        lost_nodes=frozenset(),
        cordoned_nodes=frozenset(),
        penalty_per_started_gpu=0.0,
        penalty_per_stopped_gpu=0.0,
    )


def only_columns(table: FleetTable, allowed: Collection[str]) -> FleetTable:
    """The table with no replicas of other columns; columns that run now stay listed, at 0."""
    keep = set(allowed) | running_columns(table)
    columns = tuple(
        c if c.id in allowed else replace(c, max_count=0) for c in table.columns if c.id in keep
    )
    return with_columns(table, columns)


def with_columns(table: FleetTable, columns: tuple[Column, ...]) -> FleetTable:
    """The table with these columns; side rows and scenarios lose the coefficients of others."""
    known = {c.id for c in columns}
    rows = tuple(
        replace(
            row,
            per_replica={c: n for c, n in row.per_replica.items() if c in known},
            per_rate={key: n for key, n in row.per_rate.items() if key[0] in known},
        )
        for row in table.side_rows
    )
    scenarios = tuple(
        replace(
            scenario,
            lost={c: n for c, n in scenario.lost.items() if c in known},
            thinned={c: n for c, n in scenario.thinned.items() if c in known},
        )
        for scenario in table.scenarios
    )
    return replace(table, columns=columns, side_rows=rows, scenarios=scenarios)


def running_columns(table: FleetTable) -> set[str]:
    """Ids of the columns that have a replica in `previous`, in whatever role it may go on."""
    replicas = table.previous.replicas if table.previous is not None else ()
    return {column for r in replicas for column in (r.column, *r.flips_to)}


def with_policies(table: FleetTable, chosen: Mapping[str, str]) -> FleetTable:
    """The table with one policy left (by id) for each cascade named."""
    cascades = tuple(
        replace(c, policies=tuple(p for p in c.policies if p.id == chosen[c.name]))
        if c.name in chosen
        else c
        for c in table.cascades
    )
    rows = tuple(
        replace(
            row,
            per_policy={
                (name, policy): n
                for (name, policy), n in row.per_policy.items()
                if chosen.get(name, policy) == policy
            },
        )
        for row in table.side_rows
    )
    return replace(table, cascades=cascades, side_rows=rows)


def gpu_types(table: FleetTable) -> tuple[str, ...]:
    """GPU types of the table's columns, sorted."""
    return tuple(sorted({f.gpu for c in table.columns for f in c.fragments}))


def unproved(solution: Solution) -> Solution:
    """A plan without the proofs that came with it: they are of a narrower table."""
    if solution.status not in ("optimal", "feasible"):
        return NOTHING_FOUND
    levels = tuple(replace(lv, bound=None, gap=None) for lv in solution.levels)
    return replace(solution, status="feasible", bound=None, gap=None, levels=levels)


def level_values(solution: Solution) -> tuple[float, ...] | None:
    """Values of a plan's levels, turned so that more is better; None where there is no plan."""
    if solution.status not in ("optimal", "feasible"):
        return None
    values = [lv.value if lv.value is not None else float("nan") for lv in solution.levels]
    signs = [-1.0 if lv.name == "price" else 1.0 for lv in solution.levels]
    return tuple(s * v for s, v in zip(signs, values, strict=True))


def is_better(
    one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float = 1e-9
) -> bool:
    """Whether the first list of level values beats the second, first difference first."""
    if one is None or other is None:
        return one is not None
    for a, b in zip(one, other, strict=True):
        if abs(a - b) > tolerance * max(1.0, abs(a), abs(b)):
            return a > b
    return False
