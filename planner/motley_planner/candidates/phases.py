"""Prefill and decode on replicas of their own: the candidates of a stage.

What one replica can do is in `phase_replicas`. Which prefill replica feeds which decode replica is the
plan's choice; rows of bytes over links and networks bound it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from motley_planner.candidates.candidate import Candidate, at_point
from motley_planner.candidates.phase_replicas import PhaseReplica, phase_points
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.request import Request, is_allowed
from motley_planner.candidates.serving import (
    TENSOR_PARALLEL,
    can_split,
    evaluator_of,
    fitting_classes,
    is_beaten_by_two,
    shape_of,
)
from motley_planner.candidates.shared_memory import point_at_batch
from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.table import Phase

_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def phase_candidates(
    request: Request,
    node_classes: Sequence[NodeClass],
    catalog: Catalog,
    kv_scales: Sequence[float] = (1.0,),
    *,
    paired: bool = True,
) -> tuple[Candidate, ...]:
    """Prefill and decode replicas on every node class that the placement allows.

    Only classes that both phases can serve (for one KV scale) are in `paired` ones. None where the allowed
    nodes are of several trust zones: KV caches would cross between them.
    """
    allowed = [
        c
        for c in node_classes
        if request.key not in c.excluded_for and is_allowed(request.stage.placement, c)
    ]
    if len({c.trust_zone for c in allowed}) != 1:
        return ()
    found: list[Candidate] = []
    for kv_scale in kv_scales:
        made = [
            candidate
            for phase in _PHASES
            for gpu in dict.fromkeys(c.gpu for c in allowed)
            for ranks, point in _points(request, (gpu, phase, kv_scale), catalog)
            for candidate in _placed(
                request, (gpu, ranks, phase, kv_scale), point, allowed, catalog
            )
        ]
        found += _paired(made) if paired else made
    return tuple(found)


def candidate_for_phase(
    unit: RunningUnit, request: Request, node_class: NodeClass, catalog: Catalog
) -> Candidate | None:
    """The candidate of a running prefill or decode replica; None if it may not go on as it is."""
    same = unit.model == request.stage.model.name and unit.precision == request.stage.precision
    if not same:
        return None
    listed = phase_candidates(request, [node_class], catalog, (unit.kv_scale,), paired=False)
    kind = (unit.phase, unit.tensor_parallel, unit.operating_batch)
    for c in listed:
        if (c.phase, c.tensor_parallel, c.operating_batch) == kind:
            return c
    if unit.phase != "decode" or not is_allowed(request.stage.placement, node_class):
        return None
    made = _replica_of(request, (unit.gpu, unit.kv_scale), unit.tensor_parallel, catalog)
    point = None if isinstance(made, str) else point_of_batch(made, unit.operating_batch, request)
    if point is None:
        return None
    phase: Phase = "decode"
    size = (unit.gpu, unit.tensor_parallel, phase, unit.kv_scale)
    return next(_placed(request, size, point, [node_class], catalog), None)


def point_of_batch(one: PhaseReplica, batch: int, request: Request) -> OperatingPoint | None:
    """The decode point of a batch that other classes or targets may have chosen."""
    evaluator, loads = one.decoder(fitting_classes(request, one.evaluator.replica))
    return point_at_batch(evaluator, loads, batch) if loads else None


def _points(
    request: Request, kind: tuple[str, Phase, float], catalog: Catalog
) -> list[tuple[int, OperatingPoint]]:
    gpu, phase, kv_scale = kind
    found: list[tuple[int, OperatingPoint]] = []
    for ranks in TENSOR_PARALLEL:
        if not can_split(request.stage, ranks):
            continue
        one = _replica_of(request, (gpu, kv_scale), ranks, catalog)
        if isinstance(one, str):
            break
        loads = fitting_classes(request, one.evaluator.replica)
        halves = [point for half, point in found if 2 * half == ranks]
        found += [
            (ranks, point)
            for point in phase_points(one, phase, loads)
            if not is_beaten_by_two(point, halves)
        ]
    return found


def _replica_of(
    request: Request, kind: tuple[str, float], ranks: int, catalog: Catalog
) -> PhaseReplica | str:
    """The replica on `ranks` GPUs of a type at a KV scale, or why it cannot run there."""
    gpu, kv_scale = kind
    assert catalog.fabric is not None, "load_catalog() always gives it"
    evaluator = evaluator_of(request, gpu, ranks, catalog)
    if isinstance(evaluator, str):
        return evaluator
    return PhaseReplica(evaluator, ranks * catalog.fabric.nic_of(gpu), kv_scale)


def _placed(
    request: Request,
    kind: tuple[str, int, Phase, float],
    point: OperatingPoint,
    allowed: Sequence[NodeClass],
    catalog: Catalog,
) -> Iterator[Candidate]:
    gpu, ranks, phase, kv_scale = kind
    assert catalog.fabric is not None, "load_catalog() always gives it"
    used = 1.0 - request.headroom if phase == "prefill" else 1.0
    shape = replace(
        shape_of(request, gpu, ranks),
        phase=phase,
        kv_scale=kv_scale,
        nic_bytes_per_s=ranks * catalog.fabric.nic_of(gpu) * used,
    )
    for node_class in allowed:
        if node_class.gpu == gpu:
            yield at_point(shape, (node_class,), point)


def _paired(found: Sequence[Candidate]) -> Iterator[Candidate]:
    """The candidates with only those classes that both phases serve."""
    sides = {phase: {n for c in found if c.phase == phase for n in c.capacity} for phase in _PHASES}
    both = sides["prefill"] & sides["decode"]
    for c in found:
        capacity, time, kv = (
            {name: value for name, value in table.items() if name in both}
            for table in (c.capacity, c.time_share, c.kv_share)
        )
        if capacity:
            yield replace(c, capacity=capacity, time_share=time, kv_share=kv)
