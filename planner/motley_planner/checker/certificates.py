"""Bounds proved by certificates: worked out from their prices by addition, without a solver."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from motley_planner.checker.ledger import TOLERANCE, Ledger
from motley_planner.checker.relaxation import Relaxation, Row, relax
from motley_planner.domain.certificate import Certificate
from motley_planner.domain.solution import Level
from motley_planner.domain.table import FleetTable

SCALE: Literal["max_min"] = "max_min"
HOLD_SLACK = 1e-6  # share by which a level above may stay behind what the plan reaches


def check_certificates(ledger: Ledger) -> dict[str, float]:
    """Each certificate proves its bound, and the plan is not better than it.

    What they prove of each level, worked out by addition: no bound that the plan merely claims. A
    claimed bound without one is no complaint, since what branching proved has none.
    """
    solution, bounds = ledger.solution, dict[str, float]()
    values = {level.name: level.value for level in solution.levels}
    for certificate in solution.certificates:
        proved = proved_bound(ledger.table, solution.levels, certificate)
        if proved is not None:
            bounds[certificate.level] = proved
        sign = -1.0 if certificate.level == "price" else 1.0
        slack = TOLERANCE * max(1.0, abs(certificate.bound))
        if proved is None or sign * (proved - certificate.bound) > slack:
            ledger.complain(f"certificate of {certificate.level}: proves {proved}, no better")
        if solution.status == "infeasible" and not certificate.bound < 1.0:
            ledger.complain(f"certificate of {certificate.level}: not below 1 proves nothing")
        value = values.get(certificate.level)
        if value is not None and sign * (value - certificate.bound) > slack:
            ledger.complain(f"certificate of {certificate.level}: the plan is better than it")
    for level in solution.levels:
        told, proved = level.certified_bound, bounds.get(level.name)
        if told is not None and (proved is None or ledger.differ(told, proved)):
            ledger.complain(f"level {level.name}: certified_bound {told}, certificates: {proved}")
    return bounds


def proved_bound(
    table: FleetTable, levels: Sequence[Level], certificate: Certificate
) -> float | None:
    """What a certificate's prices prove of its level, the levels above held; None for nothing.

    Of a min_cost table a certificate of `max_min` says at what scale all can be served at most; below
    1 it proves that the table is infeasible.

    max c x over the rows and bounds is at most sum_i y_i b_i + sum_j max_x (c_j - sum_i y_i a_ij) x.
    """
    if table.objective == "min_cost" and certificate.level == SCALE:
        table = whole_scale(table)
    relaxed = held(relax(table), levels, certificate.level)
    if certificate.level not in relaxed.levels:
        return None
    bound = weak_dual(relaxed, certificate.level, certificate.multipliers)
    if not math.isfinite(bound):
        return None
    return -bound if certificate.level == "price" else bound


def whole_scale(table: FleetTable) -> FleetTable:
    """The table that asks for the largest scale at which everything is served, moves for nothing."""
    return replace(table, objective=SCALE, penalty_per_started_gpu=0.0, penalty_per_stopped_gpu=0.0)


def held(relaxed: Relaxation, levels: Sequence[Level], level: str) -> Relaxation:
    """The relaxation with every level above one kept at what the plan reaches."""
    relaxed = replace(relaxed, rows=dict(relaxed.rows))
    for above in levels:
        if above.name == level:
            break
        if above.value is None or above.name not in relaxed.levels:
            continue
        entries, constant = relaxed.levels[above.name]
        value = -above.value if above.name == "price" else above.value
        least = value - HOLD_SLACK * max(1.0, abs(value)) - constant
        relaxed.row(f"hold[{above.name}]", dict(entries), lower=least)
    return relaxed


def weak_dual(relaxed: Relaxation, level: str, multipliers: Mapping[str, float]) -> float:
    """The bound of a level by prices of rows; infinite where they prove nothing."""
    entries, constant = relaxed.levels[level]
    reduced: dict[int, float] = defaultdict(float, entries)
    parts = [constant]
    for name, price in multipliers.items():
        row = relaxed.rows.get(name)
        if row is None or not price:
            continue
        side = _side(row, price)
        if not math.isfinite(side):
            continue
        parts.append(price * side)
        for variable, coefficient in row.entries.items():
            reduced[variable] -= price * coefficient
    parts += [cost * relaxed.upper[v] for v, cost in reduced.items() if cost > 0]
    return math.fsum(parts) if all(map(math.isfinite, parts)) else math.inf


def _side(row: Row, price: float) -> float:
    return row.upper if price > 0 else row.lower
