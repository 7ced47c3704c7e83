"""Replicas that a plan no longer has, while they still serve."""

from __future__ import annotations

from dataclasses import dataclass

from motley_operator.domain.facts import PodFacts, Room
from motley_operator.translate.room import held, plus


@dataclass(frozen=True, slots=True)
class Leaving:
    """A ready replica that the plan no longer has."""

    key: str
    stage: str
    pods: tuple[PodFacts, ...]

    def on(self, node: str) -> Room:
        """What it holds of a node."""
        total = Room()
        for pod in self.pods:
            if pod.node == node:
                total = plus(total, held(pod))
        return total
