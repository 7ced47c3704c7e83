"""Quotas as rows of the table: what all pods of some resources take together.

A row's coefficients are what the pods of one replica take, whatever the quota counts. What runs is
never stopped for a quota. Where it takes more than it may (a limit was lowered under it), each
column is held at what runs, for nothing new would be admitted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from motley_planner.candidates import Candidate
from motley_planner.domain.demand import RunningUnit, StageDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.quotas import PodUse, Quota
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import SideRow
from motley_planner.planning.assembly import Assembly, QuotaRow

QUOTA = "quota"  # how the names of these rows start
_Uses = dict[tuple[str, str, str], PodUse]


def with_uneven_sizes(snapshot: Snapshot) -> Snapshot:
    """The snapshot with the sizes of pods for which two of half the size do not stand in.

    Under a quota that counts pods, or that does not admit the smaller one, a larger pod may be the
    better or the only one, though two of half its size serve as much.
    """
    uneven: dict[tuple[str, str], set[int]] = {}
    for use in (use for quota in snapshot.quotas for use in quota.uses):
        sizes = range(2, 2 * len(use.amounts) + 1, 2)
        found = {gpus for gpus in sizes if use.of(gpus) < 2 * use.of(gpus // 2)}
        uneven.setdefault((use.key, use.stage), set()).update(found)

    def marked(key: str, stage: StageDemand) -> StageDemand:
        sizes = uneven.get((key, stage.name), set())
        return replace(stage, uneven_sizes=frozenset(sizes)) if sizes else stage

    if not uneven:
        return snapshot
    services = (
        replace(s, stages=tuple(marked(s.key, stage) for stage in s.stages))
        for s in snapshot.services
    )
    jobs = (replace(job, rollout=marked(job.key, job.rollout)) for job in snapshot.jobs)
    return replace(snapshot, services=tuple(services), jobs=tuple(jobs))


def add_quota(assembly: Assembly, snapshot: Snapshot, quota: Quota, catalog: Catalog) -> None:
    """The rows of a quota, over all columns that take any of it."""
    uses: _Uses = {(use.key, use.stage, use.vendor): use for use in quota.uses}
    amounts = {
        c.id: amount
        for c in assembly.candidates.values()
        if (amount := _replica(c, uses, catalog)) > 0
    }
    if not amounts:
        return
    held = sum(_unit(unit, uses, catalog) for unit in _left_alone(assembly, snapshot))
    # In steps of what all amounts have in common, so that a plan is under by a step or over by one.
    step = math.gcd(*amounts.values())
    room = max(0, (quota.at_most - held) // step * step)
    running = Counter(replica.column for replica in assembly.replicas)
    there = sum(amounts.get(column, 0) * count for column, count in running.items())
    row = QuotaRow(quota, amounts, room, max(room, there))
    assembly.quotas.append(row)
    assembly.side_rows += _rows(row, running)


def quota_left(row: QuotaRow, solution: Solution) -> int:
    """What a plan leaves of a quota; negative where what runs takes more than it may."""
    return row.room - sum(row.amounts.get(r.column, 0) * r.count for r in solution.replicas)


def full_quotas(key: str, solution: Solution, assembly: Assembly) -> tuple[str, ...]:
    """Names of the quotas that leave no room for one more replica of any column of a resource."""
    columns = [c.id for c in assembly.of(key)]
    full = []
    for row in assembly.quotas:
        least = min((row.amounts.get(column, 0) for column in columns), default=0)
        if 0 < least and quota_left(row, solution) < least:
            full.append(row.quota.name)
    return tuple(full)


def _rows(row: QuotaRow, running: Counter[str]) -> Iterator[SideRow]:
    name = f"{QUOTA}|{row.quota.name}"
    terms = {column: float(amount) for column, amount in row.amounts.items()}
    yield SideRow(name, terms, at_most=float(row.at_most))
    for column in row.amounts if row.is_over else ():
        yield SideRow(f"{name}|{column}", {column: 1.0}, at_most=float(running[column]))


def _replica(candidate: Candidate, uses: _Uses, catalog: Catalog) -> int:
    """What all pods of one replica take together; its first GPU's vendor counts, as for its pods."""
    use = uses.get((candidate.key, candidate.stage, catalog.gpus[candidate.gpu].vendor))
    return sum(use.of(gpus) for _, gpus, _ in candidate.parts) if use is not None else 0


def _unit(unit: RunningUnit, uses: _Uses, catalog: Catalog) -> int:
    gpu = catalog.gpus.get(unit.gpu)
    use = uses.get((unit.key, unit.stage, gpu.vendor)) if gpu is not None else None
    return sum(use.of(unit.gpus_on(i)) for i in range(len(unit.nodes))) if use is not None else 0


def _left_alone(assembly: Assembly, snapshot: Snapshot) -> Iterator[RunningUnit]:
    """Units that go on whatever is planned, and are no column's replicas."""
    planned = {replica.id for replica in assembly.replicas} | assembly.not_allowed
    return (unit for unit in snapshot.running if unit.id not in planned)
