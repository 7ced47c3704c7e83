"""Tables whose demands are out of all proportion to what the fleet can serve, brought to proportion.

A solver's tolerances are absolute (1e-9) and it drops coefficients below 1e-9, so a scale of 1e10
or a served share of 1e-10 is lost in them. Multiplying demands changes the unit of the answer only:

    max_min   all rates x f, penalties / f:       a = f a',  a - P = f (a' - P')
    goodput   rate_k at most twice what all replicas that fit could serve of k:
              sum(w served) / W = (W' / W) sum(w served) / W',  W = sum(w rate)

so that a' or the level is about a half. What the fleet planner adds (side rows, scenarios) speaks
of shares of rates: such tables stay as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from motley_planner.checker.room import flipped_gpus
from motley_planner.domain.solution import Level, Shortfall, Solution
from motley_planner.domain.table import FleetTable
from motley_planner.formulations.program import Index, demands, formulate
from motley_planner.formulations.shortfalls import index_upper

SMALL, LARGE = 1e-2, 1e4  # scales and levels between are left alone
MOST = 1e6  # replicas whose scale may be the unit; beyond, a solver would drop what one gives
USUAL = (1e-4, 1e6)  # requests/s
UNSERVED = 1e-6  # share of a rate; less is no shortfall
SAME = 1e-9  # the same, of what is unserved


def normalized(index: Index) -> FleetTable:
    """The index's table, or one with rates in proportion."""
    table = index.table
    if table.side_rows or table.scenarios or table.penalty_in_price:
        return table
    if table.objective == "max_min":
        factor = _factor(index)
        return table if SMALL <= factor <= LARGE else _scaled(table, factor)
    penalized = table.penalty_per_started_gpu or table.penalty_per_stopped_gpu
    if table.objective == "goodput" and not penalized and not table.cascades:
        return _capped(index)
    return table


def in_proportion(table: FleetTable) -> FleetTable:
    """The table, normalized where a rate is far from those that engines have."""
    rates = [d.requests_per_second for d in demands(table) if d.requests_per_second > 0]
    usual = all(USUAL[0] <= rate <= USUAL[1] for rate in rates)
    return table if usual else normalized(formulate(table)[1])


def restored(solution: Solution, table: FleetTable, solved: FleetTable) -> Solution:
    """The solution of `solved`, a normalized `table`, in the units of `table`."""
    if solved is table or solution.status == "no_solution":
        return solution
    units, served = _units(table, solved), _served(solution, solved)
    moves = _penalty(solution, table) if table.objective == "max_min" else 0.0
    levels = tuple(_level(lv, units.get(lv.name, 1.0), moves) for lv in solution.levels)
    rates = {d.name: d.requests_per_second for d in demands(table)}
    left = {name: max(0.0, rates[name] - served[name]) for name in solution.unserved or {}}
    unserved = {name: u if u > SAME * rates[name] else 0.0 for name, u in left.items()}
    told = {s.what: s for s in solution.shortfalls}
    shortfalls = tuple(
        Shortfall(name, u, told[name].binding)
        for name, u in unserved.items()
        if u > UNSERVED * rates[name] and name in told
    )
    first = levels[0] if levels else Level("", None, None, None)
    return replace(
        solution,
        objective=first.value,
        bound=first.bound,
        gap=first.gap,
        levels=levels,
        unserved=unserved,
        shortfalls=shortfalls,
    )


def _factor(index: Index) -> float:
    """Twice a scale that is not reached, or MOST replicas' where that would make one nothing.

    Where nothing limits the scale: what one replica of each class gives.
    """
    rates, best = index.demand.rates, dict[str, float]()
    for k, name in enumerate(rates.names):
        mine = rates.capacity[rates.request_class == k]
        best[name] = float(mine.max(initial=0.0)) / index.demand.totals[name]
    one = min((b for b in best.values() if b > 0), default=1.0)
    limited = math.isfinite(index.scale_limit)
    return min(2.0 * index.scale_limit or 1.0, MOST * one) if limited else one


