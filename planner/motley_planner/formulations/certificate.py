"""When a plan gets certificates unasked, what they do to its bounds, and which way they are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from motley_planner.domain.certificate import Certificate
from motley_planner.domain.solution import Level as PlannedLevel
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.certifying import certify
from motley_planner.formulations.sifted_proofs import can_sift, certify_sifted
from motley_planner.objectives import OBJECTIVES

CHEAP_S, CHEAP_SHARE = 0.05, 0.1  # what proofs may take unasked: this, or this share of the solve
PATIENCE = 10  # times as long as judged cheap may they take: other work on the machine drops none
RATE_S = 1.5e-5  # measured: seconds a level and rate (1.0e-5 to 1.3e-5 with 1,800 to 180,000 rates)
# What a solve keeps back of its limit for proofs: this share, of long limits the second one, and no
# more than a part of very short ones; below SMALL_S they are sought whatever the solve has left.
KEPT_SHARE, LONG_LIMIT_S, KEPT_OF_LONG, MOST_KEPT = 0.1, 10.0, 0.15, 0.25
SIFTED_S = 0.02  # measured: seconds a level on few columns, whatever their number
SIFTED_COLUMN_S, SIFTED_RATE_S = 2e-6, 1.2e-6  # measured: a rate, once and a level; 3.3e-6 for two
KEPT_SPARE = 1.2  # proofs of one level take more for each of its rates than those of two
SMALL_S, SMALL_LIMIT_S = 0.05, 0.3  # a small proof, and how long it may take on a busy machine

Way = Callable[..., tuple[Certificate, ...]]  # of table, solution, seconds; use_worker


def leaving_time(table: FleetTable) -> FleetTable:
    """The table to search where proofs follow: what they take is off its limit, if that is little."""
    return replace(table, time_limit_s=table.time_limit_s - kept_back_s(table))


def kept_back_s(table: FleetTable) -> float:
    """Seconds of the limit that a search leaves for proofs; 0 where they would take too many."""
    limit_s = table.time_limit_s
    most_s = limit_s * (KEPT_OF_LONG if limit_s >= LONG_LIMIT_S else KEPT_SHARE)
    most_s = min(max(SMALL_S, most_s), MOST_KEPT * limit_s)
    for likely_s in _likely_s(table, len(OBJECTIVES[table.objective](table))).values():
        if KEPT_SPARE * likely_s <= most_s:
            return KEPT_SPARE * likely_s
    return 0.0


def _likely_s(table: FleetTable, levels: int) -> dict[Way, float]:
    """Seconds that each way to proofs takes, the closer one first."""
    rates = sum(len(c.requests_per_second) for c in table.columns)
    likely = {certify: RATE_S * rates * max(1, levels)}
    if can_sift(table):
        each = SIFTED_COLUMN_S + SIFTED_RATE_S * max(1, levels)
        likely[certify_sifted] = SIFTED_S * max(1, levels) + each * rates
    return likely


def with_cheap_proofs(
    table: FleetTable, solution: Solution, left_s: float, *, use_worker: bool = True
) -> Solution:
    """The solution with certificates, or with the reason why there are none.

    They are sought where they cost little beside the solve and `left_s` of the limit is enough, or
    where they are what the search left time for.
    """
    if solution.status == "no_solution":
        return replace(solution, no_certificates="there is no level to prove a bound of")
    cheap = max(CHEAP_S, CHEAP_SHARE * solution.solve_seconds, kept_back_s(table))
    most = min(left_s, cheap)
    likely = _likely_s(table, len(solution.levels))
    if likely[certify] <= min(SMALL_S, MOST_KEPT * table.time_limit_s):
        most, left_s = max(most, likely[certify]), max(left_s, SMALL_LIMIT_S)
    for way, likely_s in likely.items():
        if likely_s <= most:
            limit_s = min(left_s, max(SMALL_LIMIT_S, PATIENCE * most))
            return with_proofs(table, solution, limit_s, way=way, use_worker=use_worker)
    least = min(likely.values())
    why = f"the proof takes about {least:.2g} s and {max(0.0, most):.2g} s were left for it"
    return replace(solution, no_certificates=why)


def with_proofs(
    table: FleetTable,
    solution: Solution,
    limit_s: float,
    *,
    way: Way = certify,
    use_worker: bool = True,
) -> Solution:
    """The solution with the certificates found in `limit_s`, or with the reason why there are none.

    Where a certificate proves more of a level than the search did, its bound is the level's.
    """
    found = way(table, solution, limit_s, use_worker=use_worker)
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
