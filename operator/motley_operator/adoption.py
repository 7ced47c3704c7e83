"""Routing that goes on: a resource whose replicas all stay keeps its routing, and its plan's hash.

Theory of operation. Rates over given replicas are rarely unique, and a search that was cut short
ends on others of equal worth. So where a new plan keeps exactly the replicas that run, for a
resource that nobody edited, and serves no more, the routing in force goes on: from the plan
before, or after a restart from the live routing ConfigMap and the hash in the status. A restart, or somebody
else's lost node, then rewrites nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from motley_operator.api import ModelCascade, RLJob, ServingPool
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import ROUTING_KEY, routing_name, unit_id
from motley_operator.domain.translation import Translation, ids_by_key
from motley_planner.domain.plan import Plan, PlannedFlow, PlannedReplica, PolicyChoice, Slice

GAIN = 1e-3  # share of the rate served for which new routing is worth it

Rates = Mapping[str, Mapping[str, float]]  # unit id -> requests/s by class


@dataclass(frozen=True, slots=True)
class Routing:
    """What a resource's gateway was told."""

    hash: str
    rates: Rates
    policies: tuple[PolicyChoice, ...]
    served: float | None  # requests/s; None where it is not known
    flows: tuple[PlannedFlow, ...] = ()


def adopted(
    plan: Plan,
    before: Plan | None,
    edited: frozenset[str],
    translation: Translation,
    facts: ClusterFacts,
) -> Plan:
    """The plan with the routing in force wherever nothing but routing would change."""
    old = {part.key: part for part in before.slices} if before is not None else {}
    running = ids_by_key(translation.snapshot.running)
    roles = {unit.id: unit.phase for unit in translation.snapshot.running}
    slices = []
    for part in plan.slices:
        routing = None
        go_on = _all_go_on(part, running.get(part.key, frozenset()), roles)
        if part.key not in edited and go_on:
            known = old.get(part.key)
            routing = _of_slice(known) if known else _of_cluster(part, translation, facts)
        slices.append(part if routing is None else _with(part, routing))
    return replace(plan, slices=tuple(slices))


def _all_go_on(part: Slice, running: frozenset[str], roles: Mapping[str, str]) -> bool:
    """Whether the slice has just those that run, each in the role in which it runs."""
    if not part.replicas or {r.kept for r in part.replicas} != running:
        return False
    return all(roles[r.kept] == r.phase for r in part.replicas if r.kept is not None)


def _unit(key: str, replica: PlannedReplica) -> str:
    return replica.kept or unit_id(key, replica.name)


def _of_slice(part: Slice) -> Routing:
    rates = {_unit(part.key, replica): replica.rates for replica in part.replicas}
    served = part.served_requests_per_second
    return Routing(part.hash, rates, part.policies, served, part.flows)


def _of_cluster(part: Slice, translation: Translation, facts: ClusterFacts) -> Routing | None:
    """The routing that the cluster has; None where it is not the one that the status tells of.

    One with phases apart is not taken over: it names colocated replicas only in `replicas`, so its
    units are not all that run. After a restart of the operator such a resource gets new flows.
    """
    model = translation.parsed.get(part.key)
    if not isinstance(model, ServingPool | ModelCascade | RLJob) or model.status.plan is None:
        return None
    known = model.status.plan.hash
    if isinstance(model, RLJob):
        rates = {_unit(part.key, r): r.rates for r in part.replicas}
        return Routing(known, rates, part.policies, None)
    _, namespace, name = part.key.split("/", 2)
    live = facts.owned.get(("ConfigMap", namespace, routing_name(name))) or {}
    try:
        document = json.loads((live.get("data") or {})[ROUTING_KEY])
        if document["plan_hash"] != known:
            return None
        return Routing(known, _rates(part.key, name, document), _policies(part, document), None)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # somebody wrote into it; the plan's own routing repairs it


def _rates(key: str, name: str, document: Mapping[str, Any]) -> Rates:
    return {
        unit_id(key, str(replica["name"]).removeprefix(f"{name}-")): {
            str(each): float(rate) for each, rate in replica["rates"].items()
        }
        for stage in document["stages"]
        for replica in stage["replicas"]
    }


def _policies(part: Slice, document: Mapping[str, Any]) -> tuple[PolicyChoice, ...]:
    visits = {policy.id: policy.visits for policy in part.policies}
    return tuple(
        PolicyChoice(
            p["id"],
            float(p["share"]),
            dict(p["thresholds"]),
            visits.get(p["id"], {}),
            tuple(p.get("classes", ())),
        )
        for p in document["policies"]
    )


def _with(part: Slice, routing: Routing) -> Slice:
    """The slice with that routing, unless the new one serves more or it speaks of other replicas."""
    served = routing.served
    if served is not None and part.served_requests_per_second > served * (1.0 + GAIN):
        return part
    units = {_unit(part.key, replica) for replica in part.replicas}
    if units != set(routing.rates):
        return part
    replicas = tuple(
        replace(replica, rates=dict(routing.rates[_unit(part.key, replica)]))
        for replica in part.replicas
    )
    if served is None:
        served = part.served_requests_per_second
    return replace(
        part,
        hash=routing.hash,
        replicas=replicas,
        policies=routing.policies,
        flows=routing.flows,
        served_requests_per_second=served,
    )
