"""Prefill and decode on replicas of their own: the candidates of a stage.

What one replica can do is in `phase_replicas`. Which prefill replica feeds which decode replica is the
plan's choice; rows of bytes over links and networks bound it.

A prefill replica works off prompts one by one whatever its engine may run at once, so it is started
for the batch of a decode replica on the same GPUs: where the engine's process is the same for both
phases, either may then become the other (`same_process`).
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
VARIANTS = range(1, 5)  # of a prefill replica's points that what runs may take up


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
            for ranks, number, point in _points(request, (gpu, phase, kv_scale), catalog)
            for candidate in _placed(
                request, (gpu, ranks, phase, kv_scale), (number, point), allowed, catalog
            )
        ]
        found += _paired(made) if paired else made
    return tuple(found)


def candidate_for_phase(
    unit: RunningUnit,
    request: Request,
    node_class: NodeClass,
    catalog: Catalog,
    variant: int = 1,
) -> Candidate | None:
    """The candidate of a running prefill or decode replica; None if it may not go on as it is.

    A prefill replica may whatever batch its engine was started for, at each of its points.
    """
    stage, phase = request.stage, _phase_of(unit)
    same = unit.model == stage.model.name and unit.precision == stage.precision
    if not same:
        return None
    size = (unit.gpu, unit.tensor_parallel, phase, unit.kv_scale)
    if phase == "prefill":
        usable = is_allowed(stage.placement, node_class) and unit.key not in node_class.excluded_for
        points = _points(request, (unit.gpu, phase, unit.kv_scale), catalog) if usable else []
        fits = [one for *at, one in points if at == [unit.tensor_parallel, variant]]
        ours = [(variant, replace(one, batch=unit.operating_batch)) for one in fits]
        return next(_placed(request, size, ours[0], [node_class], catalog)) if ours else None
    listed = phase_candidates(request, [node_class], catalog, (unit.kv_scale,), paired=False)
    kind = (phase, unit.tensor_parallel, unit.operating_batch)
    for c in listed:
        if (c.phase, c.tensor_parallel, c.operating_batch) == kind:
            return c
    if not is_allowed(stage.placement, node_class):
        return None
    made = _replica_of(request, (unit.gpu, unit.kv_scale), unit.tensor_parallel, catalog)
    point = None if isinstance(made, str) else point_of_batch(made, unit.operating_batch, request)
    if point is None:
        return None
    return next(_placed(request, size, (1, point), [node_class], catalog), None)


def same_process(
    unit: RunningUnit, engine: str, catalog: Catalog
) -> tuple[tuple[RunningUnit, int], ...]:
    """As what else a unit of one phase may go on: units, and variants of their operating points.

    In its other role only where its engine's process is the same for both.
    """
    launch = catalog.engines[engine].launch
    if unit.phase == "both" or launch is None or launch.phases is None:
        return ()
    phases = _PHASES if launch.phases.interchangeable else (unit.phase,)
    return tuple(
        (replace(unit, phase=phase), variant)
        for phase in phases
        for variant in (VARIANTS if phase == "prefill" else (1,))
        if (phase, variant) != (unit.phase, 1)
    )


def _phase_of(unit: RunningUnit) -> Phase:
    return "prefill" if unit.phase == "prefill" else "decode"


def point_of_batch(one: PhaseReplica, batch: int, request: Request) -> OperatingPoint | None:
    """The decode point of a batch that other classes or targets may have chosen."""
    evaluator, loads = one.decoder(fitting_classes(request, one.evaluator.replica))
    return point_at_batch(evaluator, loads, batch) if loads else None


def _points(
    request: Request, kind: tuple[str, Phase, float], catalog: Catalog
) -> list[tuple[int, int, OperatingPoint]]:
    """GPUs, number and point of what replicas of a phase on a GPU type may do."""
    gpu, phase, kv_scale = kind
    found: list[tuple[int, int, OperatingPoint]] = []
    for ranks in TENSOR_PARALLEL:
        if not can_split(request.stage, ranks):
            continue
        one = _replica_of(request, (gpu, kv_scale), ranks, catalog)
        if isinstance(one, str):
            break
        loads = fitting_classes(request, one.evaluator.replica)
        halves = [point for half, _, point in found if 2 * half == ranks]
        found += [
            (ranks, number, point)
            for number, point in enumerate(phase_points(one, phase, loads), 1)
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
    offered: tuple[int, OperatingPoint],
    allowed: Sequence[NodeClass],
    catalog: Catalog,
) -> Iterator[Candidate]:
    """The candidates of a point on the node classes of its GPU type.

    A decode point is named by its batch; prefill points of one process by their number.
    """
    (gpu, ranks, phase, kv_scale), (number, point) = kind, offered
    assert catalog.fabric is not None, "load_catalog() always gives it"
    used = 1.0 - request.headroom if phase == "prefill" else 1.0
    shape = replace(
        shape_of(request, gpu, ranks),
        phase=phase,
        kv_scale=kv_scale,
        nic_bytes_per_s=ranks * catalog.fabric.nic_of(gpu) * used,
        variant=number if phase == "prefill" else 1,
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
