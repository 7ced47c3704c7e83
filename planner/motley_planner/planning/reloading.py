"""How long a replica of each configuration takes to start, beside that of a small model."""

from __future__ import annotations

from motley_planner.candidates import Candidate
from motley_planner.costs.memory import weight_bytes
from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.snapshot import Snapshot

REFERENCE_RELOAD_HOURS = 0.1  # of which `Column.reload` is a multiple


class Reloads:
    """Multiples of the reference, by resource, stage and precision."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._move = snapshot.move_price
        self._models: dict[tuple[str, str], ModelSpec] = {}
        for demand in snapshot.demands:
            if isinstance(demand, ServingDemand):
                self._models |= {(demand.key, s.name): s.model for s in demand.stages}
            else:
                stages = ("rollout", "trainer")
                self._models |= {(demand.key, stage): demand.rollout.model for stage in stages}
        self._known: dict[tuple[str, str, str], float] = {}

    def of(self, candidate: Candidate) -> float:
        """What its start takes, in reference reloads."""
        at = (candidate.key, candidate.stage, candidate.precision)
        if at not in self._known:
            size = weight_bytes(self._models[at[:2]], candidate.precision)
            self._known[at] = self._move.reload_hours(size) / REFERENCE_RELOAD_HOURS
        return self._known[at]
