"""Solves a fleet table: formulate, search, decode, and fall back where there is no plan."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from motley_planner.calling_off import go_on
from motley_planner.collection import no_collection
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import CascadeDemand, CascadePolicy, FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.blocking import Asking
from motley_planner.formulations.decode import decode
from motley_planner.formulations.finishing import (
    keep_instead,
    keep_roles,
    keep_together,
    leave_out_idle,
)
from motley_planner.formulations.gains import widen
from motley_planner.formulations.handing_over import hand_over
from motley_planner.formulations.normalizing import normalized, restored
from motley_planner.formulations.program import Index, formulate, has_demand
from motley_planner.formulations.pruning import pruned, unproved
from motley_planner.formulations.starts import filled_up, find_starts
from motley_planner.solver import Job, Outcome, a_worker, solve
from motley_planner.solver.clock import CLOCK

# Kept back for clean rates and the placement, which take as long as the formulation did and more.
MARGIN_S, MARGIN_SHARE = 0.07, 0.2  # at least, but no larger share of the limit
FILL_SECONDS = 0.3  # for the rates of a plan that was filled up: most of it starts a process
UNSERVED = 1e-6  # share of a demand
ASKING_S, ASKING_SHARE = 0.3, 0.1  # for what limits shortfalls: at most, and of the limit
LEFT_SHARE, LEAST_ASKING = 0.9, 0.3  # it gets no more of what is left, and no less of itself
ASKING_MARGIN = 0.7  # kept back for it, as a multiple: it seldom needs all
ALL_THE_TIME = 0.9  # share of a search's time that it leaves nothing of: a step would not fit
REPLAN_PATIENCE_S = 0.5  # a re-plan ends when it has gained nothing for this long (and for as long
# as the last gain took): what runs waits for it


@np.errstate(over="ignore")  # next to no capacity, or demand: costs and ratios without end are inf
def solve_table(table: FleetTable, *, use_worker: bool = True) -> Solution:
    """The best plan found for a table within its time limit, with bounds.

    With `use_worker` HiGHS runs in a process of its own that is killed at the limit; in-process
    solving saves that process's start (0.2 s) and is for tests and small tables.

    Raises: SnapshotError where the table contradicts itself, or where max_min has no largest scale
    (no positive demand, or nothing limits it). CalledOff.
    """
    go_on()
    started = CLOCK.now()
    if table.objective == "max_min" and not has_demand(table):
        raise SnapshotError("objective", "max_min needs a class or cascade with a positive rate")
    with no_collection():
        part, kinds = pruned(table)
    index, outcome, job = _search(part, started, use_worker)
    if part is not table:
        unproved(table, kinds, outcome, job, in_units=index.table is part)
    if table.objective == "goodput":
        _fill_up(index, outcome, job, use_worker)
    if outcome.x is not None:
        outcome.x = keep_instead(job, index, outcome.x)
        if not outcome.is_proved(job):
            outcome.x = leave_out_idle(job, index, outcome.x)
            outcome.x = hand_over(job, index, outcome.x)
        if index.packing.flips:
            outcome.x = keep_roles(job, index, outcome.x)
        outcome.x = keep_together(job, index, outcome.x)
    left = table.time_limit_s - (CLOCK.now() - started)
    solution = _read(index, job, outcome, left, use_worker)
    if solution is None:
        left = table.time_limit_s - (CLOCK.now() - started)
        solution = _best_effort(table, left, use_worker)
    solution = restored(solution, part, index.table)
    cut_short = outcome.out_of_time and solution.status in ("feasible", "no_solution")
    return replace(solution, solve_seconds=CLOCK.now() - started, cut_short=cut_short)


def _search(table: FleetTable, started: float, use_worker: bool) -> tuple[Index, Outcome, Job]:
    """The program, and what the search made of it; the worker starts while the program is made."""
    with a_worker() if use_worker else nullcontext() as worker:
        with no_collection():
            index, job = _prepare(table, started, use_worker)
        began = CLOCK.now()
        outcome = solve(job, use_worker=False) if worker is None else worker.solve(job)
    outcome.out_of_time = CLOCK.now() - began >= ALL_THE_TIME * job.time_limit_s
    return index, outcome, job


def _fill_up(index: Index, outcome: Outcome, job: Job, use_worker: bool) -> None:
    """Adds replicas to a plan for what a search cut short has left, where any level gains by it."""
    if outcome.x is None or outcome.is_proved(job):
        return
    short = any(outcome.x[v] < 1.0 - UNSERVED for v in index.demand.served.values())
    more = filled_up(job.milp, index, outcome.x) if short else None
    if more is None:
        return
    rates = replace(job, starts=(more,), rates_only=True, time_limit_s=FILL_SECONDS)
    filled = solve(rates, use_worker=use_worker).x
    if filled is not None and job.values_of(filled) > job.values_of(outcome.x):
        outcome.x = filled


def _prepare(table: FleetTable, started: float, use_worker: bool) -> tuple[Index, Job]:
    """The program of a table with points to begin from."""
    milp, index = formulate(table)
    proportionate = normalized(index)
    if proportionate is not table:
        table = proportionate
        milp, index = formulate(table)
    most = index.scale_limit
    if (index.demand.chosen or index.demand.tiers) and not math.isfinite(most):
        most = _largest_scale(table, use_worker)
        milp, index = formulate(table, most=most)
    relaxed = None if index.packing.exact else widen(milp, index.packing.gains)
    starts = tuple(find_starts(milp, index))
    spent = CLOCK.now() - started
    margin = max(MARGIN_S, spent, ASKING_MARGIN * _asking_s(table.time_limit_s))
    margin = min(margin, MARGIN_SHARE * table.time_limit_s)
    left = table.time_limit_s - spent - margin
    return index, Job(
        milp=milp,
        levels=index.levels,
        relaxed=relaxed,
        blocks=index.blocks,
        starts=starts,
        time_limit_s=max(0.01, left),
        relative_gap=table.relative_gap,
        patience_s=REPLAN_PATIENCE_S if index.inventory.survivors else math.inf,
    )


def _read(
    index: Index, job: Job, outcome: Outcome, left_s: float, use_worker: bool
) -> Solution | None:
    """The plan of an outcome; None where min_cost is proved infeasible."""
    if outcome.status == "unbounded":
        raise _unbounded()
    if outcome.x is None and job.starts and outcome.status != "infeasible":
        outcome.x = max(job.starts, key=lambda s: [level.value_of(s) for level in job.levels])
    if outcome.x is not None:
        wanted_s = _asking_s(job.time_limit_s)
        asking_s = max(LEAST_ASKING * wanted_s, min(wanted_s, LEFT_SHARE * left_s))
        asking = Asking(job.milp, use_worker, asking_s if outcome.finished else 0.0)
        return decode(index, outcome, index.table.relative_gap, asking)
    if outcome.status == "infeasible" and index.table.objective == "min_cost":
        return None
    return Solution(status="no_solution")


def _asking_s(limit_s: float) -> float:
    return min(ASKING_S, ASKING_SHARE * limit_s)


def _unbounded() -> SnapshotError:
    return SnapshotError(
        "objective", "max_min is unbounded: nothing limits it; give nodes a count or a budget"
    )


def _largest_scale(table: FleetTable, use_worker: bool) -> float:
    """A bound on max_min's scale where one-hot cascades or tiers need one and no class gives any.

    Mixtures of the policies that meet the floor, of whatever tier, are a relaxation of one-hot, and
    unbounded only where each policy in the mixture alone is.
    """
    cascades = tuple(replace(c, mixture=True, policies=_untiered(c)) for c in table.cascades)
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


def _untiered(cascade: CascadeDemand) -> tuple[CascadePolicy, ...]:
    """The policies without tiers; of a one-hot cascade those that meet the floor."""
    able = (p for p in cascade.policies if cascade.mixture or p.quality >= cascade.quality_floor)
    return tuple(replace(p, tier="") for p in able)
