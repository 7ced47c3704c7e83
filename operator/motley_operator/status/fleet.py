"""The Fleet's status: inventory by shape, the plan's value, what is unknown, who costs what."""

from __future__ import annotations

from typing import Any

from motley_operator.api import Quantity
from motley_operator.api.fleetstatus import FleetStatus
from motley_operator.demand.corrections import Learning
from motley_operator.domain.actions import Action, PatchStatus
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.translation import NodeFigures, Translation
from motley_operator.status.coming import coming_status, provisioned
from motley_operator.status.conditions import Statement, conditions, shortened
from motley_operator.status.empties import without_empty_maps
from motley_operator.status.statements import accepted_words, explained
from motley_operator.status.suspects import explained as explained_suspect
from motley_planner.domain.plan import Plan

MOST_ROWS, MOST_UNKNOWN, MOST_NAMESPACES, MOST_SUSPECTS = 128, 32, 256, 64
_VOLATILE = ("objective", "bound", "gap", "solveSeconds")


def fleet_statuses(plan: Plan, translation: Translation, facts: ClusterFacts) -> tuple[Action, ...]:
    """The Fleet's new status, where there is a Fleet that is ours to tell of, and it has news."""
    if facts.fleet is None or not facts.tells_fleet:
        return ()
    metadata, old = facts.fleet["metadata"], dict(facts.fleet.get("status") or {})
    status = without_empty_maps(_status(plan, translation, facts, old))
    if _significant(status) == _significant(old):
        return ()
    place = ("Fleet", "", metadata["name"], metadata.get("uid", ""))
    return (PatchStatus(*place, status),)


def _status(
    plan: Plan, translation: Translation, facts: ClusterFacts, old: dict[str, Any]
) -> dict[str, Any]:
    assert facts.fleet is not None
    generation = int(facts.fleet["metadata"].get("generation", 0))
    try:
        before = FleetStatus.model_validate(old).conditions
    except ValueError:
        before = ()
    made = conditions(_statements(plan, translation, facts), before, generation, facts.now)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": [c.model_dump(by_alias=True, mode="json") for c in made],
        "inventory": _inventory(translation.inventory),
        "gpus": _gpus(translation.inventory),
        "dollarsPerHour": Quantity.of(plan.price_usd_per_hour, 2),
        **_by_namespace(plan),
        "unknownGpus": [
            {"product": shortened(u.product, 253), "nodes": u.nodes}
            for u in translation.unknown_gpus[:MOST_UNKNOWN]
        ],
        "nodesToAdd": [
            {
                "shape": add.shape,
                "gpu": add.gpu,
                "count": add.count,
                "dollarsPerHour": Quantity.of(add.price_usd_per_hour, 2),
                "delaySeconds": round(add.delay_hours * 3600),
            }
            for add in plan.nodes_to_add
        ],
        "corrections": _corrections(translation),
        "suspects": _suspects(translation, facts.now),
        **coming_status(plan, translation),
        "solveSeconds": round(plan.solve_seconds, 3),
    }
    figures = {"objective": plan.objective, "bound": plan.bound, "gap": plan.gap}
    return status | {name: round(v, 6) for name, v in figures.items() if v is not None}


def _statements(plan: Plan, translation: Translation, facts: ClusterFacts) -> list[Statement]:
    if translation.unmet:
        reason, words = translation.unmet[0].reason, explained(translation.unmet)
        accepted = Statement("Accepted", "False", reason, words)
        abnormal = [Statement("Stalled", "True", reason, words)]
    else:
        words = accepted_words(translation.fleet_ignored)
        accepted, abnormal = Statement("Accepted", "True", "Accepted", words), []
    if plan.status == "no_solution":
        words = "no plan in time"
        waiting = [Statement("Reconciling", "True", "Planning", words)]
        ready = Statement("Ready", "False", "SolverTimeLimit", words)
        return [accepted, ready, *(abnormal or waiting)]
    abnormal = [*provisioned(plan, translation, facts), *abnormal]
    unknown = ", ".join(f"{u.product} ({u.reason})" for u in translation.unknown_gpus)
    message = f"GPU products left out: {unknown}" if unknown else "every GPU product is known"
    return [accepted, Statement("Ready", "True", "Planned", message), *abnormal]


def _inventory(figures: tuple[NodeFigures, ...]) -> list[dict[str, Any]]:
    shapes: dict[tuple[Any, ...], list[NodeFigures]] = {}
    for node in figures:
        price = round(node.price_usd_per_hour, 2)
        at = (node.gpu, node.product, node.zone, node.capacity_type, node.gpus, price)
        shapes.setdefault(at, []).append(node)
    rows = [
        {
            "gpu": gpu,
            "gpuProduct": product,
            "zone": zone,
            "capacityType": capacity,
            "gpusPerNode": size,
            "nodes": len(nodes),
            "gpus": size * len(nodes),
            "gpusUsed": sum(node.gpus_ours for node in nodes),
            "gpusForeign": sum(node.gpus_foreign for node in nodes),
            "dollarsPerHour": Quantity.of(price, 2),
        }
        for (gpu, product, zone, capacity, size, price), nodes in sorted(shapes.items())
    ]
    return rows[:MOST_ROWS]


def _suspects(translation: Translation, now: float) -> list[str]:
    found = translation.suspicions
    told = (f"{k}: {explained_suspect(s)}" for k in found.known for s in found.in_force(k, now))
    return [shortened(text, 253) for text in sorted(set(told))[:MOST_SUSPECTS]]


def _corrections(translation: Translation) -> list[dict[str, Any]]:
    found = translation.learning
    rows = found.corrections if isinstance(found, Learning) else ()
    return [row.model_dump(by_alias=True, mode="json") for row in rows]


def _gpus(figures: tuple[NodeFigures, ...]) -> str:
    counts: dict[str, int] = {}
    for node in figures:
        counts[node.gpu] = counts.get(node.gpu, 0) + node.gpus
    return shortened(",".join(f"{n}x{gpu}" for gpu, n in sorted(counts.items())), 253)


def _by_namespace(plan: Plan) -> dict[str, Any]:
    """What the dearest namespaces cost, by name, and all others together."""
    spent: dict[str, float] = {}
    for part in plan.slices:
        namespace = part.key.split("/")[1]
        spent[namespace] = spent.get(namespace, 0.0) + part.price_usd_per_hour
    dearest = sorted(spent, key=lambda name: (-spent[name], name))
    named, others = dearest[:MOST_NAMESPACES], dearest[MOST_NAMESPACES:]
    told: dict[str, Any] = {
        "dollarsPerHourByNamespace": {name: Quantity.of(spent[name], 2) for name in sorted(named)}
    }
    if others:
        rest = Quantity.of(sum(spent[name] for name in others), 2)
        told["otherNamespaces"] = {"count": len(others), "dollarsPerHour": rest}
    return told


def _significant(status: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in status.items() if k not in _VOLATILE and v not in (None, [], {}, "")}
