"""The best plan of a tiny table by enumeration: every set of survivors, every multiset of new
replicas, placed by search, rates by an LP of scipy. Shares no code with the formulations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product

from motley_planner.checker.best_rates import Counts, Rates, Unbounded
from motley_planner.checker.recourse import served_in
from motley_planner.domain.table import Column, FleetTable, RunningReplica, TableNode

WITHOUT_END = 1e9  # a scale that a scenario is asked for to see how far it goes

__all__ = ["Unbounded", "best_value", "fits"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Replicas without rates: counts by column, price of everything, P."""

    counts: Counts
    price: float
    penalty: float


def best_value(table: FleetTable) -> tuple[float, ...] | None:
    """Level values of the best plan (minimums first if there are any); None where min_cost cannot.

    Levels are those of the table's objective, all turned so that more is better.

    Raises: Unbounded where max_min has no largest scale.
    """
    rates = Rates(table)
    best: tuple[float, ...] | None = None
    for choice in _choices(table):
        service = rates.best(choice.counts, _most_scale(table, choice.counts))
        if service is None:
            continue
        values = _values(table, choice, service)
        if best is None or _better(values, best):
            best = values
    return best


def _values(table: FleetTable, choice: Choice, service: tuple[float, ...]) -> tuple[float, ...]:
    """Level values: minimums, service, what scenarios miss, price."""
    head = service[:1] if _has_minimums(table) else ()
    service = service[len(head) :]
    in_price = choice.price + (choice.penalty if table.penalty_in_price else 0.0)
    in_service = 0.0 if table.penalty_in_price else choice.penalty
    counts = {c.id: n for c, n in zip(table.columns, choice.counts, strict=True)}
    if table.objective == "max_min":
        scale = service[-1]
        return (*head, scale - in_service, *((-in_price,) if table.penalty_in_price else ()))
    missing: dict[str, float] = {}
    held = [(s, served_in(table, s, counts)) for s in table.scenarios]
    for scenario, share in held:
        most = missing.get(scenario.name, 0.0)
        missing[scenario.name] = max(most, scenario.share - share)
    kept = (-sum(missing.values()),) if table.scenarios else ()
    if table.objective == "min_cost":
        return (*head, *kept, -choice.price - choice.penalty)
    return (*head, *service[:-1], service[-1] - in_service, *kept, -in_price)


def _most_scale(table: FleetTable, given: Counts) -> float:
    """The scale of max_min that all scenarios hold with these counts; infinite for other levels."""
    if table.objective != "max_min":
        return math.inf
    counts = {c.id: n for c, n in zip(table.columns, given, strict=True)}
    scales = [
        served_in(table, replace(s, share=WITHOUT_END), counts) / s.share for s in table.scenarios
    ]
    most = min(scales, default=math.inf)
    return most if most < WITHOUT_END else math.inf


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
            gone = sum(table.columns[columns[r.column]].gpus for r in survivors if r not in kept)
            used = frozenset(name for r in kept for name in r.nodes)
            for roles in product(*(dict.fromkeys((r.column, *r.flips_to)) for r in kept)):
                base, flipped = [0] * len(table.columns), 0
                for replica, role in zip(kept, roles, strict=True):
                    base[columns[role]] += 1
                    flipped += table.columns[columns[role]].gpus * (role != replica.column)
                moved = table.penalty_per_stopped_gpu * gone
                moved += table.penalty_per_flipped_gpu * flipped
                yield from _with_new(table, nodes, (free, used), (tuple(base), moved))


def _with_new(
    table: FleetTable,
    nodes: list[TableNode],
    room: tuple[dict[str, int], frozenset[str]],
    base: tuple[Counts, float],
) -> Iterator[Choice]:
    """All multisets of new replicas that fit, each with the cheapest nodes that hold it."""
    columns, (free, _), (kept, moved) = table.columns, room, base
    open_nodes = [n for n in nodes if n.name not in table.cordoned_nodes]
    limits = [_limit(c, open_nodes, free) for c in columns]
    for new in product(*(range(limit + 1) for limit in limits)):
        counts = tuple(a + b for a, b in zip(kept, new, strict=True))
        if any(
            (c.max_count is not None and n > c.max_count) or 0 < n < c.min_count
            for c, n in zip(columns, counts, strict=True)
        ):
            continue
        node_price = _cheapest(columns, new, (nodes, open_nodes), room)
        if node_price is None:
            continue
        price = node_price + sum(
            n * c.price_usd_per_hour for n, c in zip(counts, columns, strict=True)
        )
        if table.budget_usd_per_hour is not None and price > table.budget_usd_per_hour + 1e-9:
            continue
        started = sum(n * c.gpus for n, c in zip(new, columns, strict=True))
        yield Choice(counts, price, table.penalty_per_started_gpu * started + moved)


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
    nodes: tuple[list[TableNode], list[TableNode]],
    room: tuple[dict[str, int], frozenset[str]],
) -> float | None:
    (every, open_nodes), (free, used) = nodes, room
    wanted = tuple(
        sorted(
            (f.gpu, c.zone, f.tp)
            for c, n in zip(columns, new, strict=True)
            for f in c.fragments
            for _ in range(n)
        )
    )
    price_of = {n.name: n.price_usd_per_hour or 0.0 for n in every}
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


def _nodes(table: FleetTable) -> list[TableNode]:
    found: list[TableNode] = []
    if table.previous is not None:
        return _bought(table) + [n for n in table.previous.nodes if n.name not in table.lost_nodes]
    for i, group in enumerate(table.nodes):
        assert group.count is not None, "the oracle needs finite inventory"
        for j in range(group.count):
            price = group.price_usd_per_hour
            found.append(TableNode(f"{i}/{j}", group.gpu, group.zone, group.gpus, price))
    return found


def _bought(table: FleetTable) -> list[TableNode]:
    """Nodes that could be added; waiting for one counts as if it were part of its price."""
    found = []
    for shape in table.purchasable:
        assert shape.count is not None, "the oracle needs finite inventory"
        price = (shape.price_usd_per_hour or 0.0) + shape.delay_usd_per_hour
        for j in range(shape.count):
            name = f"+{shape.name}/{j}"
            found.append(TableNode(name, shape.gpu, shape.zone, shape.gpus, price))
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
