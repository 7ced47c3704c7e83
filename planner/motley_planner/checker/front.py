"""The front of the checker: all checks in order, and the figures of each level."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

from motley_planner.checker.certificates import check_certificates
from motley_planner.checker.ledger import TOLERANCE, Ledger, open_ledger
from motley_planner.checker.limits import (
    check_side_rows,
    least_scenario_scale,
    missing_in_scenarios,
)
from motley_planner.checker.packing import check_counts, check_placement, check_price, delay_of
from motley_planner.checker.serving import (
    check_demand,
    check_flows,
    check_policies,
    check_time,
    penalty,
)
from motley_planner.domain.solution import BoundProof, Solution
from motley_planner.domain.table import FleetTable


@dataclass(frozen=True, slots=True)
class Bound:
    """A level's bound as the plan claims it, and what certificates prove of it by addition."""

    level: str
    claimed: float | None
    certified_bound: float | None
    bound_proof: BoundProof | None  # None where no bound is claimed


@dataclass(frozen=True, slots=True)
class Verdict:
    """Complaints about a plan, none where it is good, and which of its bounds are proved."""

    complaints: tuple[str, ...]
    bounds: tuple[Bound, ...] = ()


def check(table: FleetTable, solution: Solution) -> tuple[str, ...]:
    """Every complaint about a plan, in words; empty where the plan is good.

    That says nothing of a bound which no certificate proves, `optimal` or not: `examine` tells those.
    """
    return examine(table, solution).complaints


def examine(table: FleetTable, solution: Solution) -> Verdict:
    """Complaints, and for each level the bound claimed beside the one that a certificate proves.

    Numbers are compared at a relative 1e-6. `no_solution` must be empty; `infeasible` is checked as
    the plan it carries. A bound that no certificate proves is what the search says it proved: the
    checker can only see that the plan is not better than it.
    """
    ledger = open_ledger(table, solution)
    if solution.status == "no_solution":
        if solution.replicas or solution.objective is not None or solution.bound is not None:
            ledger.complain("no_solution carries a plan")
        return Verdict(tuple(ledger.complaints))
    if ledger.complaints:
        return Verdict(tuple(ledger.complaints))
    for run in (
        check_counts,
        check_side_rows,
        check_placement,
        check_price,
        check_time,
        check_demand,
        check_policies,
        check_flows,
        _check_unserved,
        _check_levels,
    ):
        run(ledger)
    proved = check_certificates(ledger)
    bounds = []
    for level in solution.levels:
        known = replace(level, certified_bound=proved.get(level.name))
        bounds.append(Bound(level.name, level.bound, known.certified_bound, known.bound_proof))
    return Verdict(tuple(ledger.complaints), tuple(bounds))


def _check_unserved(ledger: Ledger) -> None:
    solution = ledger.solution
    rates = {d.name: d.requests_per_second for d in ledger.demands()}
    unserved = dict(solution.unserved or {})
    if set(unserved) != set(rates):
        ledger.complain(f"unserved: names {sorted(unserved)}, not {sorted(rates)}")
    for name, left in unserved.items():
        if not 0 <= left <= rates.get(name, 0.0) * (1 + TOLERANCE):
            ledger.complain(f"unserved: {name} {left} is not between 0 and its rate")
        short = left > 1e-5 * rates.get(name, 0.0)
        if short and name not in {s.what for s in solution.shortfalls}:
            ledger.complain(f"shortfalls: {name} is short and not listed")
    if ledger.table.objective == "min_cost" and solution.status in ("optimal", "feasible"):
        for name, left in unserved.items():
            if left > TOLERANCE * rates.get(name, 0.0):
                ledger.complain(f"min_cost: {name} is not served in full")


def _check_levels(ledger: Ledger) -> None:
    solution = ledger.solution
    if solution.status == "infeasible":
        if solution.objective is not None or solution.bound is not None:
            ledger.complain("infeasible carries an objective or a bound")
        return
    service = [lv for lv in solution.levels if lv.name != "minimums"]
    first = next((lv for lv in service if lv.name != "tolerance"), None)
    if first is None:
        ledger.complain("levels: none")
        return
    if (first.value, first.bound, first.gap) != (solution.objective, solution.bound, solution.gap):
        ledger.complain("objective, bound and gap are not the first level's")
    expected = _expected_values(ledger)
    names = [lv.name for lv in service]
    if names != list(expected):
        ledger.complain(f"levels: {names}, not {list(expected)}")
    for level in service:
        value = level.value
        if value is None or not math.isfinite(value):
            ledger.complain(f"level {level.name}: no value")
            continue
        if level.name in expected and ledger.differ(value, expected[level.name]):
            ledger.complain(f"level {level.name}: says {value}, is {expected[level.name]}")
        lower = level.name == "price"
        if level.bound is not None:
            better = value - level.bound if not lower else level.bound - value
            if better > TOLERANCE * max(1.0, abs(value)):
                ledger.complain(f"level {level.name}: better than its bound {level.bound}")
        if solution.status == "optimal" and (
            level.gap is None or level.gap > ledger.table.relative_gap
        ):
            ledger.complain(f"level {level.name}: gap {level.gap} is not optimal")


def _expected_values(ledger: Ledger) -> dict[str, float]:
    """Level name -> value, recomputed from what is served, paid and moved."""
    table = ledger.table
    moves = penalty(ledger)
    price = ledger.solution.price_usd_per_hour or 0.0
    price += delay_of(ledger)
    held = {"tolerance": -sum(missing_in_scenarios(ledger).values())} if table.scenarios else {}
    if table.objective == "min_cost":
        return {**held, "price": price + moves}
    in_service = 0.0 if table.penalty_in_price else moves
    in_price = moves - in_service
    if table.objective == "max_min":
        found = {"max_min": _least_scale(ledger) - in_service}
        if least_scenario_scale(ledger) < _least_scale(ledger) * (1 - TOLERANCE):
            ledger.complain("scenario: serves less than its share of the scale")
        return found | ({"price": price + in_price} if table.penalty_in_price else {})
    worth: dict[int, float] = defaultdict(float)
    served: dict[int, float] = defaultdict(float)
    for demand in ledger.demands():
        weight = demand.weight * demand.requests_per_second
        if weight > 0:
            worth[demand.priority] += weight
            served[demand.priority] += weight * ledger.served_share(demand)
    levels = {f"goodput[{p}]": served[p] / worth[p] for p in sorted(worth, reverse=True)}
    levels = levels or {"goodput": 0.0}
    levels[list(levels)[-1]] -= in_service
    return {**levels, **held, "price": price + in_price}


def _least_scale(ledger: Ledger) -> float:
    """a: the least scale at which any class or cascade is served, from the rates alone."""
    given: dict[str, float] = defaultdict(float)
    for (column_id, name), rate in ledger.rates.items():
        if ledger.columns[column_id].phase != "decode":
            given[name] += rate
    per_scale: dict[str, float] = defaultdict(float)
    for request_class in ledger.table.classes:
        per_scale[request_class.name] += request_class.requests_per_second
    for cascade in ledger.table.cascades:
        policies = {p.id: p for p in cascade.policies}
        used = {p.cascade for p in ledger.solution.policies}
        if cascade.requests_per_second > 0 and cascade.name not in used:
            return 0.0
        for share in ledger.solution.policies:
            if share.cascade == cascade.name and share.id in policies:
                for name, load in policies[share.id].load.items():
                    per_scale[name] += cascade.requests_per_second * share.share * load
    ratios = [given[name] / rate for name, rate in per_scale.items() if rate > 0]
    return min(ratios, default=math.inf)
