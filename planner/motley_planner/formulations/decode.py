"""A point of the MILP back into a plan, with clean numbers.

The solver's tolerances are absolute; here counts are rounded, rates made non-negative and shrunk
until every time and KV row holds, and every level is recomputed from the cleaned point.
"""

from __future__ import annotations

import numpy as np

from motley_planner.domain.solution import (
    Flow,
    Level,
    PlacedReplica,
    PolicyShare,
    Rate,
    ReplicaCount,
    Shortfall,
    Solution,
)
from motley_planner.domain.table import RunningReplica
from motley_planner.formulations.blocking import Asking
from motley_planner.formulations.flips import flipped_gpus
from motley_planner.formulations.placement import kept_replicas, place, release_unused
from motley_planner.formulations.program import Index, demands
from motley_planner.formulations.scenarios import TOLERANCE
from motley_planner.formulations.shortfalls import find_shortfalls
from motley_planner.formulations.siderows import MINIMUMS
from motley_planner.objectives import LevelSpec
from motley_planner.solver.job import Outcome
from motley_planner.solver.milp import AnyInts, Floats

NEGLIGIBLE = 1e-12  # share of a class's demand below which a rate is solver noise
SAME = 1e-9  # relative difference of bound and value that is rounding
SAME_LATER = 1e-6  # the same below the first level, whose bound sees the slack of levels above


def decode(index: Index, outcome: Outcome, relative_gap: float, asking: Asking) -> Solution:
    """The plan of an outcome that has a point.

    `status` is optimal where every level is proved within `relative_gap`. What limits a shortfall is
    asked by `asking`.
    """
    assert outcome.x is not None
    x = _clean(index, outcome.x)
    kept = kept_replicas(index.table, index.inventory, index.packing, x)
    placed = _place(index, kept, x)
    levels = _levels(index, outcome, x)
    proved = all(lv.gap is not None and lv.gap <= relative_gap for lv in levels)
    first = next((lv for lv in levels if lv.name not in (MINIMUMS, TOLERANCE)), levels[0])
    table = index.table
    new = _used(np.round(x[index.packing.new]).astype(np.int64))
    gone = _stopped_gpus(index, kept)
    unserved = _unserved(index, x)
    return Solution(
        status="optimal" if proved else "feasible",
        objective=first.value,
        bound=first.bound,
        gap=first.gap,
        levels=levels,
        price_usd_per_hour=price_of(index, x),
        replicas=_replicas(index, x),
        rates=_rates(index, x),
        policies=_policies(index, x),
        flows=_flows(index, x),
        unserved=unserved,
        placement=placed if table.previous is not None else (),
        started=sum(n for _, n in new),
        stopped=len(gone),
        started_gpus=sum(n * table.columns[i].gpus for i, n in new),
        stopped_gpus=sum(gone),
        shortfalls=_shortfalls(index, x, unserved, asking),
    )


def _stopped_gpus(index: Index, kept: list[RunningReplica]) -> list[int]:
    """GPUs of each survivor that does not stay."""
    stays = {r.id for r in kept}
    gone = [r.column for r in index.inventory.survivors if r.id not in stays]
    if not gone:
        return []
    gpus = {c.id: c.gpus for c in index.table.columns}
    return [gpus[column] for column in gone]


def _place(index: Index, kept: list[RunningReplica], x: Floats) -> tuple[PlacedReplica, ...]:
    """Every replica on nodes; `x` then counts only nodes in use."""
    priced = any(v is not None for v in index.packing.open_used)
    if index.table.previous is None and not priced:
        return ()
    placed = place(index.table, index.inventory, index.packing, kept, x)
    release_unused(index.inventory, index.packing, placed, x)
    return placed


def _clean(index: Index, x: Floats) -> Floats:
    x = np.maximum(x, 0.0)
    whole = [*index.packing.new, *(g.variable for g in index.packing.kept)]
    whole += [flip.variable for flip in index.packing.flips]
    whole += [v for v in index.packing.open_used if v is not None]
    whole += [*index.packing.held_used.values(), *index.packing.slots.values()]
    whole += [*index.demand.chosen.values(), *index.demand.tiers.values()]
    x[whole] = np.round(x[whole])
    rates = index.demand.rates
    noise = x[rates.variable] <= NEGLIGIBLE / np.maximum(rates.unit, 1.0)
    x[rates.variable[noise]] = 0.0
    for variable, unit in index.demand.flows.values():
        if x[variable] <= NEGLIGIBLE / max(unit, 1.0):
            x[variable] = 0.0
    _shrink_to_replicas(index, x)
    if index.demand.scale is not None and x[index.demand.scale] <= NEGLIGIBLE:
        x[index.demand.scale] = 0.0
    return x


def _shrink_to_replicas(index: Index, x: Floats) -> None:
    """Takes solver noise off the rates of columns that are over their time or memory."""
    rates, counts, columns = index.demand.rates, _counts(index, x), index.table.columns
    have = counts.astype(np.float64)
    for i, n in _used(counts):
        have[i] = columns[i].worth_of(n)
    used = x[rates.variable]
    time = np.bincount(rates.column, weights=used * rates.time, minlength=len(have))
    busy = np.maximum(time, np.bincount(rates.column, used * rates.kv, len(have)))
    over = busy > have
    factor = np.where(over, have / np.where(over, busy, 1.0), 1.0)
    x[rates.variable] *= factor[rates.column]


