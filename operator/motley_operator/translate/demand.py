"""Stated figures replaced by measured ones, where a resource asks for it and they can be trusted.

Only what the planner is told changes: pods and routing classes are built from the spec as it is
written, so that no measurement rolls a pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from motley_operator.api import FleetSpec, ModelCascade, ServingPool
from motley_operator.demand import Settled, settle
from motley_operator.demand.settling import Context, planned
from motley_operator.demand.sources import Found, Ready, Reason, judge, unread
from motley_operator.demand.waking import may_sleep
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.measurement import Measurement
from motley_operator.domain.names import (
    COMPONENT,
    GATEWAY,
    HELD_AT,
    MANAGED_BY,
    OURS,
    RANK,
    UNIT,
    key_of,
    wake_name,
)
from motley_operator.domain.translation import Translation
from motley_operator.translate.fleet import read_fleet

_MEASURED = ServingPool | ModelCascade


class Measuring:
    """The latest reading against what each resource asks for."""

    def __init__(self, facts: ClusterFacts, fleet: FleetSpec) -> None:
        self._facts, self._fleet = facts, fleet
        self._ready: Mapping[str, Ready] | None = None

    def settled(self, key: str, model: ServingPool | ModelCascade) -> Settled | None:
        """The demand in force of a resource that asks for measured demand; None of others."""
        workload, before = model.spec.workload, model.status.demand
        if workload.demand != "Measured":
            return None
        found, measured = self._found(key, model)
        cooldown = model.spec.replan.cooldown or self._fleet.replan.cooldown
        is_pool = isinstance(model, ServingPool)
        held_at = self._held_at(model) if may_sleep(workload, model.spec.gateway) else ""
        context = Context(self._facts.now, cooldown.seconds, split=is_pool, held_at=held_at)
        made = settle(workload, before, found, measured, context)
        if not self._is_unknown(model, made, found, cooldown.seconds):
            return made
        words = f"{made.message}; until it is, for {cooldown} at most, no money moves what runs"
        return replace(made, unknown=True, message=words)

    def _is_unknown(
        self,
        model: ServingPool | ModelCascade,
        made: Settled,
        found: Found,
        most_s: float,
    ) -> bool:
        """Whether nothing is known of the demand, and that has not been said for too long.

        So it is of a new resource, and of one whose status was lost: what runs of that may serve
        another rate than the stated one.
        """
        if made.demand is not None or found.recent is not None:
            return False
        said = model.status.condition("DemandMeasured")
        if said is None:
            return True
        try:
            since = datetime.fromisoformat(said.last_transition_time).timestamp()
        except ValueError:
            return True
        return self._facts.now - since < most_s

    def _held_at(self, model: ServingPool | ModelCascade) -> str:
        """The last word of its gateways that they hold requests; empty where there is none."""
        metadata = model.metadata
        place = ("ConfigMap", metadata.namespace or "", wake_name(metadata.name))
        written = self._facts.owned.get(place, {}).get("metadata", {}).get("annotations") or {}
        return str(written.get(HELD_AT, ""))[:64]

    def _found(self, key: str, model: ServingPool | ModelCascade) -> tuple[Found, Measurement]:
        source, reading, nothing = self._fleet.prometheus, self._facts.reading, Measurement()
        if source is None:
            return Found(Reason.NO_PROMETHEUS, "the Fleet has no spec.prometheus"), nothing
        stale_s = source.stale_after.seconds
        missing = unread(reading, self._facts.now, stale_s)
        if missing is not None:
            return missing, nothing
        assert reading is not None
        if self._ready is None:
            self._ready = _ready_pods(self._facts)
        measured = reading.measurements.get(key, nothing)
        counted = model.status.demand.source if model.status.demand is not None else ""
        ready, pool = self._ready.get(key, Ready(0, 0)), isinstance(model, ServingPool)
        return judge(measured, ready, (reading.step_s, stale_s), (pool, counted)), measured


def has_drifted(translation: Translation, facts: ClusterFacts) -> bool:
    """Whether these facts settle another demand, or say another thing of it, than was translated."""
    asking = {
        key: model
        for key, was in translation.demands.items()
        if was is not None and isinstance(model := translation.parsed.get(key), _MEASURED)
    }
    if not asking:
        return False
    fleet = read_fleet(facts.fleet, translation.catalog).spec
    measuring = Measuring(facts, fleet)
    return any(
        _said(measuring.settled(key, model)) != _said(translation.demands[key])
        for key, model in asking.items()
    )


def _said(settled: object) -> tuple[object, ...]:
    """What planning and conditions depend on; words and times alone are no reason to look."""
    if not isinstance(settled, Settled):
        return ()
    demand = settled.demand
    figures = (demand.requests_per_second, demand.classes, demand.held_at) if demand else ()
    return settled.reason, figures


def unmeasured(settled: Mapping[str, Settled | None]) -> frozenset[str]:
    """Keys of resources whose demand is not known yet: no money moves them."""
    return frozenset(k for k, made in settled.items() if made is not None and made.unknown)


def with_demand(
    model: ServingPool | ModelCascade, demand: Settled | None
) -> ServingPool | ModelCascade:
    """The resource with the demand in force in its workload."""
    if demand is None or demand.demand is None:
        return model
    workload = planned(model.spec.workload, demand.demand)
    spec = model.spec.model_copy(update={"workload": workload})
    return model.model_copy(update={"spec": spec})


def _ready_pods(facts: ClusterFacts) -> Mapping[str, Ready]:
    """Pods of each resource that answer; of a replica over several nodes its first."""
    gateways: Counter[str] = Counter()
    engines: Counter[str] = Counter()
    for pod in facts.pods:
        if pod.labels.get(MANAGED_BY) != OURS or not pod.ready or pod.deleting or pod.terminal:
            continue
        key = key_of(pod.labels, pod.namespace)
        if pod.labels.get(COMPONENT) == GATEWAY:
            gateways[key] += 1
        elif UNIT in pod.annotations and pod.labels.get(RANK, "0") == "0":
            engines[key] += 1
    return {key: Ready(gateways[key], engines[key]) for key in {*gateways, *engines}}
