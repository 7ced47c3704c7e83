"""What the gateway says of itself: readiness and the models it serves."""

from __future__ import annotations

import time
from typing import Any

from motley_planner.dispatch import Dispatcher, RoutingTable
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.scoring import MAX_SCORE


def readiness(live: LiveRouting, is_draining: bool, in_flight: int) -> tuple[bool, dict[str, Any]]:
    """Whether a request can be answered, and a body that says why not.

    Ready: a routing table is in force, every stage that a policy asks first has a replica admissible
    for some class or requests are held for one, and the gateway is not draining. A refused newer table does not take readiness away.
    """
    reasons = ["draining: finishing the requests in flight"] if is_draining else []
    body: dict[str, Any] = {"in_flight": in_flight, "in_flight_by_plan": dict(live.at_work)}
    if live.current is None:
        reasons.append(f"no routing in force: {live.problem}")
    else:
        if live.current.table.hold is None:  # else requests are held, and wake it
            reasons += _unserved(live.current)
        body |= _describe(live.current)
        if live.problem is not None:
            body["refused"] = live.problem
    return not reasons, {"ready": not reasons, "reasons": reasons, **body}


def _unserved(dispatcher: Dispatcher) -> list[str]:
    """Stages that some request would be sent to first and that serve no class."""
    table = dispatcher.table
    names = [stage.name for stage in table.stages]
    first = {names[0]} if not table.policies else set()
    for policy in table.policies:
        asked = (n for n in names[:-1] if policy.thresholds[n] <= MAX_SCORE)
        if policy.share > 0.0:
            first.add(next(asked, names[-1]))
    return [
        f"stage {name!r} has no replica that serves any class"
        for name in names
        if name in first
        and not any(dispatcher.is_admissible(name, each.name) for each in table.classes)
    ]


def _describe(dispatcher: Dispatcher) -> dict[str, Any]:
    now, table = time.monotonic(), dispatcher.table
    return {
        "plan_hash": table.plan_hash,
        "resource": f"{table.resource.kind} {table.resource.namespace}/{table.resource.name}",
        "stages": {
            stage.name: {
                "replicas": len(stage.every_replica),
                "failing": dispatcher.failing(stage.name, now),
            }
            for stage in table.stages
        },
    }


def models_body(table: RoutingTable) -> dict[str, Any]:
    """The answer of `GET /v1/models`."""
    return {
        "object": "list",
        "data": [model_body(name, table) for name in table.model_names],
    }


def model_body(name: str, table: RoutingTable) -> dict[str, Any]:
    """The answer of `GET /v1/models/<name>`; an adapter says whose it is."""
    body = {"id": name, "object": "model", "created": 0, "owned_by": "motley"}
    if name in table.stages[-1].adapters:
        body["parent"] = table.served_model_names[0]
    return body
