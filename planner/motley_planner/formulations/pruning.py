"""The columns that a very short time limit leaves time for: the best of each class by its costs.

Formulating 100,000 columns takes longer than a limit of a second. Where it would take more than
a share of the limit, the columns are cut to those that serve most per GPU and per USD, class by
class, phase by phase and GPU by GPU; what runs stays. A plan of the rest is a plan of the table;
bounds proved on the rest are not, and are dropped but for what variables' bounds say.
"""

from __future__ import annotations

import math
from dataclasses import replace
from heapq import nsmallest

from motley_planner.domain.table import FleetTable
from motley_planner.formulations.cheap_bounds import Cost, Kind, Kinds, cheap_bound
from motley_planner.solver import Job, Outcome
from motley_planner.solver.clock import CLOCK

FEW = 4000  # columns that are always formulated
COLUMN_S = (
    4e-5  # measured: seconds to formulate a column of two classes, its start and its transfer
)
SHARE = 0.7  # of the limit that formulating may take
BEST = 6  # columns of each class, kind and cost that stay


def pruned(table: FleetTable) -> tuple[FleetTable, Kinds]:
    """The table, or one with the best of its columns where there is no time to look at all.

    With it what a request of each class takes of the columns; nothing where all of them stay.
    """
    number = len(table.columns)
    likely_s = number * COLUMN_S * CLOCK.slowness
    if number <= FEW or likely_s <= SHARE * table.time_limit_s:
        return table, {}
    if table.side_rows or table.scenarios:
        return table, {}  # they name columns
    kinds = _kinds(table)
    kept = best_columns(table, kinds)
    return replace(table, columns=tuple(table.columns[i] for i in sorted(kept))), kinds


def best_columns(table: FleetTable, kinds: Kinds | None = None) -> set[int]:
    """The columns that serve most per GPU or per USD, by class, phase, zone and GPU, and what runs."""
    told = _kinds(table) if kinds is None else kinds
    every = (entries for pair in told.values() for entries in pair)
    kept = {i for entries in every for _, i in nsmallest(BEST, entries)}
    if table.previous is not None:
        runs = {c for r in table.previous.replicas for c in (r.column, *r.flips_to)}
        kept |= {i for i, column in enumerate(table.columns) if column.id in runs}
    return kept


def unproved(
    table: FleetTable, kinds: Kinds, outcome: Outcome, job: Job, *, in_units: bool
) -> None:
    """Takes back what was proved of the best columns alone.

    Bounds by the variables' own bounds and by what requests take at least (cheap_bounds.py) hold for
    all columns, where the program is `in_units` of the table.
    """
    from motley_planner.solver.relaxing import highest_value  # HiGHS with it

    highest = {number: highest_value(job.milp, level) for number, level in enumerate(job.levels)}
    certain = {number: bound for number, bound in highest.items() if math.isfinite(bound)}
    outcome.bounds = certain if in_units else {}
    told = cheap_bound(table, kinds) if in_units else None
    if told is not None:
        bound = -told if job.levels[0].name == "price" else told
        outcome.bounds[0] = min(bound, outcome.bounds.get(0, math.inf))
    if outcome.status == "infeasible":
        outcome.status = "none"


def _kinds(table: FleetTable) -> Kinds:
    """GPUs and USD/h that a request/s takes of each column that fits on a node."""
    found: dict[Kind, tuple[list[Cost], list[Cost]]] = {}
    widest = _widest(table)
    for i, column in enumerate(table.columns):
        zone, price, gpus = column.zone, column.price_usd_per_hour, 0
        for fragment in column.fragments:
            gpus += fragment.tp
            if fragment.tp > widest.get((fragment.gpu, zone), 0):
                break
        else:
            gpu, several = column.fragments[0].gpu, len(column.fragments) > 1
            for name, rate in column.requests_per_second.items():
                if rate > 0:
                    kind = (name, column.phase, zone, gpu, several)
                    if kind not in found:
                        found[kind] = [], []
                    by_gpu, by_price = found[kind]
                    by_gpu.append((gpus / rate, i))
                    by_price.append((price / rate, i))
    return found


def _widest(table: FleetTable) -> dict[tuple[str, str], int]:
    """Node class -> GPUs of its largest node."""
    found: dict[tuple[str, str], int] = {}
    previous = table.previous
    nodes = [(n.gpu, n.zone, n.gpus) for n in table.nodes]
    if previous is not None:
        nodes = [(n.gpu, n.zone, n.gpus) for n in previous.nodes]
        nodes += [(n.gpu, n.zone, n.gpus) for n in table.purchasable]
    for gpu, zone, gpus in nodes:
        found[gpu, zone] = max(gpus, found.get((gpu, zone), 0))
    return found
