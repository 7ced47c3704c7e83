"""Room on nodes: what is allocatable less what pods request, in every unit that can run out.

Theory of operation. A pod holds its requests from the moment it is bound or pinned to a node until
it is gone or has finished; one that is being deleted still holds them. The planner is told the
room left by everything that is not an engine pod of ours: foreign pods and gateways. `changes` is
told the room left by every pod there is, and creates nothing that would not fit at that very
moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from motley_operator.api import FleetSpec
from motley_operator.domain.facts import ClusterFacts, PodFacts, Room
from motley_operator.domain.names import MANAGED_BY, OURS, UNIT
from motley_planner.domain.snapshot import PodNeed


def plus(a: Room, b: Room) -> Room:
    """Both together."""
    return Room(
        a.gpus + b.gpus,
        a.cpu_milli + b.cpu_milli,
        a.memory_bytes + b.memory_bytes,
        a.ephemeral_bytes + b.ephemeral_bytes,
        a.pods + b.pods,
    )


def minus(a: Room, b: Room) -> Room:
    """What `b` leaves of `a`; negative where a node is overcommitted."""
    return Room(
        a.gpus - b.gpus,
        a.cpu_milli - b.cpu_milli,
        a.memory_bytes - b.memory_bytes,
        a.ephemeral_bytes - b.ephemeral_bytes,
        a.pods - b.pods,
    )


def not_below_zero(room: Room) -> Room:
    """The room, with nothing where a node is overcommitted."""
    return Room(
        max(0, room.gpus),
        max(0, room.cpu_milli),
        max(0, room.memory_bytes),
        max(0, room.ephemeral_bytes),
        max(0, room.pods),
    )


def pod_need(fleet: FleetSpec) -> PodNeed:
    """What engine pods request for each GPU, as the Fleet says."""
    asked = fleet.engine_requests
    return PodNeed(round(1000 * asked.cpu_per_gpu.value), math.ceil(asked.memory_per_gpu.value))


def fits(need: Room, room: Room) -> bool:
    """Whether `need` fits; an amount of zero always does, as for the scheduler."""
    return all(
        wanted <= 0 or wanted <= left
        for wanted, left in (
            (need.gpus, room.gpus),
            (need.cpu_milli, room.cpu_milli),
            (need.memory_bytes, room.memory_bytes),
            (need.ephemeral_bytes, room.ephemeral_bytes),
            (need.pods, room.pods),
        )
    )


def held(pod: PodFacts) -> Room:
    """What one pod holds of its node: its requests and one place among the node's pods."""
    if pod.terminal:
        return Room()
    return plus(pod.requests, Room(pods=1 - pod.requests.pods))


def is_engine(pod: PodFacts) -> bool:
    """A pod that Motley made for a replica (gateways are not planned, so they are foreign here)."""
    return pod.labels.get(MANAGED_BY) == OURS and UNIT in pod.annotations


def room_left(facts: ClusterFacts, given_back: frozenset[str] = frozenset()) -> Mapping[str, Room]:
    """Room on each node after all pods but those with the UIDs of `given_back`."""
    left = {node.name: node.allocatable for node in facts.nodes}
    for pod in _standing(facts.pods):
        if pod.node in left and pod.uid not in given_back:
            left[pod.node] = minus(left[pod.node], held(pod))
    return left


def _standing(pods: Iterable[PodFacts]) -> Iterable[PodFacts]:
    return (pod for pod in pods if pod.node is not None and not pod.terminal)
