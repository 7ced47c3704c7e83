"""A namespace's ResourceQuotas and LimitRanges as quotas of the planner.

Theory of operation. Every pod that a resource may get, by stage, GPU vendor and number of GPUs, is
built as far as admission looks at it, with the defaults of its namespace. What a quota counts of it
is the coefficient; what pods of others take, and gateways whether they are there yet or not, is taken
off the limit. Jobs that fetch weights are, too, for all but what waits for them. So a change of our own
replicas changes no limit. A size that admission refuses is a
quota of nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from motley_operator.admission.containers import Sized, sized
from motley_operator.admission.counting import charged, not_set, use_of
from motley_operator.admission.limitranges import filled_in, refused_by
from motley_operator.admission.resources import engine_resources, engine_spec, gateway_spec
from motley_operator.api import ModelCascade, Resource, RLJob, ServingPool
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import (
    COMPONENT,
    GATEWAY,
    MAIN_STAGE,
    MANAGED_BY,
    OURS,
    ROLLOUT,
    STAGE,
    TRAINER,
    key_of,
)
from motley_operator.domain.quotas import LimitRangeFacts, PodUse, QuotaFacts
from motley_operator.domain.weights import is_unfinished, stages_of_job
from motley_operator.translate.room import is_engine
from motley_planner.domain import quotas as planner
from motley_planner.domain.snapshot import PodNeed

GIB = 2**30
Place = tuple[str, str, str]  # resource key, stage, GPU vendor


@dataclass(slots=True)
class _Namespace:
    """One namespace's limits, and what pods of each place and number of GPUs are to them."""

    quotas: list[QuotaFacts]
    ranges: list[LimitRangeFacts]
    pods: dict[Place, list[tuple[Sized, PodUse]]] = field(default_factory=dict)
    # The same by priority class and vendor, of stages without a template: they are all alike.
    plain: dict[tuple[str, str], list[tuple[Sized, PodUse]]] = field(default_factory=dict)
    gateways: list[tuple[PodUse, int]] = field(default_factory=list)  # and how many there shall be
    # Pods of Jobs that are to fetch weights, whether they are there yet or not, and who waits for them.
    fetching: list[PodUse] = field(default_factory=list)
    waiting: set[tuple[str, str]] = field(default_factory=set)  # resource key, stage
    others: list[PodFacts] = field(default_factory=list)
    engines: list[PodFacts] = field(default_factory=list)


def namespace_quotas(
    facts: ClusterFacts,
    asking: Mapping[str, Resource],
    vendors: Iterable[str],
    need: PodNeed,
) -> tuple[planner.Quota, ...]:
    """The quotas of all namespaces with resources that ask for something; `asking` is by key."""
    namespaces = _namespaces(facts, asking)
    if not namespaces:
        return ()
    largest = max((node.allocatable.gpus for node in facts.nodes), default=0)
    sizes = (sorted(set(vendors)), max(8, largest), need)
    for key, model in asking.items():
        namespace = namespaces.get(key.split("/")[1])
        if namespace is not None:
            _add_pods(namespace, key, model, facts, sizes)
    fetching = set(_add_jobs(namespaces, facts, asking))
    for pod in facts.pods:
        namespace = namespaces.get(pod.namespace)
        if pod.owner_uid in fetching and not pod.terminal:
            continue
        if namespace is not None and not _is_planned(pod, asking):
            namespace.others.append(pod)
        elif namespace is not None and is_engine(pod):
            namespace.engines.append(pod)
    return tuple(
        quota
        for name in sorted(namespaces)
        for quota in (*_admitted(namespaces[name]), *_limits(namespaces[name]))
    )


def _namespaces(facts: ClusterFacts, asking: Iterable[str]) -> dict[str, _Namespace]:
    found: dict[str, _Namespace] = {}
    wanted = {key.split("/")[1] for key in asking}
    for quota in facts.quotas:
        if quota.namespace in wanted and quota.hard:
            found.setdefault(quota.namespace, _Namespace([], [])).quotas.append(quota)
    for limits in facts.limit_ranges:
        if limits.namespace in wanted:
            found.setdefault(limits.namespace, _Namespace([], [])).ranges.append(limits)
    return found


def _add_pods(
    namespace: _Namespace,
    key: str,
    model: Resource,
    facts: ClusterFacts,
    sizes: tuple[list[str], int, PodNeed],
) -> None:
    vendors, largest, need = sizes
    assert isinstance(model, ServingPool | ModelCascade | RLJob)
    priority = model.spec.priority_class_name or facts.default_priority_class
    for stage, template in _templates(model):
        for vendor in vendors:
            known = namespace.plain.get((priority, vendor)) if not template else None
            pods = known or [
                _admissible(
                    engine_spec(engine_resources(vendor, gpus, need), template, priority),
                    namespace.ranges,
                )
                for gpus in range(1, largest + 1)
            ]
            namespace.pods[key, stage, vendor] = pods
            if not template:
                namespace.plain[priority, vendor] = pods
    if isinstance(model, ServingPool | ModelCascade):
        _, use = _admissible(gateway_spec(priority), namespace.ranges)
        namespace.gateways.append((use, model.spec.gateway.replicas))


def _add_jobs(
    namespaces: Mapping[str, _Namespace], facts: ClusterFacts, asking: Mapping[str, Resource]
) -> Iterator[str]:
    """Notes the pods of Jobs that have weights to fetch; UIDs of the Jobs."""
    for (_, where, _), job in sorted(facts.owned.items()):
        namespace = namespaces.get(where)
        if namespace is None or not is_unfinished(job):
            continue
        key = key_of(job["metadata"].get("labels") or {}, where)
        if key in asking:
            spec = job["spec"]["template"]["spec"]
            priority = spec.get("priorityClassName") or facts.default_priority_class
            _, use = _admissible({**spec, "priorityClassName": priority}, namespace.ranges)
            namespace.fetching.append(use)
            namespace.waiting |= {(key, stage) for stage in stages_of_job(job)}
            yield job["metadata"]["uid"]