def _counts(index: Index, x: Floats) -> AnyInts:
    """Replicas of each column, kept and new."""
    counts = np.round(x[index.packing.new]).astype(np.int64)
    for group in index.packing.kept:
        counts[group.column] += round(x[group.variable])
    for flip in index.packing.flips:
        counts[flip.source] -= round(x[flip.variable])
        counts[flip.target] += round(x[flip.variable])
    return counts


def _levels(index: Index, outcome: Outcome, x: Floats) -> tuple[Level, ...]:
    found: list[Level] = []
    for number, (level, spec) in enumerate(zip(index.levels, index.specs, strict=True)):
        if spec.hidden:
            continue
        value, bound = level.value_of(x), outcome.bounds.get(number)
        without = abs(value + _penalty(index, spec, x))
        if bound is not None:
            bound = max(bound, value)
            if bound - value <= (SAME_LATER if number or spec.name == MINIMUMS else SAME) * max(
                1.0, abs(value)
            ):
                bound = value
        gap = None if bound is None else (bound - value) / max(1e-9, without)
        sign = -1.0 if spec.minimize else 1.0
        shown = None if bound is None else sign * bound + 0.0
        found.append(Level(spec.name, sign * value + 0.0, shown, gap))
    return tuple(found)


def _penalty(index: Index, spec: LevelSpec, x: Floats) -> float:
    """P as far as it was taken off this level (in the direction of maximizing)."""
    table, total = index.table, 0.0
    if table.penalty_per_started_gpu:
        new = x[index.packing.new]
        started = sum(table.columns[i].gpus * new[i] for i in np.flatnonzero(new).tolist())
        total += table.penalty_per_started_gpu * started
    for group in index.packing.kept:
        stopped = len(group.replicas) - x[group.variable]
        total += table.penalty_per_stopped_gpu * table.columns[group.column].gpus * stopped
    total += table.penalty_per_flipped_gpu * flipped_gpus(table, index.packing, x)
    return abs(spec.penalty) * float(total)


def price_of(index: Index, x: Floats) -> float:
    """USD/h of all replicas and of nodes in use."""
    price = sum(index.table.columns[i].price_usd_per_hour * n for i, n in _used(_counts(index, x)))
    groups = zip(index.inventory.open_groups, index.packing.open_used, strict=True)
    price += sum(g.price_usd_per_hour * round(x[v]) for g, v in groups if v is not None)
    for held in index.inventory.held:
        variable = index.packing.held_used.get(held.node.name)
        if variable is not None:
            price += held.price_usd_per_hour * round(x[variable])
    return float(price)


def _replicas(index: Index, x: Floats) -> tuple[ReplicaCount, ...]:
    columns = index.table.columns
    return tuple(ReplicaCount(columns[i].id, n) for i, n in _used(_counts(index, x)))


def _used(counts: AnyInts) -> list[tuple[int, int]]:
    """(column, count) of those with any."""
    return [(i, int(counts[i])) for i in np.flatnonzero(counts).tolist()]


def _rates(index: Index, x: Floats) -> tuple[Rate, ...]:
    rates = index.demand.rates
    return tuple(
        Rate(
            index.table.columns[rates.column[k]].id,
            rates.names[rates.request_class[k]],
            float(x[rates.variable[k]] * rates.unit[k]),
        )
        for k in rates.in_use(x)
    )


def _policies(index: Index, x: Floats) -> tuple[PolicyShare, ...]:
    found: list[PolicyShare] = []
    for cascade in index.table.cascades:
        shares = {
            p.id: float(x[index.demand.shares[cascade.name, p.id]])
            for p in cascade.policies
            if (cascade.name, p.id) in index.demand.shares
        }
        total = sum(shares.values())
        if total > 0:
            found += [PolicyShare(cascade.name, i, v / total) for i, v in shares.items() if v > 0]
    return tuple(found)


def _flows(index: Index, x: Floats) -> tuple[Flow, ...]:
    return tuple(
        Flow(name, source, target, kv_scale, float(x[variable] * unit))
        for (name, source, target, kv_scale), (variable, unit) in index.demand.flows.items()
        if x[variable] > 0
    )


def _unserved(index: Index, x: Floats) -> dict[str, float]:
    """Requests/s of each positive demand that are not served."""
    demand = index.demand
    unserved: dict[str, float] = {}
    for item in demands(index.table):
        rate = item.requests_per_second
        if rate <= 0:
            continue
        share = 1.0
        if demand.scale is not None:
            share = float(x[demand.scale])
        elif item.name in demand.served:
            share = float(x[demand.served[item.name]])
        left = rate * (1.0 - share)
        unserved[item.name] = left if left > SAME * rate else 0.0
    return unserved


def _shortfalls(
    index: Index, x: Floats, unserved: dict[str, float], asking: Asking
) -> tuple[Shortfall, ...]:
    rates = {d.name: d.requests_per_second for d in demands(index.table)}
    short = {n: u for n, u in unserved.items() if u > 1e-6 * rates[n]}
    lacking = {n: float(x[v]) for n, v in index.lacking.items() if x[v] > 1e-6}
    lacking |= {n: float(x[v]) for n, v in index.recourse.missing.items() if x[v] > 1e-6}
    return find_shortfalls(index, x, asking, short, lacking)
