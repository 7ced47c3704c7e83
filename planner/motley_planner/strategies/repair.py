"""Puts back what was lost, moves nothing else: the plan every cleverer re-plan has to beat.

Survivors stay. Lost replicas are started again with the same configuration, largest first, where
GPUs are free (best fit); what no longer fits is dropped. Then requests are routed anew.
"""

from __future__ import annotations

import math
import time
from collections import Counter

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import Column, FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.inventory import Inventory, take_inventory
from motley_planner.formulations.program import has_demand
from motley_planner.strategies.finish import plan_counts
from motley_planner.strategies.views import NOTHING_FOUND, Counts, refuse


def solve(table: FleetTable) -> Solution:
    """The repaired plan; survivors stop only where they may not stay (budget, limits, lost room).

    Raises: SnapshotError without `previous`.
    """
    if table.previous is None:
        raise refuse("repair", "`previous`: what runs now")
    if table.objective == "max_min" and not has_demand(table):
        raise SnapshotError("objective", "max_min needs a class or cascade with a positive rate")
    deadline = time.monotonic() + table.time_limit_s
    inventory = take_inventory(table)
    survivors = Counter(r.column for r in inventory.survivors)
    again = _restarted(table, inventory, survivors)
    for extra in (again, Counter[str]()) if again else (again,):
        counts = _in_order(table, survivors + extra)
        plan = plan_counts(table, counts, _left(deadline), keep_all=True)
        if plan is not None:
            return plan
    return _shrunk(table, survivors, deadline) or NOTHING_FOUND


def _left(deadline: float) -> float:
    return 0.8 * (deadline - time.monotonic())


def _restarted(table: FleetTable, inventory: Inventory, running: Counter[str]) -> Counter[str]:
    """Lost replicas that find room again, by column."""
    columns = {c.id: c for c in table.columns}
    free = {h.node.name: h.free_gpus for h in inventory.held if not h.cordoned}
    homes = {h.node.name: h.node_class for h in inventory.held}
    for group in inventory.open_groups:
        free |= dict.fromkeys(group.names, group.gpus)
        homes |= dict.fromkeys(group.names, group.node_class)
    found: Counter[str] = Counter()
    for replica in sorted(inventory.lost, key=lambda r: -columns[r.column].gpus):
        column = columns[replica.column]
        trial = running + found + Counter([column.id])
        if _allowed(table, trial) and _take(column, free, homes):
            found[column.id] += 1
    return found


def _take(column: Column, free: dict[str, int], homes: dict[str, tuple[str, str]]) -> bool:
    """Takes best-fitting nodes for all fragments off `free`; nothing where one finds none."""
    taken: list[tuple[str, int]] = []
    for fragment in sorted(column.fragments, key=lambda f: -f.tp):
        fitting = [
            name
            for name, room in free.items()
            if room >= fragment.tp and homes[name] == (fragment.gpu, column.zone)
        ]
        if not fitting:
            for name, gpus in taken:
                free[name] += gpus
            return False
        best = min(fitting, key=lambda name: (free[name], name))
        free[best] -= fragment.tp
        taken.append((best, fragment.tp))
    return True


def _allowed(table: FleetTable, counts: Counter[str]) -> bool:
    """max_count, column prices within the budget, and side rows."""
    for column in table.columns:
        if column.max_count is not None and counts[column.id] > column.max_count:
            return False
    price = sum(c.price_usd_per_hour * counts[c.id] for c in table.columns)
    if price > (math.inf if table.budget_usd_per_hour is None else table.budget_usd_per_hour):
        return False
    for row in table.side_rows:
        amount = sum(n * counts[c] for c, n in row.per_replica.items())
        if row.at_most is not None and amount > row.at_most + 1e-9:
            return False
    return True


def _shrunk(table: FleetTable, survivors: Counter[str], deadline: float) -> Solution | None:
    """As many survivors as may stay, the dearest stopped first."""
    columns = {c.id: c for c in table.columns}
    left = survivors.copy()
    for name, count in survivors.items():
        if count < columns[name].min_count:
            left[name] = 0
    while True:
        if _allowed(table, left):
            plan = plan_counts(table, _in_order(table, left), _left(deadline))
            if plan is not None or not +left or time.monotonic() > deadline:
                return plan
        left = +left
        if not left:
            return None
        left[max(left, key=lambda c: (columns[c].price_usd_per_hour, columns[c].gpus, c))] -= 1


def _in_order(table: FleetTable, counts: Counter[str]) -> Counts:
    return tuple(counts[c.id] for c in table.columns)