def _admissible(spec: Mapping[str, Any], ranges: list[LimitRangeFacts]) -> tuple[Sized, PodUse]:
    pod = filled_in(sized(spec), ranges)
    return pod, use_of(pod, spec)


def _templates(
    model: ServingPool | ModelCascade | RLJob,
) -> tuple[tuple[str, Mapping[str, Any] | None], ...]:
    if isinstance(model, ServingPool):
        return ((MAIN_STAGE, model.spec.pod_template),)
    if isinstance(model, ModelCascade):
        return tuple((stage.name, stage.pod_template) for stage in model.spec.stages)
    spec = model.spec
    return ((ROLLOUT, spec.rollout.pod_template), (TRAINER, spec.trainer.pod_template))


def _is_planned(pod: PodFacts, asking: Mapping[str, Resource]) -> bool:
    """A replica's pod, or a gateway's, of a resource that asks for something."""
    if pod.labels.get(MANAGED_BY) != OURS or key_of(pod.labels, pod.namespace) not in asking:
        return False
    return is_engine(pod) or pod.labels.get(COMPONENT) == GATEWAY


def _limits(namespace: _Namespace) -> Iterator[planner.Quota]:
    """Quotas of the planner for each resource of each ResourceQuota that our pods take of.

    Where weights are fetched there are two. What waits for them comes when the Jobs' pods are gone, and
    has what these take; all others leave them room.
    """
    for quota in namespace.quotas:
        tables = {
            place: [charged(quota, use) for _, use in pods]
            for place, pods in namespace.pods.items()
        }
        taken = _taken(quota, namespace.others)
        for use, replicas in namespace.gateways:
            _count(taken, charged(quota, use), replicas)
        yield from _rows(quota, tables, taken, _taken(quota, namespace.engines))
        if not namespace.fetching:
            continue
        for use in namespace.fetching:
            _count(taken, charged(quota, use), 1)
        waiting = [pod for pod in namespace.engines if _stage_of(pod) in namespace.waiting]
        _count(taken, _taken(quota, waiting), 1)
        there = [pod for pod in namespace.engines if _stage_of(pod) not in namespace.waiting]
        others = {at: table for at, table in tables.items() if at[:2] not in namespace.waiting}
        yield from _rows(quota, others, taken, _taken(quota, there), " beside downloads of weights")


def _rows(
    quota: QuotaFacts,
    tables: Mapping[Place, list[dict[str, int]]],
    taken: Mapping[str, int],
    ours: Mapping[str, int],
    beside: str = "",
) -> Iterator[planner.Quota]:
    for resource, hard in quota.hard.items():
        uses = _uses({p: [t.get(resource, 0) for t in table] for p, table in tables.items()})
        if uses:
            unit, suffix = _unit(resource)
            at_most = max(0, hard - taken.get(resource, 0))
            yield planner.Quota(
                name=f"ResourceQuota {quota.namespace}/{quota.name}: {resource}{beside}",
                uses=uses,
                at_most=at_most,
                hard=hard,
                unit=unit,
                suffix=suffix,
                over=max(0, ours.get(resource, 0) - at_most),
            )


def _taken(quota: QuotaFacts, pods: Iterable[PodFacts]) -> dict[str, int]:
    """What pods take of a quota."""
    total: dict[str, int] = {}
    for pod in pods:
        if pod.use is not None:
            _count(total, charged(quota, pod.use, pod.terminal), 1)
    return total


def _stage_of(pod: PodFacts) -> tuple[str, str]:
    return key_of(pod.labels, pod.namespace), pod.labels.get(STAGE, "")


def _count(taken: dict[str, int], amounts: Mapping[str, int], times: int) -> None:
    for name, amount in amounts.items():
        taken[name] = taken.get(name, 0) + times * amount


def _admitted(namespace: _Namespace) -> Iterator[planner.Quota]:
    """A quota of nothing for each rule that refuses pods of some sizes."""
    refused: dict[str, dict[Place, list[int]]] = {}
    for place, pods in namespace.pods.items():
        for at, (pod, use) in enumerate(pods):
            rule = refused_by(pod, namespace.ranges) or _unset(namespace.quotas, pod, use)
            if rule is not None:
                row = refused.setdefault(rule, {}).setdefault(place, [0] * len(pods))
                row[at] = 1
    lift = "change that rule, or the resources in podTemplate"
    for rule, rows in sorted(refused.items()):
        yield planner.Quota(rule, _uses(rows), 0, 0, reason="PodNotAdmitted", lift=lift)


def _unset(quotas: Iterable[QuotaFacts], pod: Sized, use: PodUse) -> str | None:
    for quota in quotas:
        name = not_set(quota, pod, use)
        if name is not None:
            where = f"ResourceQuota {quota.namespace}/{quota.name}"
            return f"{where}: every container must set {name}, and one does not"
    return None


def _uses(rows: Mapping[Place, list[int]]) -> tuple[planner.PodUse, ...]:
    return tuple(
        planner.PodUse(*place, amounts=tuple(row))
        for place, row in sorted(rows.items())
        if any(row)
    )


def _unit(resource: str) -> tuple[int, str]:
    """How people write amounts of a resource of a quota."""
    if resource.rpartition(".")[2] == "cpu":
        return 1000, ""
    if resource.rpartition(".")[2] in ("memory", "ephemeral-storage"):
        return GIB, "Gi"
    return 1, ""
