"""Finding certificates: the prices of the checker's relaxation at its optimum, level by level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from motley_planner.checker.certificates import SCALE, held, weak_dual, whole_scale
from motley_planner.checker.relaxation import Relaxation, relax
from motley_planner.domain.certificate import Certificate
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.solver import Job, Level, Milp, MilpBuilder, solve
from motley_planner.solver.clock import CLOCK

NEGLIGIBLE = 1e-12  # of the largest price
CHEAP_S, CHEAP_SHARE = 0.05, 0.1  # what proofs may take unasked: this, or this share of the solve
PATIENCE = 10  # times as long as judged cheap may they take: other work on the machine drops none
RATE_S = 4e-5  # measured: seconds a level and rate (2e-5 to 4e-5 with 300 to 6,000 rates)


def with_cheap_proofs(
    table: FleetTable, solution: Solution, left_s: float, *, use_worker: bool = True
) -> Solution:
    """The solution with certificates, or with the reason why there are none.

    They are sought where they cost little beside the solve and `left_s` of the limit is enough.
    """
    if solution.status == "no_solution":
        return replace(solution, no_certificates="there is no level to prove a bound of")
    rates = sum(len(c.requests_per_second) for c in table.columns)
    likely = RATE_S * rates * max(1, len(solution.levels))
    most = min(left_s, max(CHEAP_S, CHEAP_SHARE * solution.solve_seconds))
    if likely > most:
        why = f"the proof takes about {likely:.2g} s and {max(0.0, most):.2g} s were left for it"
        return replace(solution, no_certificates=why)
    limit_s = min(left_s, PATIENCE * most)
    found = certify(table, solution, limit_s, use_worker=use_worker)
    why = "" if found else f"none was found in {limit_s:.2g} s"
    if not found and solution.status == "infeasible":
        why += ", or parts of replicas could serve everything and only whole ones cannot"
    return replace(solution, certificates=found, no_certificates=why)


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
        scale = _certificate(relax(whole_scale(table)), SCALE, time_limit_s, use_worker)
        return (scale,) if scale is not None and scale.bound < 1.0 else ()
    deadline, found = CLOCK.now() + time_limit_s, list[Certificate]()
    for level in solution.levels:
        left = deadline - CLOCK.now()
        if left <= 0.0:
            break
        relaxed = held(relax(table), solution.levels, level.name)
        if level.name in relaxed.levels and level.value is not None:
            one = _certificate(relaxed, level.name, left, use_worker)
            found += [one] if one is not None else []
    return tuple(found)


def _certificate(
    relaxed: Relaxation, level: str, time_limit_s: float, use_worker: bool
) -> Certificate | None:
    milp, names = _program(relaxed)
    entries, constant = relaxed.levels[level]
    cost = np.zeros(milp.num_cols)
    for variable, value in entries.items():
        cost[variable] = value
    levels = (Level(level, cost, constant),)
    job = Job(milp, levels, time_limit_s=time_limit_s, relaxation_only=True)
    duals = solve(job, use_worker=use_worker).duals
    if duals is None:
        return None
    largest = float(np.abs(duals).max(initial=0.0))
    prices = {
        name: float(price)
        for name, price in zip(names, duals, strict=True)
        if abs(price) > NEGLIGIBLE * largest
    }
    bound = weak_dual(relaxed, level, prices)
    if not np.isfinite(bound):
        return None
    return Certificate(level, -bound if level == "price" else bound, prices)


def _program(relaxed: Relaxation) -> tuple[Milp, list[str]]:
    builder = MilpBuilder()
    for upper in relaxed.upper:
        builder.variable(0.0, upper)
    for name, row in relaxed.rows.items():
        builder.row(list(row.entries.items()), lower=row.lower, upper=row.upper, name=name)
    return builder.build(), list(relaxed.rows)
