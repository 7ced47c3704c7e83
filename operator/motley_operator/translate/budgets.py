"""Budgets of the Fleet and of resources that hold while replicas are replaced, and prices of nodes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from motley_operator.api import FleetSpec, ModelCascade, RLJob, ServingPool
from motley_operator.api.common import Budget
from motley_operator.domain.budgets import NO_BUDGETS, Amount, Budgets, Limit
from motley_operator.domain.facts import ClusterFacts, NodeFacts, PodFacts
from motley_operator.domain.names import key_of
from motley_operator.translate.nodes import Site, capacity_type, gpu_price
from motley_operator.translate.room import is_engine
from motley_planner.domain.hardware import Catalog, Gpu
from motley_planner.domain.snapshot import Shape

EXCEED = "Exceed"


def budgets_in_transition(
    facts: ClusterFacts,
    fleet: FleetSpec,
    catalog: Catalog,
    asking: Mapping[str, object],
    there: tuple[Sequence[Site], Sequence[Shape]],
) -> Budgets:
    """The limits of the Fleet and of the resources in `asking`, each where it is to be kept."""
    stated = [("", fleet.budget)]
    for key, model in asking.items():
        if isinstance(model, ServingPool | ModelCascade | RLJob):
            stated.append((key, model.spec.budget))
    if not any(budget is not None for _, budget in stated):
        return NO_BUDGETS
    limits = tuple(
        Limit(key, _most(budget))
        for key, budget in stated
        if budget is not None and budget.in_transition != EXCEED
    )
    sites, shapes = there
    return Budgets(
        limits,
        by_node=node_prices(facts, fleet, catalog, sites),
        by_shape={shape.name: shape.node_class.price_usd_per_gpu_hour for shape in shapes},
        by_gpu={name: gpu.price_usd_per_hour for name, gpu in catalog.gpus.items()},
    )


def left_to_plan(
    facts: ClusterFacts, fleet: FleetSpec, budgets: Budgets, unplanned: Collection[str]
) -> tuple[float | None, int | None]:
    """USD/h and GPUs of the Fleet's budget, less what resources that no plan has go on with."""
    if fleet.budget is None:
        return None, None
    pods = (p for p in live_pods(facts) if key_of(p.labels, p.namespace) in unplanned)
    held = sum((amount_of(pod, budgets) for pod in pods), Amount())
    left = _most(fleet.budget) - held
    return (
        None if left.usd_per_hour == math.inf else max(0.0, left.usd_per_hour),
        None if left.gpus == math.inf else max(0, int(left.gpus)),
    )


def live_pods(facts: ClusterFacts) -> list[PodFacts]:
    """Engine pods that are paid for: of resources that are there or just deleted, and not lost.

    What an orphaning deletion leaves is nobody's, and what is ending on a node that does not answer has no
    kubelet that could confirm its end.
    """
    ready = {node.name: node.ready for node in facts.nodes}
    there = {resource.key for resource in facts.resources}
    found = []
    for pod in facts.pods:
        if pod.terminal or not is_engine(pod):
            continue
        lost = pod.bound and not ready.get(pod.node or "", False)
        gone = pod.bound and pod.node not in ready
        nobodys = pod.owner_uid is None and key_of(pod.labels, pod.namespace) not in there
        if not (nobodys or gone or (lost and pod.deleting)):
            found.append(pod)
    return found


def amount_of(pod: PodFacts, budgets: Budgets) -> Amount:
    """What a live pod takes."""
    return budgets.of_pod(pod.node, pod.requests.gpus, pod.labels, pod.annotations)


def node_prices(
    facts: ClusterFacts, fleet: FleetSpec, catalog: Catalog, sites: Sequence[Site]
) -> dict[str, float]:
    """USD per GPU and hour of each node with a known GPU, also of those that are leaving or lost."""
    prices = {site.facts.name: site.node_class.price_usd_per_gpu_hour for site in sites}
    for node in facts.nodes:
        if node.name not in prices and (gpu := _known(node, catalog)) is not None:
            prices[node.name] = gpu_price(node, gpu, capacity_type(node.labels), fleet)
    return prices


def _known(node: NodeFacts, catalog: Catalog) -> Gpu | None:
    found = catalog.gpu_by_label(node.gpu_label) if node.gpu_label else None
    return found if isinstance(found, Gpu) else None


def _most(budget: Budget) -> Amount:
    dollars, gpus = budget.dollars_per_hour, budget.gpus
    return Amount(
        math.inf if dollars is None else dollars.usd, math.inf if gpus is None else float(gpus)
    )
