"""Does it keep its side rows, and what its scenarios promise."""

from __future__ import annotations

from dataclasses import replace

from motley_planner.checker.ledger import TOLERANCE, Ledger
from motley_planner.checker.serving import scale_of
from motley_planner.domain.table import Scenario, SideRow


def check_side_rows(ledger: Ledger) -> None:
    """Every limit on counts, rates, what is served and policies, at a relative 1e-6 of its terms.

    A minimum may be short by what the solution lists.
    """
    lacking = {s.what: s.how_much for s in ledger.solution.shortfalls}
    for row in ledger.table.side_rows:
        terms = _terms(ledger, row)
        total, gross = sum(terms), sum(abs(t) for t in terms)
        largest = max((abs(c) for c in _coefficients(row)), default=1.0)
        slack = TOLERANCE * max(gross, largest, abs(row.at_most or 0.0), abs(row.at_least or 0.0))
        if row.at_most is not None and total > row.at_most + slack:
            ledger.complain(f"side row {row.name}: {total} is over {row.at_most}")
        if row.at_least is None:
            continue
        short = lacking.get(row.name, 0.0) if row.at_least > 0 else 0.0
        if total + short < row.at_least - slack:
            ledger.complain(f"side row {row.name}: {total} is under {row.at_least}")


def _coefficients(row: SideRow) -> list[float]:
    tables = (row.per_replica, row.per_rate, row.per_served, row.per_policy)
    return [amount for table in tables for amount in table.values()]


def _terms(ledger: Ledger, row: SideRow) -> list[float]:
    terms = [amount * ledger.counts[column] for column, amount in row.per_replica.items()]
    terms += [amount * ledger.rates.get(at, 0.0) for at, amount in row.per_rate.items()]
    demands = {d.name: d for d in ledger.demands()}
    for name, amount in row.per_served.items():
        if name in demands:
            share = scale_of(ledger, ledger.served_share(demands[name]))
            terms.append(amount * share * demands[name].requests_per_second)
    shares = {(p.cascade, p.id): p.share for p in ledger.solution.policies}
    for (cascade, policy), amount in row.per_policy.items():
        if cascade in demands:
            served = scale_of(ledger, ledger.served_share(demands[cascade]))
            follow = shares.get((cascade, policy), 0.0) * served
            terms.append(amount * follow * demands[cascade].requests_per_second)
    return terms


def missing_in_scenarios(ledger: Ledger) -> dict[str, float]:
    """Scenario name -> share that its worst scenario cannot serve, by LPs of scipy."""
    missing: dict[str, float] = {}
    for scenario in ledger.table.scenarios:
        lacks = scenario.share - _served_in(ledger, scenario)
        missing[scenario.name] = max(missing.get(scenario.name, 0.0), lacks)
    return missing


def least_scenario_scale(ledger: Ledger) -> float:
    """max_min: the largest scale at which every scenario still serves its share of it."""
    scales = [_served_in(ledger, replace(s, share=1e9)) / s.share for s in ledger.table.scenarios]
    return min(scales, default=float("inf"))


def _served_in(ledger: Ledger, scenario: Scenario) -> float:
    from motley_planner.checker.recourse import served_in  # scipy: only for plans with scenarios

    return served_in(ledger.table, scenario, ledger.counts)
