"""Candidates of a pool's or cascade's stage, and of a job's rollout replicas."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, replace

from motley_planner.candidates.candidate import Candidate, Shape, at_point
from motley_planner.candidates.loads import ClassLoad, class_loads
from motley_planner.candidates.operating import Evaluator
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.profiled import corrected
from motley_planner.candidates.refusals import Survey, placement_refusal
from motley_planner.candidates.request import Request, is_allowed
from motley_planner.candidates.shared_memory import offered_points
from motley_planner.candidates.spanning import pipeline_candidates
from motley_planner.candidates.targets import targets_of
from motley_planner.costs.learned import as_learned
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.domain.demand import Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.measurements import ProfileKey
from motley_planner.domain.plan import Refusal
from motley_planner.remembering import Memory, Same

TENSOR_PARALLEL = (1, 2, 4, 8)

Listing = tuple[tuple[Candidate, ...], tuple[Refusal, ...]]
# A replica's evaluator (or why there is none), the classes that fit, and its operating points.
Offered = tuple[Evaluator | str, tuple[ClassLoad, ...], tuple[OperatingPoint, ...]]
_CATALOG_PARTS = tuple(f.name for f in fields(Catalog) if f.name not in ("profiles", "learned"))
_LISTED: Memory[Listing] = Memory(4096)
_OFFERED: Memory[Offered] = Memory(2048)


def stage_candidates(
    stage: StageDemand,
    classes: Sequence[WorkloadClass],
    slo: Slo,
    node_classes: Sequence[NodeClass],
    catalog: Catalog,
    *,
    headroom: float,
    key: str,
    also_served: Collection[str] = (),
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    """All useful replica configurations of a stage, and why a class (or all) has none.

    Capacities are requests/s of a class alone, times (1 - headroom); a request may be several
    sequences.
    Raises: KeyError if the stage's engine is not in the catalog.
    """
    request = Request(key, "serve", stage, tuple(classes), targets_of(slo), headroom)
    found, refusals = list_candidates(request, node_classes, catalog, also_served)
    return tuple(of_requests(each, stage) for each in found), refusals


def of_requests(candidate: Candidate, stage: StageDemand) -> Candidate:
    """A candidate with its capacity in requests, where each of them is several sequences.

    Every sequence is priced like a whole request: same lengths, and a prefill of its own.
    """
    if stage.sequences_per_request == 1.0:
        return candidate
    per = stage.sequences_per_request
    return replace(candidate, capacity={k: v / per for k, v in candidate.capacity.items()})


def list_candidates(
    request: Request,
    node_classes: Sequence[NodeClass],
    catalog: Catalog,
    also_served: Collection[str] = (),
) -> Listing:
    """Candidates on every node class that the placement allows, with reasons where none is left.

    `also_served` names classes that something else serves, so that none is missed. Depends neither
    on rates nor on what runs, so that most re-plans list nothing anew.
    """
    served = frozenset(also_served)
    place = (request.key, request.role, request.stage.name, request.targets, served)
    profile = Same(catalog.profile_of(request.key))
    parts = tuple(Same(getattr(catalog, name)) for name in _CATALOG_PARTS)
    made_from = (request, tuple(node_classes), parts, profile, dict(catalog.learned))
    return _LISTED.get(
        place, made_from, lambda: _list_candidates(request, node_classes, catalog, served)
    )


def forget_listings(keys: Collection[str]) -> None:
    """Drop what was listed for all resources but these: the others are gone."""
    _LISTED.keep(lambda place: isinstance(place, tuple) and place[0] in keys)


def _list_candidates(
    request: Request,
    node_classes: Sequence[NodeClass],
    catalog: Catalog,
    also_served: Collection[str],
) -> Listing:
    placement = request.stage.placement
    open_classes = [c for c in node_classes if request.key not in c.excluded_for]
    allowed = [c for c in open_classes if is_allowed(placement, c)]
    if not allowed:
        return (), (placement_refusal(request.key, request.stage, open_classes, catalog),)
    survey = Survey(request.key, request.stage, request.classes)
    points = {
        gpu: _gpu_points(request, gpu, catalog, survey)
        for gpu in dict.fromkeys(c.gpu for c in allowed)
    }
    found = tuple(
        candidate_at(shape_of(request, node_class.gpu, ranks), node_class, point)
        for node_class in allowed
        for ranks, point in points[node_class.gpu]
    ) + pipeline_candidates(request, allowed, catalog)
    served = {name for candidate in found for name in candidate.capacity} | {*also_served}
    return found, survey.refusals(served)


def shape_of(request: Request, gpu: str, ranks: int) -> Shape:
    """The shape of a stage's replica on `ranks` GPUs of a type."""
    stage = request.stage
    return Shape(
        key=request.key,
        stage=stage.name,
        role=request.role,
        model=stage.model.name,
        precision=stage.precision,
        engine=stage.engine,
        gpu=gpu,
        tensor_parallel=ranks,
    )


