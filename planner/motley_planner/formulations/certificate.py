"""Finding certificates: the prices of the checker's relaxation at its optimum, level by level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from motley_planner.checker.certificates import SCALE, held, weak_dual, whole_scale
from motley_planner.checker.relaxation import Relaxation, relax
from motley_planner.domain.certificate import Certificate
from motley_planner.domain.solution import Level as PlannedLevel
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.proving import Found, Proving, find_blocks
from motley_planner.objectives import OBJECTIVES
from motley_planner.solver import Job, Level, solve
from motley_planner.solver.clock import CLOCK

NEGLIGIBLE = 1e-12  # of the largest price
CHEAP_S, CHEAP_SHARE = 0.05, 0.1  # what proofs may take unasked: this, or this share of the solve
PATIENCE = 10  # times as long as judged cheap may they take: other work on the machine drops none
RATE_S = 1.5e-5  # measured: seconds a level and rate (1.0e-5 to 1.3e-5 with 1,800 to 180,000 rates)
# What a solve keeps back of its limit for proofs: this share, of long limits the second one, and no
# more than a part of very short ones; below SMALL_S they are sought whatever the solve has left.
KEPT_SHARE, LONG_LIMIT_S, KEPT_OF_LONG, MOST_KEPT = 0.05, 10.0, 0.15, 0.25
KEPT_SPARE = 1.2  # proofs of one level take more for each of its rates than those of two
SMALL_S, SMALL_LIMIT_S = 0.05, 0.3  # a small proof, and how long it may take on a busy machine


def leaving_time(table: FleetTable) -> FleetTable:
    """The table to search where proofs follow: what they take is off its limit, if that is little."""
    return replace(table, time_limit_s=table.time_limit_s - kept_back_s(table))


def kept_back_s(table: FleetTable) -> float:
    """Seconds of the limit that a search leaves for proofs; 0 where they would take too many."""
    limit_s = table.time_limit_s
    kept_s = KEPT_SPARE * _likely_s(table, len(OBJECTIVES[table.objective](table)))
    most_s = limit_s * (KEPT_OF_LONG if limit_s >= LONG_LIMIT_S else KEPT_SHARE)
    return kept_s if kept_s <= min(max(SMALL_S, most_s), MOST_KEPT * limit_s) else 0.0


def _likely_s(table: FleetTable, levels: int) -> float:
    rates = sum(len(c.requests_per_second) for c in table.columns)
    return RATE_S * rates * max(1, levels)


def with_cheap_proofs(
    table: FleetTable, solution: Solution, left_s: float, *, use_worker: bool = True
) -> Solution:
    """The solution with certificates, or with the reason why there are none.

    They are sought where they cost little beside the solve and `left_s` of the limit is enough, or
    where they are what the search left time for.
    """
    if solution.status == "no_solution":
        return replace(solution, no_certificates="there is no level to prove a bound of")
    likely = _likely_s(table, len(solution.levels))
    cheap = max(CHEAP_S, CHEAP_SHARE * solution.solve_seconds, kept_back_s(table))
    most = min(left_s, cheap)
    if likely <= min(SMALL_S, MOST_KEPT * table.time_limit_s):
        most, left_s = max(most, likely), max(left_s, SMALL_LIMIT_S)
    if likely > most:
        why = f"the proof takes about {likely:.2g} s and {max(0.0, most):.2g} s were left for it"
        return replace(solution, no_certificates=why)
    return with_proofs(table, solution, min(left_s, PATIENCE * most), use_worker=use_worker)


def with_proofs(
    table: FleetTable, solution: Solution, limit_s: float, *, use_worker: bool = True
) -> Solution:
    """The solution with the certificates found in `limit_s`, or with the reason why there are none.

    Where a certificate proves more of a level than the search did, its bound is the level's.
    """
    found = certify(table, solution, limit_s, use_worker=use_worker)
    why = "" if found else f"none was found in {limit_s:.2g} s"
    if not found and solution.status == "infeasible":
        why += ", or parts of replicas could serve everything and only whole ones cannot"
    closer = solution if solution.status == "infeasible" else _with_bounds(table, solution, found)
    return replace(closer, certificates=found, no_certificates=why)


def _with_bounds(
    table: FleetTable, solution: Solution, certificates: tuple[Certificate, ...]
) -> Solution:
    proved = {one.level: one.bound for one in certificates}
    levels = tuple(_closer(table, level, proved.get(level.name)) for level in solution.levels)
    told = tuple(replace(level, certified_bound=proved.get(level.name)) for level in levels)
    if levels == solution.levels:
        return replace(solution, levels=told)
    within = all(lv.gap is not None and lv.gap <= table.relative_gap for lv in levels)
    first = levels[0]
    status = "optimal" if within else solution.status
    return replace(solution, levels=told, bound=first.bound, gap=first.gap, status=status)


def _closer(table: FleetTable, level: PlannedLevel, proved: float | None) -> PlannedLevel:
    """The level with a bound that a certificate proves, if that is the better one."""
    if proved is None or level.value is None:
        return level
    sign = -1.0 if level.name == "price" else 1.0
    if level.bound is not None and level.gap:
        without = abs(level.bound - level.value) / level.gap  # the value without what moves cost
    elif level.bound is None and not (
        table.penalty_per_started_gpu or table.penalty_per_stopped_gpu
    ):
        without = max(1e-9, abs(level.value))
    else:
        return level
    if level.bound is not None and sign * (level.bound - proved) <= 0.0:
        return level
    bound = sign * max(sign * proved, sign * level.value)
    return replace(level, bound=bound, gap=abs(bound - level.value) / without)


def certify(
    table: FleetTable, solution: Solution, time_limit_s: float, *, use_worker: bool = True
) -> tuple[Certificate, ...]:
    """A certificate for each level that one is found for in time.

    The bounds are the linear relaxation's: those that branching proved are closer, and have no
    certificate. Levels about scenarios have none, as the relaxation leaves scenarios out. Of an
    infeasible table it is the proof that the largest scale is below 1.
    """
    if solution.status == "no_solution":
        return ()
    if solution.status == "infeasible":
        relaxed = relax(whole_scale(table))
        scale = _certificate(relaxed, SCALE, find_blocks(relaxed), time_limit_s, use_worker)
        return (scale,) if scale is not None and scale.bound < 1.0 else ()
    deadline, found = CLOCK.now() + time_limit_s, list[Certificate]()
    whole = relax(table)
    blocks = find_blocks(whole)
    for level in solution.levels:
        left = deadline - CLOCK.now()
        if left <= 0.0:
            break
        relaxed = held(whole, solution.levels, level.name)
        if level.name in relaxed.levels and level.value is not None:
            one = _certificate(relaxed, level.name, blocks, left, use_worker)
            found += [one] if one is not None else []
    return tuple(found)


def _certificate(
    relaxed: Relaxation, level: str, blocks: Found, time_limit_s: float, use_worker: bool
) -> Certificate | None:
    proving = Proving(relaxed, level, blocks)
    levels = (Level(level, proving.cost, proving.constant),)
    job = Job(
        proving.milp,
        levels,
        blocks=proving.blocks,
        time_limit_s=time_limit_s,
        relaxation_only=True,
    )
    duals = solve(job, use_worker=use_worker).duals
    if duals is None:
        return None
    found = proving.prices(duals)
    largest = max(map(abs, found.values()), default=0.0)
    prices = {name: price for name, price in found.items() if abs(price) > NEGLIGIBLE * largest}
    bound = weak_dual(relaxed, level, prices)
    if not np.isfinite(bound):
        return None
    return Certificate(level, -bound if level == "price" else bound, prices)
