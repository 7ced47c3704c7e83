"""The routing ConfigMap: the plan as its gateway reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motley_operator.api.traffic import Workload
from motley_operator.domain.names import GATEWAY, PLAN_HASH, ROUTING_KEY, routing_name
from motley_operator.manifests.frame import Manifest, Owner, sealed
from motley_operator.manifests.pods import host_address
from motley_operator.manifests.stages import StageSpec
from motley_planner.dispatch import (
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
class Reach:
    """What a replica's entry needs besides the plan: engines' ports by stage, trust zones by node."""

    ports: Mapping[str, int]
    zones: Mapping[str, str]

    def zone_of(self, replica: PlannedReplica) -> str:
        """The trust zone that all nodes of a replica are in; empty where there is no such."""
        zones = {self.zones.get(node, "") for node in replica.nodes}
        return zones.pop() if len(zones) == 1 else ""


def routing_config_map(
    owner: Owner,
    part: Slice,
    stages: Sequence[StageSpec],
    workload: Workload,
    reach: Reach,
) -> Manifest:
    """The ConfigMap `<resource>-routing`."""
    table = RoutingTable(
        plan_hash=part.hash,
        resource=ResourceRef(owner.kind, owner.namespace, owner.name),
        served_model_names=tuple(dict.fromkeys((owner.name, *(s.model.id for s in stages)))),
        classes=tuple(
            RequestClass(c.name, c.prompt_tokens, c.output_tokens) for c in workload.classes
        ),
        stages=tuple(
            Stage(
                name=stage.name,
                model=stage.model.id,
                replicas=tuple(
                    _replica(owner, replica, reach)
                    for replica in sorted(part.replicas, key=lambda each: each.name)
                    if replica.stage == stage.name
                ),
            )
            for stage in stages
        ),
        policies=tuple(Policy(p.id, p.share, p.thresholds, p.classes) for p in part.policies),
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


def _replica(owner: Owner, replica: PlannedReplica, reach: Reach) -> Replica:
    return Replica(
        name=f"{owner.name}-{replica.name}",
        url=f"http://{host_address(owner, replica)}:{reach.ports[replica.stage]}",
        rates={name: float(f"{rate:.6g}") for name, rate in replica.rates.items()},
        capacity={name: float(f"{rate:.6g}") for name, rate in replica.capacity.items()},
        trust_zone=reach.zone_of(replica),
    )
