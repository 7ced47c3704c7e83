"""Candidates whose fragments sit on several nodes, maybe of several GPU types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from motley_planner.candidates.candidate import Candidate, Shape, at_point
from motley_planner.candidates.cut_replicas import point_at
from motley_planner.candidates.pipeline_grid import MOST_STAGES, Problem, grid_of
from motley_planner.candidates.pipelines import PipelinePoint, pipelines
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.request import Request, is_allowed
from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.hardware import Catalog, NodeClass

FEW_TYPES = 6  # up to as many GPU types four fragments are listed, else three

Place = tuple[str, str, str]  # zone, capacity type, trust zone


def pipeline_candidates(
    request: Request, allowed: Sequence[NodeClass], catalog: Catalog
) -> tuple[Candidate, ...]:
    """Replicas of two fragments or more on the allowed node classes; none where not asked for.

    Fragments share a zone, a trust zone and a capacity type: the activations of one request cross
    between them, and one fragment that is taken away takes the replica.
    """
    engine = catalog.engines[request.stage.engine]
    if request.stage.max_pipeline < 2 or not engine.pipeline_parallel or request.role != "serve":
        return ()
    places: dict[Place, dict[str, list[NodeClass]]] = {}
    for node_class in allowed:
        place = (node_class.zone, node_class.capacity_type, node_class.trust_zone)
        places.setdefault(place, {}).setdefault(node_class.gpu, []).append(node_class)
    gpus = sorted({node_class.gpu for node_class in allowed})
    found = [
        point
        for vendor in sorted({catalog.gpus[gpu].vendor for gpu in gpus})
        for point in pipelines(problem_of(request, _of(vendor, gpus, catalog), catalog))
    ]
    return tuple(
        candidate
        for classes in places.values()
        for one in found
        if all(f.gpu in classes for f in one.fragments)
        for candidate in _placed(request, one, classes)
    )


def problem_of(request: Request, gpus: Sequence[str], catalog: Catalog) -> Problem:
    """The enumeration problem of a stage on GPU types of one vendor."""
    stage = request.stage
    assert catalog.efficiency is not None and catalog.fabric is not None, (
        "load_catalog() gives both"
    )
    deepest = MOST_STAGES if len(gpus) <= FEW_TYPES else MOST_STAGES - 1
    return Problem(
        model=stage.model,
        precision=stage.precision,
        engine=catalog.engines[stage.engine],
        efficiency=catalog.efficiency,
        fabric=catalog.fabric,
        gpus=tuple(catalog.gpus[gpu] for gpu in gpus),
        classes=request.classes,
        targets=request.targets,
        busy=1.0 - request.headroom,
        max_tensor=stage.max_tensor_parallel,
        depth=min(stage.max_pipeline, deepest),
    )


def candidate_for_pipeline(
    unit: RunningUnit, request: Request, node_classes: Sequence[NodeClass], catalog: Catalog
) -> Candidate | None:
    """The candidate of a running pipeline, with the layers it has; None if it may not go on."""
    stage, fragments = request.stage, unit.pipeline
    fits = (
        len(fragments) == len(node_classes) <= stage.max_pipeline
        and catalog.engines[stage.engine].pipeline_parallel
        and sum(f.layers for f in fragments) == stage.model.layers
        and all(f.gpu == c.gpu for f, c in zip(fragments, node_classes, strict=True))
        and all(f.tensor_parallel <= stage.max_tensor_parallel for f in fragments)
        and len({(c.zone, c.capacity_type, c.trust_zone) for c in node_classes}) == 1
        and all(is_allowed(stage.placement, c) for c in node_classes)
        and unit.model == stage.model.name
        and unit.precision == stage.precision
    )
    if not fits:
        return None
    point = _point_at(unit, problem_of(request, sorted({f.gpu for f in fragments}), catalog))
    return None if point is None else at_point(shape_for(request, fragments), node_classes, point)


def shape_for(request: Request, fragments: tuple[ReplicaFragment, ...]) -> Shape:
    """The shape of a stage's replica cut into these fragments."""
    stage = request.stage
    return Shape(
        key=request.key,
        stage=stage.name,
        role=request.role,
        model=stage.model.name,
        precision=stage.precision,
        engine=stage.engine,
        gpu=fragments[0].gpu,
        tensor_parallel=fragments[0].tensor_parallel,
        fragments=len(fragments),
        pipeline=fragments,
    )


def _of(vendor: str, gpus: Sequence[str], catalog: Catalog) -> list[str]:
    return [gpu for gpu in gpus if catalog.gpus[gpu].vendor == vendor]


def _placed(
    request: Request, one: PipelinePoint, classes: dict[str, list[NodeClass]]
) -> Iterator[Candidate]:
    shape = shape_for(request, one.fragments)
    for node_classes in product(*(classes[f.gpu] for f in one.fragments)):
        yield at_point(shape, node_classes, one.point)


def _point_at(unit: RunningUnit, problem: Problem) -> OperatingPoint | None:
    grid = grid_of(problem)
    if grid is None:
        return None
    kinds = {(p.whole.gpu.name, p.whole.tensor_parallel): i for i, p in enumerate(grid.parts)}
    wanted = [(f.gpu, f.tensor_parallel) for f in unit.pipeline]
    if not all(kind in kinds for kind in wanted):
        return None
    cut = tuple((kinds[f.gpu, f.tensor_parallel], f.layers) for f in unit.pipeline)
    return point_at(grid, cut, unit.operating_batch)
