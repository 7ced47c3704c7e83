"""The routing ConfigMap: the plan as its gateway reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from motley_operator.api.traffic import Workload
from motley_operator.domain.names import GATEWAY, PLAN_HASH, ROUTING_KEY, routing_name
from motley_operator.manifests.frame import Manifest, Owner, sealed
from motley_operator.manifests.pods import host_address
from motley_operator.manifests.stages import StageSpec
from motley_planner.dispatch import (
    Calibrator,
    Policy,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    routing_document,
)
from motley_planner.domain.plan import PlannedReplica, Slice


@dataclass(frozen=True, slots=True)
class Traffic:
    """What comes and where it may go: the workload, engines' ports and fitted scores by stage."""

    workload: Workload
    ports: Mapping[str, int]
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)


def routing_config_map(
    owner: Owner, part: Slice, stages: Sequence[StageSpec], traffic: Traffic
) -> Manifest:
    """The ConfigMap `<resource>-routing`."""
    ports = traffic.ports
    table = RoutingTable(
        plan_hash=part.hash,
        resource=ResourceRef(owner.kind, owner.namespace, owner.name),
        served_model_names=tuple(dict.fromkeys((owner.name, *(s.model.id for s in stages)))),
        classes=tuple(
            RequestClass(c.name, c.prompt_tokens, c.output_tokens) for c in traffic.workload.classes
        ),
        stages=tuple(
            Stage(
                name=stage.name,
                model=stage.model.id,
                replicas=tuple(
                    _replica(owner, replica, ports[stage.name])
                    for replica in sorted(part.replicas, key=lambda each: each.name)
                    if replica.stage == stage.name
                ),
            )
            for stage in stages
        ),
        policies=tuple(Policy(p.id, p.share, p.thresholds, p.classes) for p in part.policies),
        calibrators=traffic.calibrators,
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


def _replica(owner: Owner, replica: PlannedReplica, port: int) -> Replica:
    return Replica(
        name=f"{owner.name}-{replica.name}",
        url=f"http://{host_address(owner, replica)}:{port}",
        rates={name: float(f"{rate:.6g}") for name, rate in replica.rates.items()},
        capacity={name: float(f"{rate:.6g}") for name, rate in replica.capacity.items()},
    )
