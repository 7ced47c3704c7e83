"""Which resources hold still, altogether or for a while, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from motley_operator.api import FleetSpec, ModelCascade, Resource, RLJob, ServingPool
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import PAUSED
from motley_operator.domain.standing import Standing
from motley_operator.translate.running import Running

_NOTHING = Standing("")


@dataclass(frozen=True, slots=True)
class Held:
    """The resources that ask for something, and what people said about changing them."""

    facts: ClusterFacts
    asking: Mapping[str, Resource]  # by key
    fleet: FleetSpec

    def mode(self, key: str) -> str:
        """When a new plan of the resource may be applied: Auto, Preview or Disabled."""
        model = self.asking[key]
        assert isinstance(model, ServingPool | ModelCascade | RLJob)
        return model.spec.replan.mode or self.fleet.replan.mode

    def frozen(self, running: Running, standing: Mapping[str, Standing]) -> dict[str, str]:
        """Resources that keep exactly what they have, and why.

        Disabled lets the first plan through: it freezes once its plan is recorded, or where all that
        its status promises runs. Preview freezes always.
        """
        annotations = {resource.key: resource.annotations for resource in self.facts.resources}
        running_by_key = Counter(unit.key for unit in running.units)
        frozen = {}
        for key, model in self.asking.items():
            assert isinstance(model, ServingPool | ModelCascade | RLJob)
            mode, stands = self.mode(key), standing.get(key, _NOTHING)
            plan = model.status.plan
            planned = plan.replicas if plan is not None else 0
            runs = running_by_key[key]
            # A record that somebody else wrote counts as one: what runs is held, and recorded anew.
            recorded = stands.record is not None or stands.unknown or (stands.changed and runs)
            if annotations[key].get(PAUSED) == "true":
                frozen[key] = "Paused"
            elif mode == "Preview":
                frozen[key] = "PreviewHolds"
            elif mode == "Disabled" and (recorded or 0 < planned <= runs):
                frozen[key] = "ReplanDisabled"
        return frozen

    def improvements(self) -> dict[str, float]:
        """What resources that say so themselves ask a change of their replicas to save."""
        found = {}
        for key, model in self.asking.items():
            assert isinstance(model, ServingPool | ModelCascade | RLJob)
            if model.spec.replan.min_improvement is not None:
                found[key] = model.spec.replan.min_improvement.fraction
        return found

    def cooling(self) -> frozenset[str]:
        """Resources of which a replica was stopped, or a lost one replaced, within their cooldown.

        What only added replicas starts no cooldown. The time is in the status, so a restart forgets
        nothing, and it outlives later changes that start none.
        """
        return frozenset(key for key, model in self.asking.items() if self._cools(model))

    def moved_lately(self) -> dict[str, int]:
        """Replicas that were stopped for money within the Fleet's cooldown, by resource."""
        window_s, found = self.fleet.replan.cooldown.seconds, {}
        for key, model in self.asking.items():
            assert isinstance(model, ServingPool | ModelCascade | RLJob)
            last = model.status.last_replan
            if last is not None and last.saved_at and self._is_within(last.saved_at, window_s):
                found[key] = last.saved_stops or 0
        return found

    def _cools(self, model: Resource) -> bool:
        assert isinstance(model, ServingPool | ModelCascade | RLJob)
        last = model.status.last_replan
        cooldown = model.spec.replan.cooldown or self.fleet.replan.cooldown
        if last is None:
            return False
        moved_at = last.moved_at or (last.time if last.stopped else None)
        return moved_at is not None and self._is_within(moved_at, cooldown.seconds)

    def _is_within(self, time: str, seconds: float) -> bool:
        """Whether a time of a status is less than so long ago."""
        try:
            since = datetime.fromisoformat(time).timestamp()
        except ValueError:
            return False
        return self.facts.now - since < seconds
