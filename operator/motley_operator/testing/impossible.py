"""What no cluster may ever show."""

from __future__ import annotations

from motley_operator.domain.facts import ClusterFacts, Room
from motley_operator.domain.names import RANK, REPLICA, UNIT, key_of


class ImpossibleCluster(AssertionError):
    """Facts that no cluster could show."""


def refuse_impossible(facts: ClusterFacts) -> None:
    """Raises ImpossibleCluster where requests exceed a node, or two live pods are one rank."""
    held: dict[str, list[Room]] = {}
    ranks: dict[tuple[str, ...], str] = {}
    names: set[tuple[str, str]] = set()
    for pod in facts.pods:
        if (pod.namespace, pod.name) in names:
            raise ImpossibleCluster(f"two pods are called {pod.namespace}/{pod.name}")
        names.add((pod.namespace, pod.name))
        if pod.terminal:
            continue
        is_refused = not pod.bound and pod.reason == "Unschedulable"  # so it holds nothing
        if pod.node is not None and not is_refused:
            held.setdefault(pod.node, []).append(pod.requests)
        if UNIT in pod.annotations:
            key = key_of(pod.labels, pod.namespace)
            rank = (key, pod.labels[REPLICA], pod.labels[RANK])
            if rank in ranks:
                raise ImpossibleCluster(f"{pod.name} and {ranks[rank]} are the same rank {rank}")
            ranks[rank] = pod.name
    for node in facts.nodes:
        rooms, allocatable = held.get(node.name, []), node.allocatable
        for what in ("gpus", "cpu_milli", "memory_bytes", "ephemeral_bytes"):
            total = sum(getattr(room, what) for room in rooms)
            if total > getattr(allocatable, what):
                raise ImpossibleCluster(f"{node.name}: {total} {what} of {allocatable}")
        if len(rooms) > allocatable.pods:
            raise ImpossibleCluster(f"{node.name}: {len(rooms)} pods of {allocatable.pods}")
