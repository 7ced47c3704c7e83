"""The candidate of a replica that already runs, even where enumeration would not list it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from motley_planner.candidates.candidate import Candidate
from motley_planner.candidates.jobs import (
    rollout_request,
    trainer_rate,
    trainer_shape,
    trainer_stage,
)
from motley_planner.candidates.phases import candidate_for_phase
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.request import Request, is_allowed
from motley_planner.candidates.serving import (
    can_split,
    candidate_at,
    of_requests,
    offered,
    scaled,
    shape_of,
)
from motley_planner.candidates.shared_memory import shared_point
from motley_planner.candidates.spanning import candidate_for_pipeline
from motley_planner.candidates.targets import targets_of
from motley_planner.domain.demand import RlDemand, RunningUnit, ServingDemand
from motley_planner.domain.hardware import Catalog, NodeClass


def candidate_for_pieces(
    unit: RunningUnit,
    demand: ServingDemand | RlDemand,
    node_classes: Sequence[NodeClass],
    catalog: Catalog,
    variant: int = 1,
) -> Candidate | None:
    """The candidate of a running replica from the node class of each of its nodes, in order.

    None where it may no longer run as it is; nodes of a replica that is not a pipeline are alike. `variant`
    is that of a prefill replica's points.
    """
    found = _candidate_for_pieces(unit, demand, node_classes, catalog, variant)
    if found is None or isinstance(demand, RlDemand):
        return found
    stage = next(stage for stage in demand.stages if stage.name == unit.stage)
    return of_requests(found, stage)


def _candidate_for_pieces(
    unit: RunningUnit,
    demand: ServingDemand | RlDemand,
    node_classes: Sequence[NodeClass],
    catalog: Catalog,
    variant: int,
) -> Candidate | None:
    if unit.pipeline:
        request = _request(unit, demand)
        if request is None or any(unit.key in c.excluded_for for c in node_classes):
            return None
        return candidate_for_pipeline(unit, request, node_classes, catalog)
    if len(set(node_classes)) != 1:
        return None
    if unit.phase != "both":
        request = _request(unit, demand)
        return (
            None
            if request is None
            else candidate_for_phase(unit, request, node_classes[0], catalog, variant)
        )
    return candidate_for_unit(unit, demand, node_classes[0], catalog)


def candidate_for_unit(
    unit: RunningUnit,
    demand: ServingDemand | RlDemand,
    node_class: NodeClass,
    catalog: Catalog,
) -> Candidate | None:
    """The candidate of a running replica's configuration; None if it may no longer run as it is.

    None: another model or precision is asked for, the placement excludes its node class, its size
    is no longer allowed, or it meets no class's targets.
    """
    if unit.gpu != node_class.gpu or unit.key in node_class.excluded_for:
        return None
    if isinstance(demand, RlDemand) and unit.role == "trainer":
        return _trainer(unit, demand, node_class, catalog)
    request = _request(unit, demand)
    if request is None or not _still_asked(unit, request, node_class):
        return None
    point = _point(unit, request, catalog)
    if point is None:
        return None
    point = scaled(point, request.per_unit)
    point = replace(point, batch=unit.operating_batch)
    return candidate_at(shape_of(request, unit.gpu, unit.tensor_parallel), node_class, point)


def _request(unit: RunningUnit, demand: ServingDemand | RlDemand) -> Request | None:
    if isinstance(demand, RlDemand):
        return rollout_request(demand) if unit.role == "rollout" else None
    stage = next((s for s in demand.stages if s.name == unit.stage), None)
    if stage is None:
        return None
    targets = targets_of(demand.slo)
    return Request(demand.key, "serve", stage, demand.classes, targets, demand.headroom)


def _still_asked(unit: RunningUnit, request: Request, node_class: NodeClass) -> bool:
    stage = request.stage
    return (
        unit.model == stage.model.name
        and unit.precision == stage.precision
        and can_split(stage, unit.tensor_parallel)
        and len(unit.nodes) == 1
        and is_allowed(stage.placement, node_class)
    )


def _point(unit: RunningUnit, request: Request, catalog: Catalog) -> OperatingPoint | None:
    evaluator, loads, points = offered(request, unit.gpu, unit.tensor_parallel, catalog)
    if isinstance(evaluator, str) or not loads:
        return None
    for point in points:
        if point.batch == unit.operating_batch:
            return point
    shared = shared_point(evaluator, loads, unit.operating_batch)
    if shared is not None:
        return shared
    # Another workload or target than it was started for: as many classes as still hold at its batch.
    for size in range(len(loads), 0, -1):
        admitted = loads[:size]
        batch = min(unit.operating_batch, int(min(load.most_sequences for load in admitted)))
        if batch >= 1 and evaluator.holds(admitted, batch):
            return evaluator.point(admitted, batch)
    return None


def _trainer(
    unit: RunningUnit, job: RlDemand, node_class: NodeClass, catalog: Catalog
) -> Candidate | None:
    stage = trainer_stage(job)
    if unit.model != stage.model.name or not is_allowed(stage.placement, node_class):
        return None
    gang = (unit.tensor_parallel, len(unit.nodes))
    if not job.admits_gang(gang[0] * gang[1]):
        return None
    rate = trainer_rate(job, unit.gpu, gang, catalog)
    if isinstance(rate, str):
        return None
    shape = trainer_shape(job, unit.gpu, *gang)
    return shape.at(node_class, unit.operating_batch, {"trainer": rate}, {}, {})
