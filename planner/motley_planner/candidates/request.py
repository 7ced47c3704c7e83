"""What a stage's replicas have to do, and where they may."""

from __future__ import annotations

from dataclasses import dataclass

from motley_planner.candidates.targets import Target
from motley_planner.domain.demand import Placement, StageDemand, WorkloadClass
from motley_planner.domain.hardware import NodeClass


@dataclass(frozen=True, slots=True)
class Request:
    """What a stage's replicas have to do."""

    key: str
    role: str  # serve | rollout
    stage: StageDemand
    classes: tuple[WorkloadClass, ...]
    targets: tuple[Target, ...]
    headroom: float
    per_unit: float = 1.0  # requests that make one unit of capacity (a training step)

    @property
    def closed_loop(self) -> bool:
        """Rollouts ask for the next sample when one is done."""
        return self.role == "rollout"


def is_allowed(placement: Placement, node_class: NodeClass) -> bool:
    """Whether a placement allows a node class; an empty set allows everything."""
    rules = (
        (placement.gpus, node_class.gpu),
        (placement.zones, node_class.zone),
        (placement.capacity_types, node_class.capacity_type),
        (placement.trust_zones, node_class.trust_zone),
    )
    return all(not allowed or value in allowed for allowed, value in rules)
