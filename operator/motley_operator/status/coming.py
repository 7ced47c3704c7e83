"""What the Fleet says of nodes that were asked for: how many are awaited, and which never came."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from motley_operator.api import Quantity
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.purchases import how_far, live_requests
from motley_operator.domain.translation import Translation
from motley_operator.status.conditions import Statement
from motley_planner.domain.plan import Plan

PROVISIONED = "Provisioned"


def coming_status(plan: Plan, translation: Translation) -> dict[str, Any]:
    """`nodesComing` and `suspectShapes`."""
    return {
        "nodesComing": [
            {
                "shape": row.shape,
                "gpu": row.gpu,
                "count": row.count,
                "dollarsPerHour": Quantity.of(row.price_usd_per_hour, 2),
            }
            for row in plan.nodes_coming
        ],
        "suspectShapes": [
            {
                "shape": row.shape,
                "failures": row.failures,
                "since": _time(row.since),
                "until": _time(row.until),
            }
            for row in translation.suspect_shapes
        ],
    }


def provisioned(plan: Plan, translation: Translation, facts: ClusterFacts) -> list[Statement]:
    """Whether every node that was asked for is there; nothing where no shape may be bought."""
    if not any(shape.buys for shape in translation.snapshot.shapes):
        return []
    failed = [
        f"no node of shape {row.shape} came in time, or one with another GPU ({row.failures} in a "
        f"row): not asked for until {_time(row.until)}; see the pods' and the autoscaler's events, "
        "and the shape's labels and delay"
        for row in translation.suspect_shapes
    ]
    failed += [
        f"shape {name} asks by ProvisioningRequest, which this API server does not serve or the "
        "operator does not use: install cluster-autoscaler's CRD and start the operator with "
        "--provisioning-requests, or set provision: Pods"
        for name in translation.unserved_shapes
    ]
    waits = [f"{row.count} of shape {row.shape}" for row in plan.nodes_coming]
    if failed:
        reason = "NoNodeCame" if translation.suspect_shapes else "NotServed"
        return [Statement(PROVISIONED, "False", reason, "; ".join(failed))]
    if waits:
        asked = {r["metadata"]["name"]: r for r in live_requests(facts).values()}
        states = "".join(f"; request {name}: {how_far(asked[name])}" for name in sorted(asked))
        words = f"pods wait for nodes: {', '.join(waits)}{states}"
        return [Statement(PROVISIONED, "False", "WaitingForNodes", words)]
    return [Statement(PROVISIONED, "True", "NothingAwaited", "every node asked for is there")]


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
