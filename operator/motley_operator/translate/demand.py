"""Stated figures replaced by measured ones, where a resource asks for it and they can be trusted.

Only what the planner is told changes: pods and routing classes are built from the spec as it is
written, so that no measurement rolls a pod.
"""

from __future__ import annotations

from motley_operator.api import FleetSpec, ModelCascade, ServingPool
from motley_operator.demand import Settled, settle
from motley_operator.demand.settling import Context, planned
from motley_operator.demand.sources import Found, Ready, Reason, judge, unread
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.measurement import Measurement
from motley_operator.domain.names import COMPONENT, GATEWAY, MANAGED_BY, OURS, RANK, key_of


def settled(
    key: str, model: ServingPool | ModelCascade, facts: ClusterFacts, fleet: FleetSpec
) -> Settled | None:
    """The demand in force of a resource that asks for measured demand; None of others."""
    workload = model.spec.workload
    if workload.demand != "Measured":
        return None
    source, reading = fleet.prometheus, facts.reading
    measured = Measurement()
    if source is None:
        found = Found(Reason.NO_PROMETHEUS, "the Fleet has no spec.prometheus")
    elif (missing := unread(reading, facts.now, source.stale_after.seconds)) is not None:
        found = missing
    else:
        assert reading is not None
        measured = reading.measurements.get(key, Measurement())
        stale_s = source.stale_after.seconds
        ready = _ready(key, facts)
        pool = isinstance(model, ServingPool)
        counted = model.status.demand.source if model.status.demand is not None else ""
        found = judge(measured, ready, (reading.step_s, stale_s), (pool, counted))
    cooldown = model.spec.replan.cooldown or fleet.replan.cooldown
    context = Context(facts.now, cooldown.seconds, isinstance(model, ServingPool))
    return settle(workload, model.status.demand, found, measured, context)


def with_demand(
    model: ServingPool | ModelCascade, demand: Settled | None
) -> ServingPool | ModelCascade:
    """The resource with the demand in force in its workload."""
    if demand is None or demand.demand is None:
        return model
    workload = planned(model.spec.workload, demand.demand)
    spec = model.spec.model_copy(update={"workload": workload})
    return model.model_copy(update={"spec": spec})


def _ready(key: str, facts: ClusterFacts) -> Ready:
    """Pods of the resource that answer; of a replica over several nodes its first."""
    gateways = engines = 0
    for pod in facts.pods:
        if pod.labels.get(MANAGED_BY) != OURS or not pod.ready or pod.deleting or pod.terminal:
            continue
        if key_of(pod.labels, pod.namespace) != key:
            continue
        if pod.labels.get(COMPONENT) == GATEWAY:
            gateways += 1
        elif pod.labels.get(RANK, "0") == "0":
            engines += 1
    return Ready(gateways, engines)
