"""The routing ConfigMap: the plan as its gateway reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from motley_operator.api.traffic import Workload
from motley_operator.domain.names import GATEWAY, PLAN_HASH, ROUTING_KEY, routing_name, wake_name
from motley_operator.manifests.credits import Credits
from motley_operator.manifests.frame import Manifest, Owner, sealed
from motley_operator.manifests.judging import Judging
from motley_operator.manifests.pods import host_address
from motley_operator.manifests.stages import StageSpec
from motley_planner.dispatch import (
    DispatchRule,
    Flow,
    Handoff,
    Hold,
    Policy,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    WorkflowRule,
    routing_document,
)
from motley_planner.domain.engines import LaunchSpec
from motley_planner.domain.plan import PlannedReplica, Slice

_LEAST_RATE = 1e-9  # requests/s; below it a flow is the solver's rounding


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a routing file says besides its slice: what comes, and where it may go.

    Engines are by stage, zones and trust zones by node.
    """

    workload: Workload
    launches: Mapping[str, LaunchSpec]
    zones: Mapping[str, str]
    trust_zones: Mapping[str, str]
    judging: Judging = field(default_factory=Judging)
    hold: Hold | None = None  # where it may be scaled to zero
    credits: Credits | None = None  # KV tokens that a gateway may have at work
    gateways: int = 1  # pods that share the limits of clients
    dispatch: DispatchRule = field(default_factory=DispatchRule)
    workflows: WorkflowRule = field(default_factory=WorkflowRule)

    def group_of(self, replica: PlannedReplica) -> str:
        """Replicas of one phase in one zone, at one KV scale, stand for each other in pairs."""
        if replica.phase == "both":
            return ""
        return _group(self.zones.get(replica.nodes[0], ""), replica.kv_scale)

    def trust_zone_of(self, replica: PlannedReplica) -> str:
        """The trust zone that all nodes of a replica are in; empty where there is no such."""
        zones = {self.trust_zones.get(node, "") for node in replica.nodes}
        return zones.pop() if len(zones) == 1 else ""


def routing_config_map(
    owner: Owner, part: Slice, stages: Sequence[StageSpec], around: Surroundings
) -> Manifest:
    """The ConfigMap `<resource>-routing`."""
    judging = around.judging
    table = RoutingTable(
        plan_hash=part.hash,
        resource=ResourceRef(owner.kind, owner.namespace, owner.name),
        served_model_names=tuple(dict.fromkeys((owner.name, *(s.model.id for s in stages)))),
        classes=tuple(
            RequestClass(c.name, c.prompt_tokens, c.output_tokens) for c in around.workload.classes
        ),
        stages=tuple(_stage(owner, part, stage, around) for stage in stages),
        policies=tuple(
            Policy(p.id, p.share, p.thresholds, p.classes, judging.quality.get(p.id))
            for p in part.policies
        ),
        estimator=judging.estimator,
        dispatch=around.dispatch,
        calibrators=judging.calibrators,
        watch=judging.watch,
        relief=judging.relief,
        hold=around.hold,
        gateways=around.gateways,
        workflows=around.workflows,
    )
    metadata = owner.metadata(routing_name(owner.name), GATEWAY)
    metadata["annotations"] = {PLAN_HASH: part.hash}
    text = json.dumps(routing_document(table), sort_keys=True)
    return sealed(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {ROUTING_KEY: text},
        }
    )


def wake_config_map(owner: Owner) -> Manifest:
    """The ConfigMap `<resource>-wake`: empty, for an annotation of the gateway's."""
    metadata = owner.metadata(wake_name(owner.name), GATEWAY)
    return sealed({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


def _stage(owner: Owner, part: Slice, spec: StageSpec, around: Surroundings) -> Stage:
    launch = around.launches[spec.name]
    members = sorted((r for r in part.replicas if r.stage == spec.name), key=lambda r: r.name)
    made = {
        phase: tuple(_replica(owner, r, around) for r in members if r.phase == phase)
        for phase in ("both", "prefill", "decode")
    }
    flows = _flows(part, spec.name, made["prefill"], made["decode"])
    handoff = None
    if flows and launch.phases is not None:
        handoff = Handoff(launch.phases.handoff, launch.phases.port)
    return Stage(
        name=spec.name,
        model=spec.model.id,
        replicas=made["both"],
        prefill=made["prefill"],
        decode=made["decode"],
        flows=flows,
        handoff=handoff,
        branches=spec.branches,
        priority=launch.priority.order if launch.priority and spec.engine.priority else "",
        adapters=_adapters(spec, launch),
    )


def _adapters(spec: StageSpec, launch: LaunchSpec) -> dict[str, str]:
    """What engines call each adapter, by the name that clients write."""
    if launch.adapters is None:
        return {}
    form = launch.adapters.model
    return {a.name: form.format(model=spec.model.id, name=a.name) for a in spec.adapters}


def _flows(
    part: Slice, stage: str, prefill: Sequence[Replica], decode: Sequence[Replica]
) -> tuple[Flow, ...]:
    """The plan's flows between groups that there are; of a class without any, all with all.

    All with all is in proportion to planned rates: rate(a, b) = out(a) x in(b) / sum of in. A plan
    that was restored from a record has no flows; a node may have left its zone.
    """
    found = []
    for name in sorted({name for each in prefill for name in each.capacity}):
        out, into = _by_group(prefill, name), _by_group(decode, name)
        planned = [
            Flow(name, source, target, float(f"{flow.requests_per_second:.6g}"))
            for flow in part.flows
            if flow.stage == stage
            and flow.request_class == name
            and flow.requests_per_second > _LEAST_RATE
            and (source := _group(flow.source, flow.kv_scale)) in out
            and (target := _group(flow.target, flow.kv_scale)) in into
        ]
        total = sum(into.values())
        found += planned or [
            Flow(name, a, b, float(f"{x * y / total:.6g}"))
            for a, x in out.items()
            for b, y in into.items()
            if total > 0
        ]
    return tuple(found)


def _group(zone: str, kv_scale: float) -> str:
    return zone if kv_scale == 1.0 else f"{zone}/{kv_scale:g}"


def _by_group(replicas: Sequence[Replica], name: str) -> dict[str, float]:
    """Planned requests/s of a class by group, of groups that can serve it."""
    rates: dict[str, float] = {}
    for each in replicas:
        if each.capacity.get(name, 0.0) > 0:
            rates[each.group] = rates.get(each.group, 0.0) + each.rates.get(name, 0.0)
    return rates


def _replica(owner: Owner, replica: PlannedReplica, around: Surroundings) -> Replica:
    port = around.launches[replica.stage].port
    return Replica(
        name=f"{owner.name}-{replica.name}",
        url=f"http://{host_address(owner, replica)}:{port}",
        rates={name: float(f"{rate:.6g}") for name, rate in replica.rates.items()},
        capacity={name: float(f"{rate:.6g}") for name, rate in replica.capacity.items()},
        trust_zone=around.trust_zone_of(replica),
        group=around.group_of(replica),
        kv_tokens=around.credits.of(replica) if around.credits is not None else 0.0,
    )
