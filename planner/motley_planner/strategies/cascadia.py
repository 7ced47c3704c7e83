"""Bi-level planning of cascades: routing policies outside, GPUs per model inside.

Inner: with the policy fixed each model m has its load, and l_m(f) is the best it can do with f equal
GPUs. The paper's l is the p95 latency of a simulator; on a table, whose capacities already hold
the SLOs, it is the load factor 1 / (largest scale of its rates). The split

    minimize L   subject to   sum_m f_m <= N,   l_m(f_m) <= L

is solved by bisection over the values of l (exact, since l falls with f) or by the paper's MILP.
Outer: sweep the policies, minimize J = L + MU max(0, (floor - quality) / (best - worst quality)).
One pool of equal GPUs (a node class) at a time, as in the paper; the best pool's plan counts.

Source: "Cascadia", ICLR 2026, arXiv 2506.04203 (bi-level loop, MILP and J; the theta update is not
published, so all policies are tried, one cascade after another).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import CascadeDemand, CascadePolicy, FleetTable
from motley_planner.strategies.finish import plan_counts
from motley_planner.strategies.loads import cheapest_policy, loads_of
from motley_planner.strategies.min_max import Ladder, ladder, split_by_bisection
from motley_planner.strategies.scorer import Scorer
from motley_planner.strategies.views import (
    NOTHING_FOUND,
    Counts,
    is_better,
    level_values,
    refuse,
    with_policies,
)

MU = 100.0  # weight of a missed quality floor; the paper's worked example uses 100
ROUNDS = 3  # sweeps over all cascades
Chosen = dict[str, CascadePolicy]
NodeClass = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Split:
    """GPUs of one pool over the models, and the load factor L it reaches."""

    factor: float
    counts: Counts
    gpus: int


def penalized(factor: float, quality: float, floor: float, span: float, mu: float = MU) -> float:
    """J = factor + mu max(0, (floor - quality) / span), the outer objective (smaller is better).

    Source: arXiv 2506.04203 v2; its example gives 21.0 and 11.4 (mu 100, span 0.20, floor 0.90).
    """
    return factor + mu * max(0.0, (floor - quality) / span)


def solve(table: FleetTable) -> Solution:
    """The best one-pool, one-policy plan.

    Raises: SnapshotError without a cascade that asks for something, or without colocated columns.
    """
    if not any(c.requests_per_second > 0 for c in table.cascades):
        raise refuse("cascadia", "a cascade with a positive rate")
    if not any(c.phase == "both" for c in table.columns):
        raise refuse("cascadia", "colocated columns (phase both)")
    scorer = Scorer(table, settle=False)
    scorer.relaxed()
    limit = 0.1 * table.time_limit_s
    best = plan_counts(table, scorer.nothing, limit) or NOTHING_FOUND
    for pool in _pools(scorer.table):
        search = _Search(scorer, pool)
        chosen, split = search.sweep()
        if split is None:
            continue
        settled = with_policies(table, {name: p.id for name, p in chosen.items()})
        counts = scorer.stock.trimmed(scorer.stock.whole(split.counts))
        plan = plan_counts(settled, counts, limit)
        if plan is not None and is_better(level_values(plan), level_values(best)):
            best = plan
    return best


def _pools(table: FleetTable) -> list[NodeClass]:
    """Node classes that hold whole replicas."""
    found: dict[NodeClass, None] = {}
    for column in table.columns:
        if column.phase == "both" and len({f.gpu for f in column.fragments}) == 1:
            found[column.fragments[0].gpu, column.zone] = None
    return list(found)


class _Search:
    """One pool of equal GPUs: its size, and l_m(f) by model and load, remembered."""

    def __init__(self, scorer: Scorer, pool: NodeClass) -> None:
        self.scorer, self.table = scorer, scorer.table
        self.columns = [
            i
            for i, c in enumerate(self.table.columns)
            if c.phase == "both" and {(f.gpu, c.zone) for f in c.fragments} == {pool}
        ]
        self.gpus = self._pool_gpus(pool)
        self.known: dict[tuple[tuple[str, float], ...], Ladder] = {}

    def _pool_gpus(self, pool: NodeClass) -> int:
        groups = [g for g in self.table.nodes if (g.gpu, g.zone) == pool]
        sizes = [math.inf if g.count is None else g.count * g.gpus for g in groups]
        most = sum(sizes)
        columns = self.table.columns
        each = [columns[i].price_usd_per_hour / columns[i].gpus for i in self.columns]
        budget = self.table.budget_usd_per_hour
        if budget is not None and each and min(each) > 0:
            most = min(most, budget / min(each) + 1e-9)
        return math.floor(min(most, 4096))

    def sweep(self) -> tuple[Chosen, Split | None]:
        """The policies with the smallest J, cascade after cascade until none changes."""
        chosen = {c.name: self._start(c) for c in self.table.cascades if c.policies}
        best = self.split(chosen)
        for _ in range(ROUNDS):
            before = dict(chosen)
            for cascade in self.table.cascades:
                if cascade.requests_per_second > 0 and not self.scorer.out_of_time:
                    chosen, best = self._improve(cascade, chosen, best)
            if chosen == before:
                break
        return chosen, best

    @staticmethod
    def _start(cascade: CascadeDemand) -> CascadePolicy:
        return cheapest_policy(cascade) or max(cascade.policies, key=lambda p: p.quality)

    def _improve(
        self, cascade: CascadeDemand, chosen: Chosen, best: Split | None
    ) -> tuple[Chosen, Split | None]:
        key = self._rank(cascade, chosen, best)
        for policy in cascade.policies:
            trial = {**chosen, cascade.name: policy}
            split = self.split(trial)
            rank = self._rank(cascade, trial, split)
            if rank < key and policy.quality >= cascade.quality_floor:
                chosen, best, key = trial, split, rank
        return chosen, best

    def _rank(
        self, cascade: CascadeDemand, chosen: Chosen, split: Split | None
    ) -> tuple[float, int]:
        """J, then GPUs; a load factor under 1 is worth nothing where demand is fixed."""
        if split is None:
            return math.inf, 0
        factor = split.factor if self.table.objective == "max_min" else max(1.0, split.factor)
        qualities = [p.quality for p in cascade.policies]
        span = max(max(qualities) - min(qualities), 1e-9)
        quality = chosen[cascade.name].quality
        return penalized(factor, quality, cascade.quality_floor, span), split.gpus

    def split(self, chosen: Chosen) -> Split | None:
        """The pool's GPUs over models under these policies; None where a model has no room."""
        loads = loads_of(self.table, chosen)
        models: dict[str, dict[str, float]] = {}
        for request_class in self.table.classes:
            if request_class.name in loads:
                of_model = models.setdefault(request_class.model, {})
                of_model[request_class.name] = loads[request_class.name]
        ladders = [self._ladder(tuple(sorted(of.items()))) for of in models.values()]
        fixed = self.table.objective != "max_min"
        if self.table.objective == "goodput":  # a model that cannot be served is no reason to stop
            ladders = [lad for lad in ladders if math.isfinite(lad.factors[-1])]
        found = split_by_bisection(
            [lad.factors for lad in ladders], self.gpus, 1.0 if fixed else 0.0
        )
        if found is None:
            return None
        counts = list(self.scorer.nothing)
        for lad, gpus in zip(ladders, found.gpus, strict=True):
            for i in lad.replicas(gpus):
                counts[self.columns[i]] += 1
        return Split(found.factor, tuple(counts), sum(found.gpus))

    def _ladder(self, loads: tuple[tuple[str, float], ...]) -> Ladder:
        if loads not in self.known:
            columns = [self.table.columns[i] for i in self.columns]
            self.known[loads] = ladder(columns, dict(loads), self.gpus)
        return self.known[loads]
