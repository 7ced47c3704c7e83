"""A slice of the plan as its resource's status shows it: groups, promises, routing, what binds."""

from __future__ import annotations

from typing import Any

from motley_operator.api import PlanStatus, Quantity
from motley_operator.domain.translation import Translation
from motley_operator.status.conditions import shortened
from motley_operator.status.observed import Observed
from motley_planner.domain.plan import Group, Promise, Slice
from motley_planner.units import figure

# Together these keep the largest status below 32 KiB; `gpus` and prices still count everything.
MOST_GROUPS, MOST_PROMISES, MOST_BINDINGS, MOST_POLICIES = 32, 32, 8, 16
LONGEST_LIFT = 256


def plan_status(
    part: Slice, observed: Observed, translation: Translation, old: PlanStatus | None
) -> PlanStatus:
    """The plan's part of a status.

    While the slice's hash stays, only counts of ready replicas change: promises, which other tenants may
    move, do not rewrite a status. Promises that rest on what was learned, or
    did, are written as they are: what is learned moves seldom, and then they are others.
    """
    groups = [_group(group, observed, translation) for group in part.groups[:MOST_GROUPS]]
    if old is not None and old.hash == part.hash:
        document = old.model_dump(by_alias=True, mode="json", exclude_none=True)
        rows = [_promise(promise) for promise in part.promises[:MOST_PROMISES]]
        if any(row.get("provenance") == "learned" for row in (*rows, *document["promises"])):
            document["promises"] = rows
        return PlanStatus.model_validate({**document, "groups": groups})
    document = {
        "hash": part.hash,
        "groups": groups,
        "dollarsPerHour": Quantity.of(part.price_usd_per_hour, 2),
        "gpus": gpus_text(part, translation),
        "promises": [_promise(promise) for promise in part.promises[:MOST_PROMISES]],
        "binding": _bindings(part),
    }
    if part.policies:
        policies = [
            {"id": p.id, "share": round(min(1.0, p.share), 6), "thresholds": dict(p.thresholds)}
            for p in part.policies[:MOST_POLICIES]
        ]
        document["routing"] = {"policies": policies}
    return PlanStatus.model_validate({k: v for k, v in document.items() if v is not None})


def gpus_text(part: Slice, translation: Translation) -> str:
    """GPUs in short, such as 4xH100-SXM5-80GB,2xL40S."""
    counts: dict[str, int] = {}
    for replica in part.replicas:
        for rank in range(len(replica.nodes)):
            gpu = replica.gpu_on(rank)
            counts[gpu] = counts.get(gpu, 0) + replica.gpus_on(rank)
    text = ",".join(f"{n}x{gpu}" for gpu, n in sorted(counts.items(), key=lambda i: (-i[1], i[0])))
    return shortened(text, 253)


def _group(group: Group, observed: Observed, translation: Translation) -> dict[str, Any]:
    return {
        "stage": group.stage,
        "column": group.column,
        "model": group.model,
        "gpu": group.gpu,
        "gpuProduct": _product(group.gpu, translation),
        "tensorParallel": group.tensor_parallel,
        "pipeline": max(1, len(group.pipeline)),
        "phase": group.phase if group.role == "serve" else group.role,
        "zone": group.zone,
        "capacityType": group.capacity_type,
        "count": group.count,
        "ready": min(group.count, observed.ready_by_column().get((group.stage, group.column), 0)),
        "dollarsPerHour": Quantity.of(group.price_usd_per_hour, 2),
    }


def _product(gpu: str, translation: Translation) -> str:
    return translation.products.get(gpu, gpu)


def _promise(promise: Promise) -> dict[str, Any]:
    """`what` is "<metric> <stage> [<class>]", as the planner writes it."""
    metric, *about = promise.what.split(" ")
    seconds = metric.endswith("_s")
    row: dict[str, Any] = {
        "metric": metric.removesuffix("_s"),
        "expected": _figure(promise.value, seconds),
        "low": _figure(promise.low, seconds),
        "high": _figure(promise.high, seconds),
    }
    if promise.provenance != "modeled":
        row["provenance"] = promise.provenance
    for name, value in zip(("stage", "class"), about, strict=False):
        row[name] = value
    return row


def _figure(value: float, seconds: bool) -> str:
    if not seconds:
        return figure(value)
    return f"{figure(value * 1e3)}ms" if value < 1.0 else f"{figure(value)}s"


def _bindings(part: Slice) -> list[dict[str, str]]:
    lifts = {refusal.field: refusal.lift for refusal in part.refusals}
    rows = [
        {"constraint": shortened(f, 253), "relax": shortened(lift, LONGEST_LIFT)}
        for f, lift in lifts.items()
    ]
    rows += [{"constraint": shortened(text, 253)} for text in part.binding if text not in lifts]
    return rows[:MOST_BINDINGS]
