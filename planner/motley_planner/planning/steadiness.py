"""What may be moved of what runs: as little as serves as much, unless money clearly says otherwise.

After a loss `mending` comes first, and mostly is enough; on a large fleet after an edit, too. Else a solve in which everything may move
says how much can be served. Then come the rungs of a ladder, each of which may move more than the
one before and only adds around what it holds:

    0. nothing is stopped, if that is enough            (after an edit)
    1. only what somebody edited may be rebuilt         (after a loss: the repair)
    2. the resources that are short may be rebuilt
    3. ... and the jobs that stand behind them in priority
    4. ... and everything that stands behind them

Money has rules of its own (`money.py`): what cools down stays, and few replicas stop at a time.

(A resource is short where its level of service stays behind the free plan's.)

No rung stops more than a few survivors: 5 % of them after a loss, else a quarter, or two replicas,
besides those of what somebody edited. Only where services gain as clearly as for the free plan is one more
solve asked, in which as much as is needed of what stands behind them in priority may stop. The first rung that serves as much as the free plan is carried out. In a steady
snapshot (a loss, a restart, an edit) nothing more is moved while no bound says that a rung which was cut short serves less: it
is sought again in more time (the caller's part). The free plan itself is taken
only if services gain clearly by it over every rung, or if it serves as much for
a price lower by `min_improvement`, moving included; a job's pace alone never moves a service. A
steady snapshot asks for service only and leaves money for a better moment. So a
solver that stops early never reshuffles a fleet for its own noise, and the same facts again give
the same plan. The bounds published are the free solve's, which hold for all of them.
"""

from __future__ import annotations

from dataclasses import replace

from motley_planner.domain.demand import Demand, RlDemand
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.choosing import choose, with_bounds
from motley_planner.planning.comparing import (
    first_short,
    loses,
    may_catch_up,
    rank_of,
    serves_clearly_more,
)
from motley_planner.planning.editing import is_enough
from motley_planner.planning.entitling import as_owed, missing, pays, robs
from motley_planner.planning.mending import mend
from motley_planner.planning.money import for_money
from motley_planner.planning.survivors import every_key, holding_but, most_stopped

LEFT_SHARE = 0.5  # of the time limit at least, where mending was tried in vain
STILL_SHARE = 0.4  # of the time that the free solve leaves
FREE_SHARE = 0.45  # of the time limit; the rungs are small and share the rest
RUNG_SHARE = 0.6  # of the time left, for a rung that others may follow
UNSERVED_SHARE = 1e-3  # of a resource's rate; above it the resource is short
LEAST_RUNG_S = 0.1  # a solve that the ladder left no time for
NO_TIME_S = 0.01  # for the first rung at least: what runs and what greed adds is a plan


def solve_steadily(
    table: FleetTable, assembly: Assembly, snapshot: Snapshot, *, use_worker: bool
) -> Solution:
    """The solution to carry out; `no_solution` only where no solve found one."""
    if table.previous is None or not table.previous.replicas:
        return solve_table(table, use_worker=use_worker)
    mended, spent_s = mend(table, assembly, snapshot, use_worker=use_worker)
    if mended is not None:
        return mended
    limit_s = max(LEFT_SHARE * table.time_limit_s, table.time_limit_s - spent_s)
    solution = _climb(replace(table, time_limit_s=limit_s), assembly, snapshot, use_worker)
    return replace(solution, solve_seconds=solution.solve_seconds + spent_s)


