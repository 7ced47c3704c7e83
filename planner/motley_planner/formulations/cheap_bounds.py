"""Bounds of a level from one pass over the columns: what a request takes at least, added up.

For any prices w of GPUs and b of USD/h, a request of class k takes at least

    v_k = min over columns of (b price_c + sum_f w_f tp_f) / h_ck,  or prefill and decode apart,

because a replica's time is shared by what it serves. So with b = 1 and w what nodes cost a GPU,

    min_cost  price >= sum_k rate_k v_k,      max_min  scale <= budget / sum_k rate_k v_k,

and with b = 0 and w what a GPU of each kind serves beside the others, scale <= sum w GPUs / sum_k rate_k v_k.
A cascade takes its cheapest policy. Limits of links, NICs, nodes' sizes and counts are left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

from motley_planner.domain.table import FleetTable

Kind = tuple[str, str, str, str, bool]  # class, phase, zone, GPU, whether of several fragments
Cost = tuple[float, int]  # GPUs or USD/h for a request/s, column
Kinds = Mapping[Kind, tuple[list[Cost], list[Cost]]]  # by GPUs and by USD/h, in the same order
Weights = Mapping[tuple[str, str], float]  # by GPU and zone
LEAST = 1e-12


def cheap_bound(table: FleetTable, kinds: Kinds) -> float | None:
    """What no plan's scale is above (max_min), or no plan's price below (min_cost); None unknown.

    `kinds` tells of every column that fits on a node what a request of each class takes of it.
    """
    if any(c.time_share or c.kv_share or c.pool_steps for c in table.columns):
        return None
    gpus, usd = _nodes(table)
    if table.objective == "min_cost":
        return _needed(table, _least(table, kinds, usd, 1.0))
    if table.objective != "max_min":
        return None
    weights = _speeds(kinds)
    limits = [sum(weights.get(at, 0.0) * count for at, count in gpus.items())]
    needs = [_needed(table, _least(table, kinds, weights, 0.0))]
    if table.budget_usd_per_hour is not None:
        limits.append(table.budget_usd_per_hour)
        needs.append(_needed(table, _least(table, kinds, usd, 1.0)))
    found = [
        limit / need
        for limit, need in zip(limits, needs, strict=True)
        if need is not None and need > LEAST and math.isfinite(limit)
    ]
    return min(found, default=None)


def _nodes(table: FleetTable) -> tuple[dict[tuple[str, str], float], Weights]:
    """GPUs of each kind, infinite where unlimited, and the least that a node costs for one."""
    gpus, usd = defaultdict[tuple[str, str], float](float), dict[tuple[str, str], float]()
    groups = [(n.gpu, n.zone, n.gpus, n.count, n.price_usd_per_hour) for n in table.nodes]
    if table.previous is not None:
        groups = [
            (n.gpu, n.zone, n.gpus, 1, n.price_usd_per_hour)
            for n in table.previous.nodes
            if n.name not in table.lost_nodes
        ]
    groups += [(n.gpu, n.zone, n.gpus, None, 0.0) for n in table.purchasable]
    for gpu, zone, size, count, price in groups:
        if size > 0:
            gpus[gpu, zone] += math.inf if count is None else size * count
            usd[gpu, zone] = min(usd.get((gpu, zone), math.inf), (price or 0.0) / size)
    return gpus, usd


def _speeds(kinds: Kinds) -> Weights:
    """What a GPU of each kind serves, as a share of the best kind, on average over the classes."""
    rates: dict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for (name, phase, zone, gpu, several), (by_gpu, _) in kinds.items():
        least = min(by_gpu)[0]
        if not several and least > 0.0:
            rates[name, phase][gpu, zone] = 1.0 / least
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for of_class in rates.values():
        best = max(of_class.values())
        for at, rate in of_class.items():
            shares[at].append(rate / best)
    return {at: fmean(each) for at, each in shares.items()}


def _least(
    table: FleetTable, kinds: Kinds, weights: Weights, per_usd: float
) -> dict[tuple[str, str], float]:
    """v: the least that a request/s takes, by class and phase."""
    least: dict[tuple[str, str], float] = {}
    of_column: dict[int, tuple[float, int]] = {}
    for (name, phase, zone, gpu, several), (by_gpu, by_price) in kinds.items():
        pairs = zip(by_gpu, by_price, strict=True)
        if not several:
            weight = weights.get((gpu, zone), 0.0)
            found = min(weight * g + per_usd * p for (g, _), (p, _) in pairs)
        else:
            found = math.inf
            for (g, i), (p, _) in pairs:
                if i not in of_column:
                    parts = table.columns[i].fragments
                    taken = sum(f.tp * weights.get((f.gpu, zone), 0.0) for f in parts)
                    of_column[i] = taken, sum(f.tp for f in parts)
                taken, size = of_column[i]
                found = min(found, taken * g / size + per_usd * p)
        least[name, phase] = min(found, least.get((name, phase), math.inf))
    return least


def _needed(table: FleetTable, least: Mapping[tuple[str, str], float]) -> float | None:
    """What all demand at its rates takes at least; None where a class has no column."""
    inf = math.inf
    takes = {
        c.name: min(
            least.get((c.name, "both"), inf),
            least.get((c.name, "prefill"), inf) + least.get((c.name, "decode"), inf),
        )
        for c in table.classes
    }
    parts = [c.requests_per_second * takes[c.name] for c in table.classes if c.requests_per_second]
    for cascade in table.cascades:
        if cascade.requests_per_second > 0.0:
            ways = (
                sum(load * takes[name] for name, load in p.load.items() if load > 0.0)
                for p in cascade.policies
            )
            parts.append(cascade.requests_per_second * min(ways, default=inf))
    total = math.fsum(parts) if all(map(math.isfinite, parts)) else inf
    return total if math.isfinite(total) else None
