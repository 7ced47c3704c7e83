"""From a slice of a plan to what the simulator runs: routing table, engines, routes, demand."""

from __future__ import annotations

from collections.abc import Sequence

from motley_planner.costs.learned import as_learned
from motley_planner.costs.memory import kv_bytes
from motley_planner.costs.pipeline import pipeline_of
from motley_planner.costs.replica import replica_of
from motley_planner.dispatch import (
    DispatchRule,
    Policy,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
)
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import PlannedReplica, Slice
from motley_planner.errors import SnapshotError
from motley_planner.simulator.arrivals import Kind
from motley_planner.simulator.outcomes import VisitOutcomes
from motley_planner.simulator.scenario import Deployment, Route, ServerSpec
from motley_planner.simulator.server import BOTH, DECODE, PREFILL
from motley_planner.simulator.steps import CostedSteps, FixedSteps, PipelineSteps, StepTimes

PARTS = (PREFILL, DECODE)


def deployment_of(part: Slice, catalog: Catalog, rule: DispatchRule | None = None) -> Deployment:
    """A serving slice as a gateway would run it, with the cost model's engines behind it.

    A replica whose model, GPU or engine the catalog does not know runs at the times that the plan
    promises for its stage.

    Raises: SnapshotError for a slice without classes or replicas.
    """
    if not part.classes or not part.replicas:
        raise SnapshotError(part.key, "has no replicas or classes to simulate; plan it again")
    stages = stages_of(part)
    hops: dict[str, list[PlannedReplica]] = {}
    for replica in part.replicas:
        hops.setdefault(hop_of(replica), []).append(replica)
    table = RoutingTable(
        plan_hash=part.hash,
        resource=ResourceRef(*_names(part.key)),
        served_model_names=(part.key,),
        classes=tuple(RequestClass(c.name, c.prompt_tokens, c.output_tokens) for c in part.classes),
        stages=tuple(_stage(name, members) for name, members in hops.items()),
        policies=tuple(Policy(p.id, p.share, p.thresholds, p.classes) for p in part.policies),
        dispatch=rule or DispatchRule(),
    )
    known: dict[str, StepTimes] = {}
    servers = {}
    for replica in part.replicas:
        times = known.get(replica.column)
        if times is None:
            times = known[replica.column] = engine_times(replica, part, catalog)
        nic = float("inf")
        if catalog.fabric is not None:
            nic = replica.tensor_parallel * catalog.fabric.nic_of(replica.gpu)
        servers[hop_of(replica), replica.name] = _server(replica, times, nic)
    routes = tuple(_routes(stage, part) for stage in stages)
    return Deployment(table, servers, routes, part.branching)


def stages_of(part: Slice) -> tuple[str, ...]:
    """The stages small to large."""
    present = dict.fromkeys(replica.stage for replica in part.replicas)
    if not part.policies:
        return tuple(present)
    first = part.policies[0]
    return tuple(first.visits or dict.fromkeys((*first.thresholds, *present)))


def kinds_of(part: Slice) -> tuple[Kind, ...]:
    """The classes at their planned rates: what the replicas were given, or the cascade's share."""
    total = sum(c.weight for c in part.classes) or 1
    rates = {c.name: part.served_requests_per_second * c.weight / total for c in part.classes}
    if not part.policies:
        rates = dict.fromkeys(rates, 0.0)
        for replica in part.replicas:
            if replica.phase != DECODE:
                for name, rate in replica.rates.items():
                    rates[name] = rates.get(name, 0.0) + rate
    return tuple(
        Kind(c.name, rates[c.name], float(max(1, c.prompt_tokens)), float(max(1, c.output_tokens)))
        for c in part.classes
    )


def outcomes_of(part: Slice) -> VisitOutcomes | None:
    """Escalation at the policies' mean visits; None for a pool."""
    if not part.policies:
        return None
    stages = stages_of(part)
    return VisitOutcomes(
        {p.id: [p.visits.get(name, 0.0) for name in stages] for p in part.policies}
    )


def hop_of(replica: PlannedReplica) -> str:
    """The dispatch stage of a replica: its stage, or one half of it."""
    return f"{replica.stage}/{replica.phase}" if replica.phase in PARTS else replica.stage


def engine_times(replica: PlannedReplica, part: Slice, catalog: Catalog) -> StepTimes:
    """The cost model's step times, or constant ones from the plan's promises."""
    model = catalog.model(replica.model)
    gpu, engine = catalog.gpus.get(replica.gpu), catalog.engines.get(replica.engine)
    known = all(fragment.gpu in catalog.gpus for fragment in replica.pipeline)
    if model and engine and replica.pipeline and known:
        cut = pipeline_of(model, replica.precision, replica.pipeline, engine, catalog)
        if not isinstance(cut, str):
            return PipelineSteps(cut)
    if model and gpu and engine and catalog.efficiency and len(replica.nodes) == 1:
        made = replica_of(
            model,
            replica.precision,
            gpu,
            replica.tensor_parallel,
            engine,
            catalog.efficiency,
        )
        if not isinstance(made, str):
            return CostedSteps(as_learned(made, replica.precision, catalog))
    promised = {promise.what: promise.value for promise in part.promises}
    at = [f"{replica.stage} {c.name}" for c in part.classes if c.name in replica.capacity]
    tpot = max((promised.get(f"tpot_s {name}", 0.0) for name in at), default=0.0)
    ttft = max((promised.get(f"ttft_s {name}", 0.0) for name in at), default=0.0)
    if tpot <= 0.0 and ttft <= 0.0:
        rule = f"{replica.model} on {replica.gpu} is not in the catalog and has no promise"
        raise SnapshotError(f"{part.key}: {replica.name}", rule)
    return FixedSteps(decode_step_s=tpot, first_token_s=ttft)


def _names(key: str) -> tuple[str, str, str]:
    kind, _, rest = key.partition("/")
    namespace, _, name = rest.partition("/")
    return kind, namespace, name or rest


def _stage(name: str, members: Sequence[PlannedReplica]) -> Stage:
    return Stage(
        name,
        members[0].model,
        tuple(Replica(r.name, f"sim://{r.name}", r.rates, r.capacity) for r in members),
    )


def _server(replica: PlannedReplica, times: StepTimes, nic_bytes_per_s: float) -> ServerSpec:
    moved = 0.0
    if replica.phase == PREFILL and isinstance(times, CostedSteps):
        engine = times.replica
        moved = kv_bytes(engine.model, 1000.0, engine.kv_value_bytes) / 1000.0 * replica.kv_scale
    return ServerSpec(
        name=replica.name,
        times=times,
        max_batch=max(1, replica.operating_batch),
        mode=replica.phase,
        price_usd_per_hour=replica.price_usd_per_hour,
        kv_bytes_per_token=moved,
        nic_bytes_per_s=nic_bytes_per_s,
    )


def _routes(stage: str, part: Slice) -> tuple[Route, ...]:
    rates = dict.fromkeys((BOTH, *PARTS), 0.0)
    for replica in part.replicas:
        if replica.stage == stage:
            rates[replica.phase] += sum(replica.rates.values()) or 1e-9
    whole, split = rates[BOTH], rates[PREFILL]
    total = whole + split or 1.0
    routes = [Route((stage,), whole / total)] if whole or not split else []
    if split:
        routes.append(Route((f"{stage}/{PREFILL}", f"{stage}/{DECODE}"), split / total))
    return tuple(routes)