def _climb(table: FleetTable, assembly: Assembly, snapshot: Snapshot, use_worker: bool) -> Solution:
    """The free solve, then the rungs."""
    limit_s = table.time_limit_s
    free = solve_table(replace(table, time_limit_s=limit_s * FREE_SHARE), use_worker=use_worker)
    spent_s, best, cut_short = free.solve_seconds, None, free.cut_short
    still: Solution | None = None
    if snapshot.edited:
        rung = holding_but(table, assembly, frozenset())
        still = solve_table(
            replace(rung, time_limit_s=max(LEAST_RUNG_S, (limit_s - spent_s) * STILL_SHARE)),
            use_worker=use_worker,
        )
        spent_s, cut_short = spent_s + still.solve_seconds, cut_short or still.cut_short
        table = replace(table, start=still.placement or table.start)
    everything = every_key(snapshot)
    released: frozenset[str] | None = snapshot.edited
    unsure = False
    while released is not None and (best is None or limit_s - spent_s >= LEAST_RUNG_S):
        left_s = (limit_s - spent_s) * (RUNG_SHARE if released != everything else 1.0)
        rung = holding_but(table, assembly, released)
        rung = replace(rung, time_limit_s=max(NO_TIME_S, left_s))
        if best is not None:
            rung = replace(rung, most_stopped=most_stopped(table, assembly, snapshot))
        held = solve_table(rung, use_worker=use_worker)
        spent_s, cut_short = spent_s + held.solve_seconds, cut_short or held.cut_short
        if held.status == "no_solution":
            break
        # A rung that may move more must serve clearly more than the one before.
        serves_more = best is None or first_short(best, held, snapshot) is not None
        if best is None or (serves_more and not robs(held, best, assembly, snapshot)):
            best = held
        # What is steady moves more only where it is shown that less is served without.
        unsure = snapshot.steady and held.cut_short and may_catch_up(held, free, snapshot)
        released = None if unsure else _next_rung(released, held, free, snapshot, assembly)
    if best is not None and not unsure:
        timed = replace(table, time_limit_s=limit_s - spent_s)
        taking = _taking(timed, assembly, snapshot, (best, free), use_worker)
        if taking is not None:
            spent_s, cut_short = spent_s + taking.solve_seconds, cut_short or taking.cut_short
            best = taking if _preempts(taking, best, free, assembly, snapshot) else best
    # A rung that there was no time for might have been better.
    cut_short = cut_short or (released is not None and limit_s - spent_s < LEAST_RUNG_S)
    if still is not None and is_enough(still, best, assembly, snapshot):
        best = still
    if still is not None and best is not None and loses(best, still, snapshot):
        best = still
    chosen = with_bounds(best, free) if unsure and best else choose(best, free, assembly, snapshot)
    if best is not None and chosen is free and first_short(best, free, snapshot) is None:
        timed = replace(table, time_limit_s=limit_s - spent_s)
        chosen, more_s = for_money(timed, assembly, snapshot, (best, free), use_worker)
        spent_s += more_s
    if pays(free, chosen, table, snapshot):
        due = replace(as_owed(table, chosen), time_limit_s=max(LEAST_RUNG_S, limit_s - spent_s))
        paid = solve_table(due, use_worker=use_worker)
        spent_s, cut_short = spent_s + paid.solve_seconds, cut_short or paid.cut_short
        if paid.status != "no_solution" and pays(paid, chosen, table, snapshot):
            chosen = with_bounds(paid, free)
    cut_short = cut_short and chosen.status == "feasible"
    return replace(chosen, solve_seconds=spent_s, cut_short=cut_short)


def _taking(
    table: FleetTable,
    assembly: Assembly,
    snapshot: Snapshot,
    plans: tuple[Solution, Solution],
    use_worker: bool,
) -> Solution | None:
    """The plan in which what is short takes whatever it needs of what stands behind it in priority.

    None where the free plan does not say that it would help clearly, or nothing stands behind.
    """
    best, free = plans
    rank = first_short(best, free, snapshot)
    if rank is None or not serves_clearly_more(free, best, rank, snapshot, preempting=True):
        return None
    short = {d.key for d in _short(snapshot, assembly, best) if rank_of(d) == rank}
    lower = {demand.key for demand in snapshot.demands if rank_of(demand) < rank}
    if not lower:
        return None
    rung = holding_but(table, assembly, frozenset(short | lower) | snapshot.edited)
    timed = replace(rung, time_limit_s=max(LEAST_RUNG_S, table.time_limit_s))
    return solve_table(timed, use_worker=use_worker)


def _preempts(
    taking: Solution, best: Solution, free: Solution, assembly: Assembly, snapshot: Snapshot
) -> bool:
    """Whether what the plan takes of lower priorities is worth it."""
    rank = first_short(best, free, snapshot)
    if rank is None or taking.status == "no_solution":
        return False
    gains = serves_clearly_more(taking, best, rank, snapshot, preempting=True)
    return gains and not robs(taking, best, assembly, snapshot)


def _next_rung(
    released: frozenset[str],
    held: Solution,
    free: Solution,
    snapshot: Snapshot,
    assembly: Assembly,
) -> frozenset[str] | None:
    """What may be moved next; None where nothing more would help."""
    rank = first_short(held, free, snapshot)
    if rank is None:
        return None
    short = {d.key for d in _short(snapshot, assembly, held) if rank_of(d) == rank}
    behind = [demand for demand in snapshot.demands if rank_of(demand) < rank]
    jobs = {demand.key for demand in behind if isinstance(demand, RlDemand)}
    for more in (short, jobs, {demand.key for demand in behind}):
        if more - released:
            return released | more
    return None


def _short(snapshot: Snapshot, assembly: Assembly, solution: Solution) -> tuple[Demand, ...]:
    """Resources that the solution does not serve in full."""
    lacks = missing(solution, assembly, snapshot)
    return tuple(d for d in snapshot.demands if lacks[d.key] > UNSERVED_SHARE)
