"""Model by model, the one that would lose most by waiting first.

A model's offers are (configuration, replicas that serve all of it), cheapest first. Among models of
the highest priority the one with the largest regret (second cheapest offer - cheapest offer) takes
its cheapest offer; if that no longer fits, the offer is struck and the regret computed anew. A
model without offers left takes whatever fits. One configuration a model, limited GPUs.
max_min bisects the scale at which every model still finds an offer.

Source: the idea of the greedy solver of llm-d's workload-variant-autoscaler (Apache-2.0): greedy by
regret within priority, one accelerator type a server, limited units.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.strategies.cost_efficient import bisect
from motley_planner.strategies.finish import plan_counts
from motley_planner.strategies.loads import Loads, one_policy_loads
from motley_planner.strategies.scorer import Scorer
from motley_planner.strategies.stock import plus
from motley_planner.strategies.views import NOTHING_FOUND, Counts, refuse, with_policies


@dataclass(frozen=True, slots=True)
class Offer:
    """Serving a whole model with `replicas` of one column."""

    column: int
    replicas: int
    cost: float


@dataclass(slots=True)
class Claim:
    """A model that waits, with the offers it still has, cheapest first."""

    model: str
    priority: int
    offers: list[Offer]

    @property
    def regret(self) -> float:
        """What waiting may cost: second cheapest - cheapest offer."""
        if len(self.offers) < 2:
            return math.inf if self.offers else -math.inf
        return self.offers[1].cost - self.offers[0].cost


def solve(table: FleetTable) -> Solution:
    """The greedy plan.

    Raises: SnapshotError where no colocated column serves anything that is asked for.
    """
    scorer = Scorer(table)
    chosen, loads = one_policy_loads(scorer.table)
    serving = any(
        c.phase == "both" and any(c.requests_per_second.get(k, 0.0) > 0 for k in loads)
        for c in table.columns
    )
    if not serving:
        raise refuse("greedy-regret", "a colocated column (phase both) that serves a demand")
    counts, _ = allocate(scorer, loads)
    if table.objective == "max_min":
        counts = _largest_scale(scorer, loads) or counts
    counts = scorer.stock.whole(counts)
    plan = plan_counts(with_policies(table, chosen), counts, 0.2 * table.time_limit_s)
    return plan or NOTHING_FOUND


def _largest_scale(scorer: Scorer, loads: Loads) -> Counts | None:
    relaxed = scorer.relaxed()
    scale = scorer.index.demand.scale
    assert scale is not None
    found: list[Counts] = []

    def reached(value: float) -> float | None:
        counts, whole = allocate(scorer, {k: load * value for k, load in loads.items()})
        if whole:
            found.append(counts)
        return value if whole else None

    bisect(0.0, float(relaxed.x[scale]) if relaxed.x is not None else 0.0, reached, scorer)
    return found[-1] if found else None


def allocate(scorer: Scorer, loads: Loads) -> tuple[Counts, bool]:
    """Counts after every model had its turn, and whether each found an offer for all it asks."""
    counts, whole = scorer.nothing, True
    claims = _claims(scorer.table, loads)
    while claims:
        claim = max(claims, key=lambda c: (c.priority, c.regret, c.model))
        if not claim.offers:
            claims.remove(claim)
            counts, whole = _whatever_fits(scorer, counts, loads, claim.model), False
            continue
        offer = claim.offers[0]
        more = plus(counts, offer.column, offer.replicas)
        if scorer.stock.most_more(counts, offer.column) >= offer.replicas and _payable(
            scorer, more
        ):
            counts = more
            claims.remove(claim)
        else:
            claim.offers.pop(0)
    return counts, whole


def _payable(scorer: Scorer, counts: Counts) -> bool:
    """Whether nodes with a price of their own can be had for these counts."""
    if not scorer.buys_nodes or scorer.table.objective == "min_cost":
        return True
    return scorer.score(counts) is not None


def _claims(table: FleetTable, loads: Loads) -> list[Claim]:
    by_model: dict[str, list[str]] = defaultdict(list)
    priorities: dict[str, int] = {}
    for request_class in table.classes:
        if request_class.name in loads:
            by_model[request_class.model].append(request_class.name)
            highest = max(
                priorities.get(request_class.model, request_class.priority), request_class.priority
            )
            priorities[request_class.model] = highest
    return [
        Claim(model, priorities[model], _offers(table, {k: loads[k] for k in names}))
        for model, names in by_model.items()
    ]


def _offers(table: FleetTable, loads: Loads) -> list[Offer]:
    found = []
    for i, column in enumerate(table.columns):
        able = all(column.requests_per_second.get(k, 0.0) > 0 for k in loads)
        if column.phase == "both" and able:
            busy = sum(load / column.requests_per_second[k] for k, load in loads.items())
            replicas = max(column.min_count, math.ceil(busy - 1e-9))
            cost = replicas * (column.price_usd_per_hour + 1e-6 * column.gpus)
            found.append(Offer(i, max(1, replicas), cost))
    return sorted(found, key=lambda offer: offer.cost)


def _whatever_fits(scorer: Scorer, counts: Counts, loads: Loads, model: str) -> Counts:
    """Best effort: one more replica after another, cheapest capacity first, up to the demand."""
    columns = scorer.table.columns
    wanted = {
        c.name: loads[c.name] for c in scorer.table.classes if c.model == model and c.name in loads
    }
    for name, load in sorted(wanted.items()):
        able = [
            i
            for i, c in enumerate(columns)
            if c.phase == "both" and c.requests_per_second.get(name, 0.0) > 0
        ]
        able.sort(
            key=lambda i: (
                (columns[i].price_usd_per_hour + 1e-6 * columns[i].gpus)
                / columns[i].requests_per_second[name]
            )
        )
        for i in able:
            capacity = columns[i].requests_per_second[name]
            wanted_more = max(math.ceil(load / capacity - 1e-9), scorer.stock.step(counts, i))
            more = min(scorer.stock.most_more(counts, i), wanted_more)
            while more > 0 and not _payable(scorer, plus(counts, i, more)):
                more -= 1
            if more > 0:
                counts, load = plus(counts, i, more), load - more * capacity
    return counts
