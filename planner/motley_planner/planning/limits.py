"""Side rows of the table: budgets, quotas, KV memory, spot shares, minimums, gangs, freezes.

A row's name is "<key>|<what>" ("fleet|..." and "quota|..." where no single resource owns it), so
that a shortfall can be told to its owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from motley_planner.candidates import Candidate
from motley_planner.domain.demand import Demand, RlDemand, ServingDemand, StageDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.table import SideRow
from motley_planner.planning.assembly import Assembly, class_id
from motley_planner.planning.quotas import add_quota

SPOT = "spot"


def add_limits(assembly: Assembly, demand: Demand) -> None:
    """Rows of one resource; call when all its columns are there."""
    rows, key = assembly.side_rows, demand.key
    candidates = assembly.of(key)
    budget = demand.budget
    if budget.usd_per_hour is not None:
        prices = {c.id: c.price_usd_per_hour for c in candidates}
        rows.append(SideRow(f"{key}|budget", prices, at_most=budget.usd_per_hour))
    if budget.gpus is not None:
        rows.append(SideRow(f"{key}|gpus", _gpus(candidates), at_most=float(budget.gpus)))
    stages = demand.stages if isinstance(demand, ServingDemand) else (demand.rollout,)
    for stage in stages:
        _add_stage(assembly, key, stage)
    if isinstance(demand, RlDemand):
        gangs = {c.id: 1.0 for c in assembly.of(key, "trainer")}
        rows.append(SideRow(f"{key}|trainer|gangs", gangs, at_most=1.0))
        if demand.max_rollout_replicas is not None:
            ones = {c.id: 1.0 for c in assembly.of(key, "rollout")}
            most = float(demand.max_rollout_replicas)
            rows.append(SideRow(f"{key}|rollout|most", ones, at_most=most))


def _add_stage(assembly: Assembly, key: str, stage: StageDemand) -> None:
    mine, rows = assembly.of(key, stage.name), assembly.side_rows
    share = stage.placement.max_spot_share
    if share is not None:
        terms = _spot_rates(assembly, mine, share)
        rows.append(SideRow(f"{key}|{stage.name}|spot", at_most=0.0, per_rate=terms))
    least = max(stage.min_replicas, stage.min_nodes)
    if least:
        ones = {c.id: 1.0 for c in mine}
        rows.append(SideRow(f"{key}|{stage.name}|replicas", ones, at_least=float(least)))


def _spot_rates(
    assembly: Assembly, candidates: Sequence[Candidate], share: float
) -> Mapping[tuple[str, str], float]:
    """spot requests/s <= share x all, as coefficients: 1 - share on spot, -share elsewhere."""
    return {
        (c.id, name): (1.0 if is_spot(c) else 0.0) - share
        for c in candidates
        for name, rate in assembly.columns[c.id].requests_per_second.items()
        if rate > 0
    }


def is_spot(candidate: Candidate) -> bool:
    """Whether a replica goes when spot capacity goes: any of its nodes is spot."""
    classes = getattr(candidate, "node_classes", ()) or (candidate.node_class,)
    return any(c.capacity_type == SPOT for c in classes)


def add_shared_limits(assembly: Assembly, snapshot: Snapshot, catalog: Catalog) -> None:
    """Rows over several resources: the fleet's GPUs, and quotas."""
    everything = tuple(assembly.candidates.values())
    if snapshot.budget_gpus is not None:
        left = max(0.0, float(snapshot.budget_gpus - sum(assembly.immovable.values())))
        assembly.side_rows.append(SideRow("fleet|gpus", _gpus(everything), at_most=left))
    for quota in snapshot.quotas:
        add_quota(assembly, snapshot, quota, catalog)


def _gpus(candidates: Iterable[Candidate]) -> dict[str, float]:
    return {c.id: float(c.gpus) for c in candidates}


def demand_names(demand: Demand) -> tuple[str, ...]:
    """The table's names of what a resource asks for: its classes, or its cascade."""
    if isinstance(demand, RlDemand) or demand.policies:
        return (demand.key,)
    return tuple(class_id(demand.key, demand.stages[0].name, c.name) for c in demand.classes)


def freeze(assembly: Assembly, key: str) -> None:
    """Hold a resource at what it runs: as many replicas of each column as now, and no other."""
    running = Counter(replica.column for replica in assembly.replicas)
    for candidate in assembly.of(key):
        count = float(running[candidate.id])
        name = f"{key}|frozen|{candidate.id}"
        row = SideRow(name, {candidate.id: 1.0}, at_most=count, at_least=count or None)
        assembly.side_rows.append(row)
