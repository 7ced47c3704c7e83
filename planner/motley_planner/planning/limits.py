"""Side rows of the table: budgets, GPU limits, spot shares, replica minimums, gangs, freezes.

A row's name is "<key>|<what>", so that a shortfall can be told to its owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from motley_planner.candidates import Candidate
from motley_planner.domain.demand import Demand, RlDemand, ServingDemand
from motley_planner.domain.table import SideRow
from motley_planner.planning.assembly import Assembly


def add_limits(assembly: Assembly, demand: Demand) -> None:
    """Rows of one resource; call when all its columns are there."""
    rows, key = assembly.side_rows, demand.key
    candidates = assembly.of(key)
    budget = demand.budget
    if budget.usd_per_hour is not None:
        prices = {c.id: c.price_usd_per_hour for c in candidates}
        rows.append(SideRow(f"{key}|budget", prices, at_most=budget.usd_per_hour))
    if budget.gpus is not None:
        gpus = {c.id: float(c.gpus) for c in candidates}
        rows.append(SideRow(f"{key}|gpus", gpus, at_most=float(budget.gpus)))
    stages = demand.stages if isinstance(demand, ServingDemand) else (demand.rollout,)
    for stage in stages:
        mine = assembly.of(key, stage.name)
        share = stage.placement.max_spot_share
        if share is not None:
            rows.append(SideRow(f"{key}|{stage.name}|spot", _spot(mine, share), at_most=0.0))
        if stage.min_replicas:
            ones = {c.id: 1.0 for c in mine}
            minimum = float(stage.min_replicas)
            rows.append(SideRow(f"{key}|{stage.name}|replicas", ones, at_least=minimum))
    if isinstance(demand, RlDemand):
        gangs = {c.id: 1.0 for c in assembly.of(key, "trainer")}
        rows.append(SideRow(f"{key}|trainer|gangs", gangs, at_most=1.0))
        if demand.max_rollout_replicas is not None:
            ones = {c.id: 1.0 for c in assembly.of(key, "rollout")}
            most = float(demand.max_rollout_replicas)
            rows.append(SideRow(f"{key}|rollout|most", ones, at_most=most))


def _spot(candidates: Sequence[Candidate], share: float) -> Mapping[str, float]:
    """spot GPUs <= share x all GPUs as coefficients: 1 - share for spot, -share for the rest."""
    return {
        c.id: c.gpus * ((1.0 if c.node_class.capacity_type == "spot" else 0.0) - share)
        for c in candidates
    }


def freeze(assembly: Assembly, key: str) -> None:
    """Hold a resource at what it runs: as many replicas of each column as now, and no other."""
    running = Counter(replica.column for replica in assembly.replicas)
    for candidate in assembly.of(key):
        count = float(running[candidate.id])
        name = f"{key}|frozen|{candidate.id}"
        row = SideRow(name, {candidate.id: 1.0}, at_most=count, at_least=count or None)
        assembly.side_rows.append(row)
