"""Solves a fleet table: formulate, search, decode, and fall back where there is no plan."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.decode import decode
from motley_planner.formulations.greedy import FEASIBLE, greedy_start
from motley_planner.formulations.program import Index, formulate, has_demand
from motley_planner.solver import Job, Milp, Outcome, solve
from motley_planner.solver.milp import Floats

MARGIN_S = 0.05  # kept back for decoding


def solve_table(table: FleetTable, *, use_worker: bool = True) -> Solution:
    """The best plan found for a table within its time limit, with bounds.

    With `use_worker` HiGHS runs in a process of its own that is killed at the limit; in-process
    solving saves that process's start (0.2 s) and is for tests and small tables.

    Raises: SnapshotError where the table contradicts itself, or where max_min has no largest scale
    (no positive demand, or nothing limits it).
    """
    started = time.monotonic()
    if table.objective == "max_min" and not has_demand(table):
        raise SnapshotError("objective", "max_min needs a class or cascade with a positive rate")
    milp, index = formulate(table)
    most = index.scale_limit
    if (index.demand.chosen or index.demand.tiers) and not math.isfinite(most):
        most = _largest_scale(table, use_worker)
        milp, index = formulate(table, most=most)
    relaxed = None if index.packing.exact else formulate(table, "relaxed", most)[0]
    left = table.time_limit_s - (time.monotonic() - started) - MARGIN_S
    job = Job(
        milp=milp,
        levels=index.levels,
        relaxed=relaxed,
        starts=tuple(_starts(milp, index)),
        time_limit_s=max(0.01, left),
        relative_gap=table.relative_gap,
    )
    outcome = solve(job, use_worker=use_worker)
    solution = _read(index, job, outcome)
    if solution is None:
        left = table.time_limit_s - (time.monotonic() - started)
        solution = _best_effort(table, left, use_worker)
    return replace(solution, solve_seconds=time.monotonic() - started)


def _read(index: Index, job: Job, outcome: Outcome) -> Solution | None:
    """The plan of an outcome; None where min_cost is proved infeasible."""
    if outcome.status == "unbounded":
        raise _unbounded()
    if outcome.x is None and job.starts and outcome.status != "infeasible":
        outcome.x = max(job.starts, key=lambda s: [level.value_of(s) for level in job.levels])
    if outcome.x is not None:
        return decode(index, outcome, index.table.relative_gap)
    if outcome.status == "infeasible" and index.table.objective == "min_cost":
        return None
    return Solution(status="no_solution")


def _unbounded() -> SnapshotError:
    return SnapshotError(
        "objective", "max_min is unbounded: nothing limits it; give nodes a count or a budget"
    )


def _largest_scale(table: FleetTable, use_worker: bool) -> float:
    """A bound on max_min's scale where one-hot cascades need one and no class gives any.

    Mixtures of the policies that meet the floor are a relaxation of one-hot, and unbounded only
    where each policy in the mixture alone is.
    """
    cascades = tuple(
        replace(
            c, mixture=True, policies=tuple(p for p in c.policies if p.quality >= c.quality_floor)
        )
        if not c.mixture
        else c
        for c in table.cascades
    )
    wider = replace(
        table,
        cascades=cascades,
        penalty_per_started_gpu=0.0,
        penalty_per_stopped_gpu=0.0,
        penalty_in_price=False,
    )
    milp, index = formulate(wider, "relaxed")
    job = Job(milp, index.levels[-1:], time_limit_s=table.time_limit_s / 4, relative_gap=0.01)
    outcome = solve(job, use_worker=use_worker)
    if outcome.status == "unbounded":
        raise _unbounded()
    return outcome.bounds.get(0, 1e6)


def _best_effort(table: FleetTable, left: float, use_worker: bool) -> Solution:
    """What min_cost gives where not everything can be served: the best max_min plan."""
    if not has_demand(table):
        return Solution(status="no_solution")
    again = replace(table, objective="max_min", penalty_in_price=False, time_limit_s=max(0.2, left))
    found = solve_table(again, use_worker=use_worker)
    if found.status == "no_solution":
        return found
    return replace(found, status="infeasible", objective=None, bound=None, gap=None, levels=())


def _starts(milp: Milp, index: Index) -> list[Floats]:
    """Points that are plans by construction: keep what runs or stop it, each also filled up."""
    found = []
    for keep in (True, False):
        x = np.zeros(milp.num_cols)
        _set_kept(index, x, keep)
        _set_minimums(index, x)
        _set_indicators(index, x)
        if milp.violation(x) <= FEASIBLE:
            found.append(x)
        greedy = greedy_start(milp, index, x)
        if greedy is not None:
            found.append(greedy)
        if not index.packing.kept:
            break
    return found


def _set_kept(index: Index, x: Floats, keep: bool) -> None:
    taken: dict[str, float] = {}
    kept: dict[int, bool] = {}
    for group in index.packing.kept:
        x[group.variable] = len(group.replicas) if keep else 0
        kept |= dict.fromkeys(group.replicas, keep)
    for held in index.inventory.held:
        name = held.node.name
        taken[name] = sum(tp for replica, tp in held.residents if kept[replica])
        if name in index.packing.held_used and taken[name]:
            x[index.packing.held_used[name]] = 1
    gpus = {h.node.name: h.node.gpus for h in index.inventory.held}
    for (name, q), variable in index.packing.slots.items():
        unused = name in index.packing.held_used and not taken[name]
        x[variable] = 0 if unused else max(0, (gpus[name] - taken[name]) // q)


def _set_minimums(index: Index, x: Floats) -> None:
    """Shortfalls of a point without rates; what lapses when all is served does not lapse here."""
    asked = {row.name: row for row in index.table.side_rows}
    column = {c.id: i for i, c in enumerate(index.table.columns)}
    for name, variable in index.lacking.items():
        row = asked[name]
        have = sum(
            amount * x[g.variable]
            for c, amount in row.per_replica.items()
            for g in index.packing.kept_of(column[c])
        )
        x[variable] = max(0.0, (row.at_least or 0.0) - have)


def _set_indicators(index: Index, x: Floats) -> None:
    """Scenarios in which nothing is served, and columns in use."""
    for name, variable in index.recourse.missing.items():
        x[variable] = index.recourse.shares[name]
    x[index.recourse.spread] = 1.0
    for i, used in index.counts.used.items():
        x[used] = float(sum(x[v] for v in index.counts.variables[i]) > 0.5)