def _scaled(table: FleetTable, factor: float) -> FleetTable:
    return replace(
        table,
        classes=tuple(
            replace(c, requests_per_second=c.requests_per_second * factor) for c in table.classes
        ),
        cascades=tuple(
            replace(c, requests_per_second=c.requests_per_second * factor) for c in table.cascades
        ),
        penalty_per_started_gpu=table.penalty_per_started_gpu / factor,
        penalty_per_stopped_gpu=table.penalty_per_stopped_gpu / factor,
    )


def _capped(index: Index) -> FleetTable:
    """Rates capped where a whole level can only be tiny."""
    table, capacity = index.table, _capacity(index)
    worth, able = defaultdict[int, float](float), defaultdict[int, float](float)
    for one in table.classes:
        worth[one.priority] += one.weight * one.requests_per_second
        able[one.priority] += one.weight * min(one.requests_per_second, capacity[one.name])
    tiny = {p for p, total in worth.items() if 0.0 < able[p] < SMALL * total}
    if not tiny:
        return table
    most = {c.name: 2.0 * capacity[c.name] for c in table.classes}
    largest = {p: max(most[c.name] for c in table.classes if c.priority == p) for p in tiny}
    most = {
        c.name: most[c.name] or largest[c.priority] for c in table.classes if c.priority in tiny
    }
    return replace(
        table,
        classes=tuple(
            replace(c, requests_per_second=min(c.requests_per_second, most[c.name]))
            if c.name in most
            else c
            for c in table.classes
        ),
    )


def _capacity(index: Index) -> dict[str, float]:
    """Class -> requests/s of all replicas that could ever be, together."""
    rates, columns = index.demand.rates, index.table.columns
    found = {c.name: 0.0 for c in index.table.classes}
    for i, k, each in zip(
        rates.column.tolist(), rates.request_class.tolist(), rates.capacity.tolist(), strict=True
    ):
        if columns[i].phase == "decode":
            continue
        most, limit = index_upper(index, i), columns[i].max_count
        most = most if limit is None else min(most, limit)
        found[rates.names[k]] += each * most if most > 0 else 0.0
    return found


def _units(table: FleetTable, solved: FleetTable) -> Mapping[str, float]:
    """Level -> what one unit of it in `solved` is in `table`."""
    if table.objective == "max_min":
        return {"max_min": _ratio(table, solved)}
    worth: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for before, after in zip(demands(table), demands(solved), strict=True):
        worth[before.priority][0] += before.weight * before.requests_per_second
        worth[before.priority][1] += after.weight * after.requests_per_second
    return {f"goodput[{p}]": new / old for p, (old, new) in worth.items() if old > 0}


def _ratio(table: FleetTable, solved: FleetTable) -> float:
    """f of max_min."""
    pairs = zip(demands(table), demands(solved), strict=True)
    return max(
        new.requests_per_second / old.requests_per_second
        for old, new in pairs
        if old.requests_per_second > 0
    )


def _served(solution: Solution, solved: FleetTable) -> dict[str, float]:
    """Requests/s served of each demand; in max_min scale x rate."""
    rates = {d.name: d.requests_per_second for d in demands(solved)}
    if solved.objective != "max_min":
        return {n: rates[n] - left for n, left in (solution.unserved or {}).items()}
    scale = (solution.objective or 0.0) + _penalty(solution, solved)
    return {name: scale * rates[name] for name in solution.unserved or {}}


def _penalty(solution: Solution, table: FleetTable) -> float:
    moved = table.penalty_per_started_gpu * solution.started_gpus
    moved += table.penalty_per_stopped_gpu * solution.stopped_gpus
    return moved + table.penalty_per_flipped_gpu * flipped_gpus(table, solution.placement)


def _level(level: Level, unit: float, moves: float) -> Level:
    if level.value is None:
        return level
    value = level.value * unit
    if level.bound is None:
        return replace(level, value=value)
    bound = level.bound * unit
    return replace(
        level, value=value, bound=bound, gap=abs(bound - value) / max(1e-9, abs(value + moves))
    )