def candidate_at(shape: Shape, node_class: NodeClass, point: OperatingPoint) -> Candidate:
    """The candidate of a shape at an operating point, with what larger pools of it may do."""
    return at_point(shape, (node_class,), point)


def can_split(stage: StageDemand, ranks: int) -> bool:
    """Whether attention heads divide over the ranks and the stage allows as many."""
    return ranks <= stage.max_tensor_parallel and stage.model.heads % ranks == 0


def evaluator_of(request: Request, gpu: str, ranks: int, catalog: Catalog) -> Evaluator | str:
    """The evaluator of a stage's replica on a GPU type, or why it cannot run there."""
    stage = request.stage
    assert catalog.efficiency is not None, "load_catalog() always gives the factors"
    engine = catalog.engines[stage.engine]
    replica = replica_of(
        stage.model, stage.precision, catalog.gpus[gpu], ranks, engine, catalog.efficiency
    )
    if isinstance(replica, str):
        return replica
    replica = as_learned(replica, stage.precision, catalog)
    busy = 1.0 - request.headroom
    built = Evaluator(replica, request.targets, busy, closed_loop=request.closed_loop)
    profile = catalog.profile_of(request.key)
    if profile is None:
        return built
    key = ProfileKey(stage.model.name, gpu, ranks, stage.precision)
    return corrected(built, profile.points.get(key, ()))


def fitting_classes(request: Request, replica: Replica) -> tuple[ClassLoad, ...]:
    """The classes of which at least one request fits into the memory and the model's context."""
    longest = request.stage.model.max_context_tokens
    short = [c for c in request.classes if c.prompt_tokens + c.output_tokens <= longest]
    return tuple(load for load in class_loads(replica, short) if load.most_sequences >= 1.0)


def offered(request: Request, gpu: str, ranks: int, catalog: Catalog) -> Offered:
    """What a stage's replica on so many GPUs of a type offers; the same for all that ask the same."""
    stage = request.stage
    if catalog.profile_of(request.key) is not None:
        return _offered(request, gpu, ranks, catalog)
    parts = (catalog.gpus[gpu], catalog.engines[stage.engine], catalog.efficiency)
    shape = (stage.model, stage.precision, ranks, *map(Same, parts))
    asked = request.targets, request.headroom, request.closed_loop, request.classes
    return _OFFERED.get(
        (shape, asked, *catalog.learned.values()),
        (),
        lambda: _offered(request, gpu, ranks, catalog),
    )


def _offered(request: Request, gpu: str, ranks: int, catalog: Catalog) -> Offered:
    evaluator = evaluator_of(request, gpu, ranks, catalog)
    if isinstance(evaluator, str):
        return evaluator, (), ()
    loads = fitting_classes(request, evaluator.replica)
    return evaluator, loads, tuple(offered_points(evaluator, loads)) if loads else ()


def scaled(point: OperatingPoint, per_unit: float) -> OperatingPoint:
    """The point with its capacity in units of `per_unit` requests."""
    if per_unit == 1.0:
        return point
    capacity = {name: rate / per_unit for name, rate in point.capacity.items()}
    return replace(point, capacity=capacity)


def _gpu_points(
    request: Request, gpu: str, catalog: Catalog, survey: Survey
) -> list[tuple[int, OperatingPoint]]:
    found: list[tuple[int, OperatingPoint]] = []
    for ranks in TENSOR_PARALLEL:
        if not can_split(request.stage, ranks):
            continue
        evaluator, loads, points = offered(request, gpu, ranks, catalog)
        if isinstance(evaluator, str):
            survey.cannot_run(evaluator)
            break
        survey.note(evaluator, loads)
        if not loads:
            continue
        halves = [point for half, point in found if 2 * half == ranks]
        found += [
            (ranks, scaled(point, request.per_unit))
            for point in points
            if ranks in request.stage.uneven_sizes
            or not is_beaten_by_two(scaled(point, request.per_unit), halves)
        ]
    return found


def is_beaten_by_two(point: OperatingPoint, halves: Sequence[OperatingPoint]) -> bool:
    """Whether two replicas of half the size serve at least as much of every class."""
    wanted = {name: point.limits(name) for name in point.capacity}
    return any(
        all(
            2.0 * have >= most
            for name, limits in wanted.items()
            for have, most in zip(half.limits(name), limits, strict=True)
        )
        for half in halves
    )
