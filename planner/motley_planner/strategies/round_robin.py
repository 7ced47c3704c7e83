"""Round robin, in what is bought and in where requests go.

Models take turns, and within a model its GPU types (each with the configuration that serves most a
GPU), one replica a turn, until everything is served (max_min: until nothing more fits). Then every
replica that can serve a class gets an equal share of it, however fast it is:  served share = 1 / max over columns of sum_k load_k / (replicas serving k x capacity).

Source: the round-robin assignment that "Demystifying Cost-Efficiency in LLM Serving over
Heterogeneous GPUs" (ICML 2025, arXiv 2502.00722) ablates against.
"""

from __future__ import annotations

from itertools import zip_longest

from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.strategies.finish import plan_counts
from motley_planner.strategies.loads import Loads, one_policy_loads
from motley_planner.strategies.scorer import Scorer
from motley_planner.strategies.stock import plus
from motley_planner.strategies.views import NOTHING_FOUND, Counts, refuse, with_policies

ENOUGH = 1.0 - 1e-12


def solve(table: FleetTable) -> Solution:
    """The round-robin plan; `no_solution` where min_cost cannot serve everything this way.

    Raises: SnapshotError where no colocated column serves anything that is asked for.
    """
    scorer = Scorer(table)
    scorer.relaxed()
    chosen, loads = one_policy_loads(scorer.table)
    serving = [
        i
        for i, c in enumerate(scorer.table.columns)
        if c.phase == "both" and any(c.requests_per_second.get(k, 0.0) > 0 for k in loads)
    ]
    if not serving:
        raise refuse("round-robin", "a colocated column (phase both) that serves a demand")
    counts = _buy(scorer, _turns(scorer.table, serving, loads), loads)
    if table.objective == "max_min":
        share = equal_share(scorer.table, counts, loads)
    else:  # a class that got no replica is unserved, and no reason to serve no other
        had = {k: loads[k] for _, k in _parts(scorer.table, counts, loads)}
        share = min(1.0, equal_share(scorer.table, counts, had))
    limits = {
        (scorer.table.columns[i].id, k): share * loads[k] * part
        for (i, k), part in _parts(scorer.table, counts, loads).items()
    }
    plan = plan_counts(
        with_policies(table, chosen), counts, 0.2 * table.time_limit_s, rate_limits=limits
    )
    return plan or NOTHING_FOUND


def _turns(table: FleetTable, serving: list[int], loads: Loads) -> list[int]:
    """The best column of each (model, GPU types), the models' first ones first."""
    best: dict[str, dict[frozenset[str], int]] = {}

    def worth(i: int) -> float:
        rates = table.columns[i].requests_per_second
        return sum(rates.get(k, 0.0) / load for k, load in loads.items()) / table.columns[i].gpus

    for i in serving:
        column = table.columns[i]
        types = frozenset(f.gpu for f in column.fragments)
        mine = best.setdefault(column.model, {})
        if types not in mine or worth(i) > worth(mine[types]):
            mine[types] = i
    rounds = zip_longest(*(mine.values() for mine in best.values()))
    return [i for turn in rounds for i in turn if i is not None]


def _buy(scorer: Scorer, serving: list[int], loads: Loads) -> Counts:
    """One replica of each in turn; a column that no longer fits is passed over."""
    counts, left = scorer.nothing, serving
    while left and not scorer.out_of_time:
        served = equal_share(scorer.table, counts, loads) >= ENOUGH
        if served and scorer.table.objective != "max_min":
            break
        bought = []
        for i in left:
            if scorer.stock.most_more(counts, i) > 0:
                more = plus(counts, i, scorer.stock.step(counts, i))
                if scorer.buys_nodes and scorer.score(more) is None and _placing(scorer):
                    continue
                counts = more
                bought.append(i)
        left = bought
    return counts


def _placing(scorer: Scorer) -> bool:
    """Whether a score of None means that nodes cannot be paid, and not that demand is unserved."""
    return scorer.table.objective != "min_cost"


def equal_share(table: FleetTable, counts: Counts, loads: Loads) -> float:
    """The largest scale at which equal shares overload no replica; 0 where a class has none."""
    parts = _parts(table, counts, loads)
    if {k for _, k in parts} != set(loads):
        return 0.0
    busy: dict[int, float] = {}
    for (i, k), part in parts.items():
        capacity = table.columns[i].requests_per_second[k]
        busy[i] = busy.get(i, 0.0) + loads[k] * part / (counts[i] * capacity)
    return 1.0 / max(busy.values()) if busy else 0.0


def _parts(table: FleetTable, counts: Counts, loads: Loads) -> dict[tuple[int, str], float]:
    """(column, class) -> share of the class that goes to the column."""
    able = {
        (i, k): counts[i]
        for i, c in enumerate(table.columns)
        for k in loads
        if c.phase == "both" and counts[i] and c.requests_per_second.get(k, 0.0) > 0
    }
    total = {k: sum(n for (_, kk), n in able.items() if kk == k) for k in loads}
    return {(i, k): n / total[k] for (i, k), n in able.items()}
