"""Pools and cascades in the planner's words."""

from __future__ import annotations

from dataclasses import replace

from motley_operator.api import ModelCascade, Quantity, ServingPool, Stage
from motley_operator.api.adapters import rank_of, slots_of
from motley_operator.api.common import Budget as BudgetSpec
from motley_operator.api.common import Placement, Replan
from motley_operator.api.estimating import extra_calls
from motley_operator.api.fleet import FleetSpec
from motley_operator.api.servingpool import ServingPoolSpec
from motley_operator.api.traffic import Percentiles, Workload
from motley_operator.api.traffic import Slo as SloSpec
from motley_operator.domain.names import MAIN_STAGE
from motley_operator.translate.entitlements import node_loss_tolerance
from motley_operator.translate.parts import gpu_ids, model_spec
from motley_planner.domain.demand import (
    Budget,
    RoutingPolicy,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.demand import Placement as PlannerPlacement
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.models import ModelSpec


def pool_demand(
    key: str, pool: ServingPool, catalog: Catalog, fleet: FleetSpec, priority: int
) -> ServingDemand:
    """What a pool asks for; every name in it was checked before."""
    spec = pool.spec
    return ServingDemand(
        key=key,
        tenant=pool.metadata.namespace or "",
        stages=(stage_demand(MAIN_STAGE, spec, catalog),),
        classes=classes(spec.workload),
        requests_per_second=spec.workload.requests_per_second.per_second,
        slo=slo(spec.slo),
        budget=budget(spec.budget),
        priority=priority,
        headroom=headroom(spec.replan, fleet),
        node_loss_tolerance=node_loss_tolerance(spec.replan, fleet),
        maximize_throughput=spec.objective == "MaximizeThroughput",
    )


def cascade_demand(
    key: str,
    cascade: ModelCascade,
    catalog: Catalog,
    fleet: FleetSpec,
    routing: tuple[int, tuple[RoutingPolicy, ...]],
) -> ServingDemand:
    """What a cascade asks for; `routing` is its priority and the policies of its table."""
    spec, (priority, policies) = cascade.spec, routing
    return ServingDemand(
        key=key,
        tenant=cascade.metadata.namespace or "",
        stages=tuple(stage_demand(stage.name, stage, catalog) for stage in spec.stages),
        classes=classes(spec.workload),
        requests_per_second=spec.workload.requests_per_second.per_second,
        slo=slo(spec.slo),
        policies=policies,
        extra_calls=extra_calls(cascade),
        quality_floor=spec.quality.floor.fraction,
        budget=budget(spec.budget),
        priority=priority,
        headroom=headroom(spec.replan, fleet),
        node_loss_tolerance=node_loss_tolerance(spec.replan, fleet),
    )


def stage_demand(name: str, spec: ServingPoolSpec | Stage, catalog: Catalog) -> StageDemand:
    """One model to be served; on one GPU each where the engine splits no layer among several."""
    engine = catalog.engines.get(spec.engine.name)
    splits = engine is None or "tensor" in engine.parallelisms
    return StageDemand(
        name=name,
        model=_with_adapters(model_spec(spec.model, catalog), spec, catalog),
        precision=spec.model.precision,
        engine=spec.engine.name,
        placement=placement(catalog, spec.placement),
        max_tensor_parallel=spec.parallelism.max_tensor if splits else 1,
        max_pipeline=spec.parallelism.max_pipeline,
        # Branches share the prompt's cache of one replica that does both phases.
        disaggregation="never" if spec.branches else spec.disaggregation.lower(),
        sequences_per_request=spec.branches.sequences_per_request if spec.branches else 1.0,
        branching=spec.branches.branching(name) if spec.branches else None,
    )


def _with_adapters(model: ModelSpec, spec: ServingPoolSpec | Stage, catalog: Catalog) -> ModelSpec:
    """The model with room for its adapters; cascades have none."""
    adapters = spec.adapters if isinstance(spec, ServingPoolSpec) else ()
    engine = catalog.engines.get(spec.engine.name)
    if not adapters or engine is None or engine.launch is None or engine.launch.adapters is None:
        return model
    rank = rank_of(adapters, engine.launch.adapters.ranks)
    return replace(model, adapter_slots=slots_of(adapters), adapter_rank=rank)


def with_phases(demand: ServingDemand, catalog: Catalog, is_offered: bool) -> ServingDemand:
    """The demand with phases apart only where that can be run.

    Auto means colocated until an admin offers the other; an engine without a handshake has none.
    """
    stages = []
    for stage in demand.stages:
        launch = catalog.engines[stage.engine].launch
        wanted = stage.disaggregation == "always" or is_offered
        can = launch is not None and launch.phases is not None
        mode = stage.disaggregation if wanted and can else "never"
        stages.append(replace(stage, disaggregation=mode))
    return replace(demand, stages=tuple(stages))


def placement(catalog: Catalog, *specs: Placement) -> PlannerPlacement:
    """What all of several placements allow (a job's own and its stage's)."""
    allowed = [PlannerPlacement()]
    for spec in specs:
        share = spec.max_spot_share
        allowed.append(
            PlannerPlacement(
                gpus=gpu_ids(spec, catalog),
                zones=frozenset(spec.zones or ()),
                capacity_types=frozenset(spec.capacity_types or ()),
                trust_zones=frozenset(spec.trust_zones or ()),
                max_spot_share=share.fraction if share is not None else None,
            )
        )
    shares = [p.max_spot_share for p in allowed if p.max_spot_share is not None]
    return PlannerPlacement(
        gpus=_both([p.gpus for p in allowed]),
        zones=_both([p.zones for p in allowed]),
        capacity_types=_both([p.capacity_types for p in allowed]),
        trust_zones=_both([p.trust_zones for p in allowed]),
        max_spot_share=min(shares) if shares else None,
    )


NOWHERE = frozenset(("(nothing)",))


def _both(sets: list[frozenset[str]]) -> frozenset[str]:
    """Intersection of sets in which empty means everything; an empty result means nowhere."""
    given = [s for s in sets if s]
    if not given:
        return frozenset()
    return frozenset.intersection(*given) or NOWHERE


def classes(workload: Workload) -> tuple[WorkloadClass, ...]:
    """Kinds of requests."""
    return tuple(
        WorkloadClass(c.name, c.prompt_tokens, c.output_tokens, c.weight) for c in workload.classes
    )


def slo(spec: SloSpec) -> Slo:
    """Latency targets in seconds."""
    return Slo(_seconds(spec.ttft), _seconds(spec.tpot), _seconds(spec.e2e))


def _seconds(limits: Percentiles | None) -> dict[str, float]:
    if limits is None:
        return {}
    named = {p: getattr(limits, p) for p in ("p50", "p90", "p95", "p99")}
    return {p: limit.seconds for p, limit in named.items() if limit is not None}


def budget(spec: BudgetSpec | None) -> Budget:
    """Upper limits; an absent budget limits nothing."""
    if spec is None:
        return Budget()
    dollars: Quantity | None = spec.dollars_per_hour
    return Budget(dollars.usd if dollars is not None else None, spec.gpus)


def headroom(replan: Replan, fleet: FleetSpec) -> float:
    """Share of capacity kept free: the resource's, else the Fleet's."""
    return (replan.headroom or fleet.replan.headroom).fraction
