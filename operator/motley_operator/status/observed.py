"""What is there of one resource: its pods, counted as its status shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motley_operator import lifecycle
from motley_operator.domain.claims import is_coming
from motley_operator.domain.facts import ClusterFacts, PodFacts, ResourceFacts
from motley_operator.domain.names import (
    COLUMN,
    COMPONENT,
    GATEWAY,
    MANAGED_BY,
    OURS,
    REPLICA,
    STAGE,
    UNIT,
    key_of,
)
from motley_operator.domain.weights import Weights, fetched_weights
from motley_planner.domain.plan import Slice


@dataclass(frozen=True, slots=True)
class Observed:
    """Engine and gateway pods of a resource."""

    engines: tuple[PodFacts, ...]
    gateways: tuple[PodFacts, ...]
    weights: tuple[Weights, ...] = ()

    @property
    def gateway_ready(self) -> bool:
        """Whether a gateway answers."""
        return any(pod.ready and not pod.deleting and not pod.terminal for pod in self.gateways)

    def ready_by_stage(self) -> Mapping[str, tuple[int, int]]:
        """(replicas that are ready, replicas that are there) by stage."""
        ready = lifecycle.ready_replicas(self.engines)
        stages: dict[str, dict[str, bool]] = {}
        for pod in self.engines:
            if pod.deleting or pod.terminal:
                continue
            name = pod.labels.get(REPLICA, "")
            stages.setdefault(pod.labels.get(STAGE, ""), {})[name] = ready[name]
        return {stage: (sum(each.values()), len(each)) for stage, each in stages.items()}

    def awaiting_nodes(self) -> Mapping[str, int]:
        """Replicas with a pod whose node is to come, by stage."""
        stages: dict[str, set[str]] = {}
        for pod in self.engines:
            if is_coming(pod.node) and not pod.deleting and not pod.terminal:
                stages.setdefault(pod.labels.get(STAGE, ""), set()).add(pod.labels.get(REPLICA, ""))
        return {stage: len(names) for stage, names in stages.items()}

    def ready_by_column(self) -> Mapping[tuple[str, str], int]:
        """Replicas that are ready by stage and column."""
        ready = lifecycle.ready_replicas(self.engines)
        columns: dict[tuple[str, str], set[str]] = {}
        for pod in self.engines:
            name = pod.labels.get(REPLICA, "")
            if ready[name]:
                at = (pod.labels.get(STAGE, ""), pod.labels.get(COLUMN, ""))
                columns.setdefault(at, set()).add(name)
        return {at: len(names) for at, names in columns.items()}


def observe(facts: ClusterFacts) -> Mapping[str, Observed]:
    """Pods of every resource, by key."""
    owners = {resource.key: resource for resource in facts.resources}
    engines: dict[str, list[PodFacts]] = {}
    gateways: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        if pod.labels.get(MANAGED_BY) != OURS:
            continue
        key = key_of(pod.labels, pod.namespace)
        if key not in owners:
            continue
        if pod.labels.get(COMPONENT) == GATEWAY and UNIT not in pod.annotations:
            gateways.setdefault(key, []).append(pod)
        elif UNIT in pod.annotations and _owns(owners[key], pod):
            engines.setdefault(key, []).append(pod)
    weights = fetched_weights(facts)
    return {
        key: Observed(
            tuple(engines.get(key, ())), tuple(gateways.get(key, ())), weights.get(key, ())
        )
        for key in owners
    }


def _owns(resource: ResourceFacts, pod: PodFacts) -> bool:
    return pod.belongs_to(resource.uid)


def planned_by_stage(part: Slice | None) -> Mapping[str, int]:
    """Replicas the plan has, by stage."""
    counts: dict[str, int] = {}
    for replica in part.replicas if part is not None else ():
        counts[replica.stage] = counts.get(replica.stage, 0) + 1
    return counts


def missing(planned: Mapping[str, int], observed: Observed) -> Sequence[str]:
    """Stages that have fewer ready replicas than planned, in words."""
    ready, waits = observed.ready_by_stage(), observed.awaiting_nodes()
    return [
        f"{stage}: {ready.get(stage, (0, 0))[0]} of {count} replicas ready"
        + (f", {waits[stage]} waiting for nodes" if stage in waits else "")
        for stage, count in sorted(planned.items())
        if ready.get(stage, (0, 0))[0] < count
    ]
