"""Which placed replica gets which name: kept ones keep theirs, new ones take the lowest free ordinal.

A name tells the column that a replica was started for; one that changed its role has another by now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.plan import PlannedReplica
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import PlacedReplica, Solution
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.demands import EXTRA_SUFFIX
from motley_planner.planning.tiers import SEPARATOR


def name_replicas(
    solution: Solution, assembly: Assembly, snapshot: Snapshot
) -> dict[str, list[PlannedReplica]]:
    """Planned replicas by resource key, named "<stage>-<column hash>-<ordinal>".

    A name is never given twice while something with it is still there (`snapshot.reserved`), so
    that creating a pod is the same request however often it is made.
    """
    running = {unit.id: unit for unit in snapshot.running}
    taken = set(snapshot.reserved) | set(running)
    shares, chosen = _shares(solution), _chosen_tiers(solution, assembly)
    counts = Counter(placed.column for placed in solution.placement)
    named: dict[str, list[PlannedReplica]] = {}
    order = sorted(solution.placement, key=lambda p: (p.kept is None, p.column, p.nodes))
    for placed in order:
        candidate = assembly.candidates[placed.column]
        ordinal = _ordinal(placed, running, taken, assembly)
        name = f"{candidate.stage}-{candidate.column}-{ordinal}"
        if placed.kept is not None and candidate.phase != "both":
            name = placed.kept.rpartition("/")[2]
        taken.add(f"{candidate.key}/{name}")
        rates, count = shares.get(placed.column, {}), counts[placed.column]
        worth = assembly.columns[placed.column].worth_of(count) / count
        able = _admitted(placed.column, chosen, assembly)
        capacity = {n: rate * worth for n, rate in candidate.capacity.items() if able(n)}
        named.setdefault(candidate.key, []).append(
            PlannedReplica(
                name=name,
                stage=candidate.stage,
                role=candidate.role,
                column=candidate.column,
                ordinal=ordinal,
                model=candidate.model,
                precision=candidate.precision,
                engine=candidate.engine,
                gpu=candidate.gpu,
                tensor_parallel=candidate.tensor_parallel,
                operating_batch=candidate.operating_batch,
                nodes=placed.nodes,
                kept=placed.kept,
                rates={n: r for n in capacity if (r := rates.get(n, 0.0)) > 0},
                capacity=capacity,
                price_usd_per_hour=candidate.price_usd_per_hour,
                pipeline=candidate.pipeline,
                phase=candidate.phase,
                kv_scale=candidate.kv_scale,
            )
        )
    return named


def _chosen_tiers(solution: Solution, assembly: Assembly) -> dict[tuple[str, str], int]:
    """The tier that a plan has chosen, by key and stage; a stage keeps to one."""
    found: dict[tuple[str, str], int] = {}
    for policy in solution.policies:
        tiered = {t.id: t for t in assembly.tiered.get(policy.cascade, ())}
        if policy.share > 0.0 and policy.id in tiered:
            stages = assembly.tiers[policy.cascade]
            for stage, tier in zip(stages, tiered[policy.id].combination, strict=True):
                found[policy.cascade, stage] = tier
    return found


def _admitted(
    column: str, chosen: Mapping[tuple[str, str], int], assembly: Assembly
) -> Callable[[str], bool]:
    """Whether a replica may get requests of a class: a gateway borrows wherever there is capacity.

    One that goes on but is slower than the tier its stage was planned at gets none.
    """
    candidate = assembly.candidates[column]
    tier = chosen.get((candidate.key, candidate.stage))
    if tier is None:
        return lambda _: True
    served = assembly.columns[column].requests_per_second
    base = f"{candidate.key}/{candidate.stage}/"
    return lambda name: f"{base}{name}{SEPARATOR}{tier}" in served


def _ordinal(
    placed: PlacedReplica,
    running: dict[str, RunningUnit],
    taken: set[str],
    assembly: Assembly,
) -> int:
    if placed.kept is not None:
        return int(running[placed.kept].id.rpartition("-")[2])
    candidate = assembly.candidates[placed.column]
    stem = f"{candidate.key}/{candidate.stage}-{candidate.column}-"
    ordinal = 0
    while f"{stem}{ordinal}" in taken:
        ordinal += 1
    return ordinal


def _shares(solution: Solution) -> dict[str, dict[str, float]]:
    """Requests/s of one replica of each column, by the resource's own class names.

    Equal replicas share a column's rate equally. Demand beyond what was asked is counted with the
    class it came from.
    """
    counts = {r.column: r.count for r in solution.replicas}
    rates: dict[str, dict[str, float]] = {}
    for rate in solution.rates:
        name = rate.request_class.rpartition("/")[2].removesuffix(EXTRA_SUFFIX)
        name = name.partition(SEPARATOR)[0]
        mine = rates.setdefault(rate.column, {})
        each = rate.requests_per_second / max(1, counts.get(rate.column, 0))
        mine[name] = mine.get(name, 0.0) + each
    return rates
